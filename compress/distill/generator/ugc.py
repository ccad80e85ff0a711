"""UGC, second stage: teachers learn from few labels, and the student from the teachers.

"UGC: Unified GAN Compression for Efficient Image-to-Image Translation" (Ren et al., ICCV 2023).

The teachers learn from the labelled samples, by a discriminator and by reconstruction; the student imitates their
outputs and features on all samples while they improve. The first stage, which finds student and teachers in one
supernet, is the search step's. From there a second teacher may come that completes the first: one wide, one deep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.distill.generator.base import Terms
from compress.distill.generator.online import Online, OnlineOptions, nothing, taken
from compress.distill.generator.taps import Features, chosen_taps
from compress.errors import RecipeError
from compress.tasks import Task

# Multiples of it fall evenly into [0, 1): any run of sample numbers holds the asked share of labels.
GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class UgcOptions(OnlineOptions):
    """The share of labels, and what the student imitates."""

    teacher: Terms = field(default_factory=lambda: Terms(pixel=1.0))
    feature: float = 1.0
    labelled: float = 0.25
    """Share of the training samples whose real output may be looked at; 1: all."""


class Ugc(Online):
    """Semi-supervised teachers, and a student that follows them; `target` is for labelled samples only.

    Args:
        partner: a second teacher; it learns and is imitated as the first.
    """

    Options = UgcOptions
    options: UgcOptions

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        options: UgcOptions,
        task: Task,
        partner: fx.GraphModule | None = None,
    ) -> None:
        super().__init__(teacher, student, example_inputs, options, task, partner)
        self.taps_of = [chosen_taps(net, student, options.taps) if options.feature else [] for net in self.teachers]
        if options.feature:
            made = []
            for net, taps in zip(self.teachers, self.taps_of, strict=True):
                self.taps = taps
                made.append(self.make_connectors(net, student, example_inputs))
            self.extra = nn.ModuleDict({"connectors": nn.ModuleList(made)})

    def rows(self, batch: Any) -> Any:
        """The labelled samples of a batch, the same ones in every epoch.

        Raises:
            RecipeError: only a share is labelled, and samples cannot be told apart.
        """
        if self.options.labelled >= 1 or batch.target is None:
            return slice(None)
        if batch.sample_ids is None:
            raise RecipeError(
                "distill.options.labelled: the task varies its training samples, so that none can be told to be "
                "labelled; take a task without augment or vary, or labelled: 1"
            )
        return (batch.sample_ids.double() * GOLDEN % 1 < self.options.labelled).nonzero()[:, 0]

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The student's distances to each teacher's output and features, averaged; a target where it is labelled."""
        student: Any = learner.student
        with Features(student, sorted({tap for taps in self.taps_of for tap in taps})) as ours:
            output = learner(*batch.inputs)
        parts, wanted = [], []
        for number, net in enumerate(self.teachers):
            theirs = Features(net, self.taps_of[number])
            with torch.no_grad():
                wanted.append(theirs(*batch.inputs))
            parts.append(self.distances(output, wanted[-1], self.options.teacher, ""))
            if theirs.layers:
                connectors = learner.extra["connectors"][number]  # type: ignore[index]
                pairs = zip(theirs.layers, connectors, strict=True)
                gaps = [F.l1_loss(connect(ours.caught[tap]), theirs.caught[tap]) for tap, connect in pairs]
                parts[-1]["feature"] = self.options.feature * torch.stack(gaps).mean()
        terms = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        rows = self.rows(batch)
        part = taken(batch, rows)
        if part.target is not None and len(part):
            terms |= self.distances(output[rows], part.target, self.options.target, "target ")
        turn = torch.arange(len(output)) % len(wanted)  # the discriminator sees each teacher's outputs in turn
        terms |= self.adversarial_terms(output, torch.stack(wanted)[turn, torch.arange(len(output))], batch)
        return terms or {"waiting": nothing(learner)}  # labels alone, and none in this batch
