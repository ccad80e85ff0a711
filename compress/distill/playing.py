"""A distillation method with settings and players of its own: those of generators and of diffusion models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, fx, nn

from compress.errors import RecipeError
from compress.tasks import Task
from compress.train import OptimizerSettings, Player

STRICT = ConfigDict(extra="forbid")


class Playing:
    """What the pipeline asks of such a method; made as `Method(teacher, student, example_inputs, options, task)`.

    `Options` is a frozen dataclass that a recipe's `distill.options` fills. `extra` holds the modules that are trained
    or kept with the student and dropped after it; what a method must find again after an interruption lives there.
    """

    Options: ClassVar[type[Any]]
    extra: nn.Module | None = None
    adversary: Any = None
    progress: float = 0.0
    """Share of the training that is done, by whole epochs."""

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        options: Any,
        task: Task,
    ) -> None:
        raise NotImplementedError

    @classmethod
    def options_from(cls, values: Mapping[str, Any]) -> Any:
        """The method's settings from a recipe's `distill.options`.

        Raises:
            RecipeError: names the first key at fault.
        """
        try:
            return TypeAdapter(cls.Options).validate_python(_with_defaults(cls.Options(), values))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            holder: Any = cls.Options()
            for part in first["loc"][:-1] if first["type"] == "unexpected_keyword_argument" else ():
                holder = getattr(holder, str(part))
            known = ", ".join(each.name for each in fields(holder))
            reason = f"unknown key; known: {known}" if first["type"] == "unexpected_keyword_argument" else first["msg"]
            raise RecipeError(f"distill.options.{place}: {reason}") from error

    def view(self, batch: Any, generator: torch.Generator) -> Any:
        """The batch as all players see it."""
        return batch

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The student's player, called "student", and those that the method brings along, in order of play."""
        raise NotImplementedError

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch."""
        self.progress = epoch / max(1, epochs)

    def finish(self, student: nn.Module) -> None:
        """Called once after the training: what a method put into the student to train it goes, in place."""


def _with_defaults(defaults: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe over a method's own defaults, inside nested settings too."""
    merged = {name: getattr(defaults, name) for name in asdict(defaults)}
    for name, value in values.items():
        known = merged.get(name)
        nested = isinstance(value, Mapping) and hasattr(known, "__dataclass_fields__")
        merged[name] = {**_plain(known), **value} if nested else value
    return merged


def _plain(settings: Any) -> dict[str, Any]:
    return {each.name: getattr(settings, each.name) for each in fields(settings)}
