"""The JSON Schema of a recipe, steps included: for editors that check and complete YAML."""

from __future__ import annotations

from typing import Any

from compress.recipe import STEPS, Recipe


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) that every legal recipe meets; the order of steps is checked by the loader alone."""
    whole = Recipe.model_json_schema()
    definitions = whole.setdefault("$defs", {})
    definitions.pop("Step", None)
    forms: list[dict[str, Any]] = [{"enum": list(STEPS), "description": "a verb by itself takes its defaults"}]
    for verb, model in STEPS.items():
        part = model.model_json_schema()
        definitions |= part.pop("$defs", {})
        definitions[model.__name__] = part
        settings = {"anyOf": [{"$ref": f"#/$defs/{model.__name__}"}, {"type": "null"}]}
        forms.append(
            {"type": "object", "properties": {verb: settings}, "required": [verb], "additionalProperties": False}
        )
    whole["properties"]["steps"] = {
        "type": "array",
        "items": {"oneOf": forms},
        "description": "what is done, in this order",
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole, "title": "compress recipe"}
