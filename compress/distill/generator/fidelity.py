"""Fidelity or realism by one number, chosen after the training.

"Fidelity-Controllable Extreme Image Compression with Generative Adversarial Networks" (Iwai et al., 2020).

The first stage is a network trained for fidelity (any other training here). The second freezes its encoder and
fine-tunes the rest with a discriminator and a perceptual loss. What is shipped is theta = (1 - a) theta_1 + a theta_2,
with `a` chosen afterwards: what the encoder gives, a code or a bit stream, is the same for every a.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from torch import Tensor, fx, nn

from compress.distill.generator.base import GeneratorMethod, Options, Terms
from compress.errors import ModelError, RecipeError
from compress.tasks import Task
from compress.train import OptimizerSettings, Player


@dataclass(frozen=True)
class FidelityOptions(Options):
    """The second stage: near the real picture as people see it, and as a discriminator does."""

    teacher: Terms = field(default_factory=Terms)
    target: Terms = field(default_factory=lambda: Terms(pixel=1.0, perceptual=1.0))
    """Needs a task with real outputs and a perceptual network; without the latter, `target: {perceptual: 0}`."""
    gan: float = 0.1
    frozen: tuple[str, ...] = ("encoder.*",)
    """Patterns of the paths of layers that stay as they are."""


class Fidelity(GeneratorMethod):
    """The second stage of two: what `frozen` names keeps its weights and its norms' statistics.

    Raises:
        RecipeError: a pattern fits no layer of the student.
    """

    Options = FidelityOptions
    options: FidelityOptions

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        options: FidelityOptions,
        task: Task,
    ) -> None:
        super().__init__(teacher, student, example_inputs, options, task)
        self.fixed = [student.get_submodule(path) for path in matched(student, options.frozen)]

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The players of all methods; the frozen layers are no longer trained."""
        for layer in self.fixed:
            layer.requires_grad_(False)
        return super().players(learner, optimizer)

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The terms of all methods; the frozen norms do not take part in the training mode."""
        for layer in self.fixed:
            layer.eval()
        return super().loss(learner, batch)


def matched(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The paths of the layers that hold weights or statistics and fit one of the patterns.

    Raises:
        RecipeError: a pattern fits none.
    """
    paths = [path for path, module in model.named_modules() if {*module._parameters, *module._buffers} and path]
    for pattern in patterns:
        if not any(fnmatch(path, pattern) for path in paths):
            raise RecipeError(f"distill.options.frozen: no layer fits '{pattern}'; the student has {', '.join(paths)}")
    return [path for path in paths if any(fnmatch(path, pattern) for pattern in patterns)]


def interpolate(first: Mapping[str, Tensor], second: Mapping[str, Tensor], a: float) -> dict[str, Tensor]:
    """The state (1 - a) first + a second, for a in [0, 1]; counters are the first's.

    The mean of two BatchNorms' statistics is not the statistic of the network between: where norms were trained in the
    second stage, measure them anew (`compress.train.norms.recalibrate_norms`).

    Raises:
        ModelError: the states are not of one network.
        RecipeError: a is outside [0, 1].
    """
    if not 0 <= a <= 1:
        raise RecipeError(f"the states are mixed by a share of {a:g}; it has to be within 0 and 1")
    different = [k for k in {*first, *second} if k not in first or k not in second or first[k].shape != second[k].shape]
    if different:
        raise ModelError(f"the two states are not of one network: they differ in {', '.join(sorted(different))}")
    return {
        key: value.lerp(second[key].to(value), a) if value.is_floating_point() else value.clone()
        for key, value in first.items()
    }
