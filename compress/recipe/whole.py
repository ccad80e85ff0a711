"""The whole recipe: its keys, and which orders of steps make sense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from compress.recipe.near import near
from compress.recipe.sections import STEPS, Budget, Entry, Section, Student, Teacher, Train
from compress.types import Scheme


class Step(BaseModel):
    """One step of the recipe: its verb and its settings."""

    model_config = ConfigDict(frozen=True)
    verb: str
    settings: Any

    @property
    def title(self) -> str:
        """The verb, for messages."""
        return self.verb


class Recipe(Section):
    """The whole job."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    teacher: Teacher
    student: Student | None = Field(None, description="another network to start from; default: the teacher's own")
    task: Entry
    data: dict[str, Any] = Field(default_factory=dict, description="arguments of the task entry, e.g. path")
    target: str = "host"
    unit: str = "cpu"
    budget: Budget = Budget()
    seed: int = Field(0, ge=0)
    train: Train = Train()
    steps: tuple[Step, ...] = ()

    @field_validator("steps", mode="before")
    @classmethod
    def _one_verb_each(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ValueError("must be a list of steps, such as - prune: {ratio: auto}")
        steps = []
        for item in value:
            if isinstance(item, Step):
                steps.append(item)
                continue
            if isinstance(item, str):
                item = {item: {}}
            if not isinstance(item, dict) or len(item) != 1:
                raise ValueError(
                    f"each step is one verb with its settings, such as - prune: {{ratio: auto}}; got {item}"
                )
            ((verb, settings),) = item.items()
            if verb not in STEPS:
                raise ValueError(f"unknown step '{verb}'{near(str(verb), STEPS)}")
            steps.append(Step(verb=verb, settings=STEPS[verb].model_validate(settings or {})))
        return tuple(steps)

    @model_validator(mode="after")
    def _order(self) -> Recipe:
        check_order([step.verb for step in self.steps])
        for step in self.steps:
            asked = (step.settings.schemes or ()) if step.verb == "export" else ()
            other = next((scheme for scheme in asked if scheme not in ("float32", self.scheme)), None)
            if other is not None:
                raise ValueError(f"export.schemes asks for {other}, which no step makes; set quantize.scheme to it")
        return self

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, every default written out; it reads back as the same recipe."""
        record = self.model_dump(mode="json", exclude={"steps"})
        record["steps"] = [{step.verb: step.settings.model_dump(mode="json")} for step in self.steps]
        return record

    @property
    def scheme(self) -> Scheme:
        """The scheme the student ends in."""
        for step in self.steps:
            if step.verb == "quantize":
                return step.settings.scheme  # type: ignore[no-any-return]
        return "float32"


def check_order(verbs: Sequence[str]) -> None:
    """Refuse an order of steps that cannot work, with the reason.

    Raises:
        ValueError: names the two steps and why.
    """
    changing = ("search", "rewrite", "prune", "distill", "quantize", "solver")
    seen: list[str] = []
    for verb in verbs:
        if verb in changing and "export" in seen:
            raise ValueError(
                f"{verb} after export would change a model whose files are already written; move it before"
            )
        if verb in ("search", "rewrite", "prune") and "quantize" in seen:
            raise ValueError(f"{verb} after quantize cannot work: the ranges belong to the channels; move it before")
        if verb == "distill" and "quantize" in seen:
            raise ValueError("distill after quantize would undo the ranges; use quantize.qat_epochs, or move it before")
        if verb == "quantize" and "quantize" in seen:
            raise ValueError("quantize can stand in a recipe once")
        if verb in ("verify", "profile") and "export" not in seen:
            raise ValueError(f"{verb} needs the files that export writes; put export before it")
        if verb in ("search", "rewrite", "prune", "distill", "quantize") and "solver" in seen:
            raise ValueError(f"{verb} after solver would change the network that its numbers are for; move it before")
        if verb in ("export", "verify", "profile", "search", "solver") and verb in seen:
            raise ValueError(f"{verb} can stand in a recipe once")
        seen.append(verb)
