"""From YAML and `--set` overrides to a checked recipe; errors name file, line, key and the nearest legal name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from compress.errors import RecipeError
from compress.recipe.near import near
from compress.recipe.sections import STEPS
from compress.recipe.whole import Recipe


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file with `key=value` overrides applied (dots go inward, steps by verb: distill.epochs=5).

    Raises:
        RecipeError: names file, line, key and the nearest legal names.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe ({error.strerror or error})") from error
    try:
        record = yaml.safe_load(text)
        tree = yaml.compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(record, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys; `compress init` writes one to start from")
    for override in overrides:
        apply_override(record, override)
    return make_recipe(record, str(path), tree)


def make_recipe(record: Mapping[str, Any], source: str = "recipe", tree: Any = None) -> Recipe:
    """The recipe from plain data; errors name `source`.

    Raises:
        RecipeError: names source, line (where the YAML tree is given), key and the nearest legal names.
    """
    try:
        _check_steps(record)
        return Recipe.model_validate(record)
    except ValidationError as error:
        raise RecipeError(_explain(error, source, tree)) from error
    except _StepError as error:
        raise RecipeError(_explain(error.error, source, tree, error.prefix)) from error


class _StepError(Exception):
    """A step's own validation error with its place in the recipe."""

    def __init__(self, error: ValidationError, prefix: tuple[Any, ...]) -> None:
        super().__init__(str(error))
        self.error, self.prefix = error, prefix


def _check_steps(record: Mapping[str, Any]) -> None:
    """Validate each step by itself first, so that an error can name its key and line."""
    steps = record.get("steps") or []
    for index, item in enumerate(steps if isinstance(steps, list) else []):
        if isinstance(item, dict) and len(item) == 1:
            ((verb, settings),) = item.items()
            if verb in STEPS:
                try:
                    STEPS[verb].model_validate(settings or {})
                except ValidationError as error:
                    raise _StepError(error, ("steps", index, verb)) from error


def apply_override(record: dict[str, Any], override: str) -> None:
    """Set one `key=value` in a recipe's plain data, in place.

    Raises:
        RecipeError: it is not key=value, or names a step the recipe does not have.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"--set {override}: expected key=value, such as distill.epochs=5")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {key}: the value is not valid YAML") from error
    *parents, leaf = key.split(".")
    place: Any = record
    if parents and parents[0] in STEPS and parents[0] not in record:
        verb, parents = parents[0], parents[1:]
        found = [s for s in record.get("steps", []) if s == verb or (isinstance(s, dict) and verb in s)]
        if not found:
            raise RecipeError(f"--set {key}: the recipe has no {verb} step")
        for step in found:  # a repeated step is set everywhere
            if isinstance(step, str):
                record["steps"][record["steps"].index(step)] = step = {verb: {}}
            step[verb] = step[verb] or {}
            _set_inside(step[verb], parents, leaf, value, key)
        return
    _set_inside(place, parents, leaf, value, key)


def _set_inside(place: Any, parents: Sequence[str], leaf: str, value: Any, key: str) -> None:
    for parent in parents:
        inner = place.get(parent)
        if inner is None:
            inner = place[parent] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {key}: '{parent}' holds a value, not keys")
        place = inner
    place[leaf] = value


def _explain(error: ValidationError, source: str, tree: Any, prefix: tuple[Any, ...] = ()) -> str:
    """The first validation error as one line: source, line, key, reason and the nearest legal names."""
    # A misspelt key shows up twice, as unknown and as missing; the unknown one tells what to mend.
    found = error.errors()
    unknown = [fault for fault in found if fault["type"] == "extra_forbidden"]
    first = unknown[0] if unknown and found[0]["type"] == "missing" else found[0]
    place = (*prefix, *first["loc"])
    line = _line_of(tree, place)
    key = ".".join(str(p) for p in place) or "recipe"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown key{near(str(place[-1]), _fields_at(place[:-1]))}"
    elif first["type"] == "missing":
        message = "this key is missing"
    elif first["type"] == "literal_error":
        message = f"{first['input']!r} is not one of {first['ctx']['expected']}"
        message += near(
            str(first["input"]), first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        )
    elif not message.startswith(("each step", "unknown step")):
        message = f"{message} (got {first['input']!r})" if not isinstance(first["input"], (dict, list)) else message
    return f"{source}{f':{line}' if line else ''}: {key}: {message}"


def _fields_at(place: Sequence[Any]) -> list[str]:
    model: Any = Recipe
    parts = list(place)
    if parts and parts[0] == "steps":
        model, parts = STEPS.get(str(parts[2]), Recipe) if len(parts) > 2 else Recipe, parts[3:]
    for part in parts:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), model)
    return list(model.model_fields)


def _line_of(tree: Any, place: Sequence[Any]) -> int | None:
    """The line of the deepest part of `place` that stands in the YAML tree."""
    line = None
    for part in place:
        if isinstance(tree, yaml.MappingNode):
            match = next(((k, v) for k, v in tree.value if k.value == part), None)
            if match is None:
                break
            line, tree = match[0].start_mark.line + 1, match[1]
        elif isinstance(tree, yaml.SequenceNode) and isinstance(part, int) and part < len(tree.value):
            tree = tree.value[part]
            line = tree.start_mark.line + 1
        else:
            break
    return line
