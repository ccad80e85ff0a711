"""DCD: the teacher's discriminator is the measure of features.

"Discriminator-Cooperated Feature Map Distillation for GAN Compression" (Hu et al., CVPR 2023).

Features of student and teacher become pictures, each through a connector of its own, and the discriminator says how far
apart these are: L_DCD = sum_l ||D_k(phi_S(F_S^l)) - D_k(phi_T(F_T^l))||_1. Beside it the student copies the teacher's
picture in a perceptual network's features and their Gram matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.adversarial import Discriminator, frozen
from compress.distill.generator.base import Terms
from compress.distill.generator.online import Online, OnlineOptions
from compress.distill.generator.taps import Features, chosen_taps
from compress.errors import ModelError, RecipeError
from compress.tasks import Task


@dataclass(frozen=True)
class DcdOptions(OnlineOptions):
    """The paper's settings. Its style weight, 10,000, is for Gram matrices divided by the channels as well."""

    teacher: Terms = field(default_factory=lambda: Terms(perceptual=10.0, style=50.0))
    """Needs a task with a perceptual network; without one, `teacher: {pixel: 1, perceptual: 0, style: 0}`."""
    dcd: float = 1.0
    """Weight of L_DCD, at `taps`."""
    judged: tuple[int, ...] = (1,)
    """Layers of the discriminator whose outputs are compared, counted from 0."""
    teacher_mode: Literal["frozen", "online"] = "frozen"
    """online: a copy of the teacher goes on learning; the paper's starts from scratch: hand in an untrained one."""


class Dcd(Online):
    """Online's players, and L_DCD. The student's own adversarial loss is off unless `gan` gives it a weight."""

    Options = DcdOptions
    options: DcdOptions

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        options: DcdOptions,
        task: Task,
    ) -> None:
        super().__init__(teacher, student, example_inputs, options, task, learning=options.teacher_mode == "online")
        self.points = chosen_taps(teacher, student, options.taps)
        assert self.adversary is not None
        depth = min(len(tower) for tower in self.adversary.discriminator.towers)  # type: ignore[arg-type]
        if not options.judged or not all(0 <= number < depth for number in options.judged):
            raise RecipeError(
                f"distill.options.judged: the discriminator has layers 0 to {depth - 1}; name some of them"
            )
        self.extra = self.with_connectors(teacher, student, example_inputs)

    def with_connectors(
        self, teacher: nn.Module, student: nn.Module, example_inputs: Sequence[Tensor]
    ) -> nn.ModuleDict:
        """The modules to train beside the student, phi of either side among them; notes where they stand."""
        theirs, ours = Features(teacher, self.points), Features(student, self.points)
        with torch.no_grad():
            output = theirs(*example_inputs)
            ours(*example_inputs)
        self.shape = output.shape[1:]
        self.points = [tap for tap in self.points if theirs.caught[tap].dim() == output.dim()]
        if not self.points:
            raise ModelError("distill.options.taps: none of these layers gives a map that could become a picture")
        made: dict[str, nn.Module] = dict(self.extra.items()) if isinstance(self.extra, nn.ModuleDict) else {}
        for name, features in (("phi_student", ours), ("phi_teacher", theirs)):
            made[name] = nn.ModuleList(connector(features.caught[tap], self.shape[0]) for tap in self.points)
        return nn.ModuleDict(made)

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The terms of the picture, and L_DCD on the features of the same runs."""
        with Features(self.teacher, self.points) as theirs, Features(learner.student, self.points) as ours:  # type: ignore[arg-type]
            terms = super().loss(learner, batch)
        terms["dcd"] = self.options.dcd * self.cooperated(ours.caught, theirs.caught, learner.extra)
        return terms

    def cooperated(self, ours: dict[str, Tensor], theirs: dict[str, Tensor], connectors: Any) -> Tensor:
        """L_DCD; its gradient reaches the student and the connectors, never discriminator or teacher."""
        assert self.adversary is not None
        discriminator = self.adversary.discriminator
        distances = []
        with frozen(discriminator):
            for tap, phi_s, phi_t in zip(
                self.points, connectors["phi_student"], connectors["phi_teacher"], strict=True
            ):
                student = self.seen(discriminator, phi_s(ours[tap]))
                teacher = self.seen(discriminator, phi_t(theirs[tap].detach()))
                distances += [F.l1_loss(s, t) for s, t in zip(student, teacher, strict=True)]
        return torch.stack(distances).sum()

    def seen(self, discriminator: Discriminator, picture: Tensor) -> list[Tensor]:
        """What the judged layers make of a picture, at the size of an output: the only one they have learned."""
        x = F.interpolate(picture, size=self.shape[1:])
        found = []
        for tower, view in zip(discriminator.towers, discriminator.inputs(x), strict=True):
            for number in range(max(self.options.judged) + 1):
                view = tower[number](view)  # type: ignore[index]
                found += [view] if number in self.options.judged else []
        return found


def connector(feature: Tensor, channels: int) -> nn.Module:
    """phi: a 1x1 convolution to the channels of a picture, BatchNorm and ReLU, for a feature (N, C, ...)."""
    sound = feature.dim() == 3
    convolution = (nn.Conv1d if sound else nn.Conv2d)(feature.shape[1], channels, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    return nn.Sequential(convolution, (nn.BatchNorm1d if sound else nn.BatchNorm2d)(channels), nn.ReLU())
