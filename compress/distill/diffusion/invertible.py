"""iCD: Starodubcev et al. 2024, "Invertible Consistency Distillation for Text-Guided Image Editing in Around 7 Steps".

A student that turns noise into a sample in a few steps, and a sample into its noise in as many. The path is cut into
segments; a consistency model of each goes to its lower end (decoding), another to its upper end (encoding), and two
more losses keep what goes there and back again as it was.

One network that is told where to go (a second time) does both, where the paper trains two: one file serves a device,
and the two directions differ only in their tables of constants (`inversion_tables`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from compress.diffusion import Denoiser, Preconditioning, Row, SamplerTable, karras_levels, per_sample
from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions, Metric
from compress.distill.diffusion.trajectory import distance_at, euler_step
from compress.errors import RecipeError


@dataclass(frozen=True)
class InvertibleOptions(DiffusionOptions):
    """The paper's settings; `guidance` is that of decoding, as encoding with guidance does not come back."""

    points: int = 50
    """Steps of the teacher on the whole path."""
    segments: int = 4
    """Steps of the student, each way."""
    preserve: float = 1.5
    """Weight of the losses of going there and back; they want no guidance."""
    lowest: float = 0.02
    """The level that samples are taken to have, and are encoded from."""
    highest: float = 80.0
    metric: Metric = "huber"


class Invertible(DiffusionMethod):
    """d(jump from x_now to the segment's end, jump from x_next there), in both directions; d(there and back, x)."""

    Options = InvertibleOptions
    options: InvertibleOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """The teacher's levels, and which of them end a segment."""
        if not self.task.takes_until:
            raise RecipeError("distill: invertible's student takes a second time; give the task `inversion_tables`")
        self.grid, self.ends = grid_and_ends(self.options)

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Consistency of both directions, and of each with the other."""
        noised = batch.target
        condition = () if noised.condition is None else (noised.condition,)
        teachers = {"decode": self.real, "encode": self.as_teacher(self.teacher, 1.0)}
        terms = {way: self.consistency(learner, noised, condition, way, teachers[way]) for way in teachers}
        if self.options.preserve:
            for way in teachers:
                kept = self.preservation(learner, noised, condition, way)
                terms[f"preserve_{way}"] = self.options.preserve * kept
        return terms

    def consistency(
        self, learner: nn.Module, noised: Any, condition: tuple[Tensor, ...], way: str, teacher: Callable[..., Tensor]
    ) -> Tensor:
        """The distance between two jumps of one way to the same end of a segment."""
        number = torch.randint(self.options.points, (len(noised.clean),))
        if way == "decode":  # levels fall with their numbers
            following = number + 1
            end = self.ends[torch.searchsorted(self.ends, following)]
        else:
            number, following = number + 1, number
            end = self.ends[torch.searchsorted(self.ends, following, right=True) - 1]
        now, then, until = (self.grid[each].to(self.device) for each in (number, following, end))
        x = noised.clean + per_sample(now, noised.clean) * noised.noise
        said = self.jump(learner, x, now, until, condition)
        with torch.no_grad():
            reached = euler_step(teacher, x, now, then, condition)
            wanted = self.jump(learner, reached, then, until, condition)
        return distance_at(said, wanted, until, self.options.metric).mean()

    def preservation(self, learner: nn.Module, noised: Any, condition: tuple[Tensor, ...], way: str) -> Tensor:
        """How far from x one comes back to over a whole segment; the way back is the one that learns, `way`."""
        segment = torch.randint(self.options.segments, (len(noised.clean),))
        upper, lower = (self.grid[self.ends[each]].to(self.device) for each in (segment, segment + 1))
        here, there = (lower, upper) if way == "decode" else (upper, lower)
        x = noised.clean + per_sample(here, noised.clean) * noised.noise
        with torch.no_grad():
            reached = self.jump(learner, x, here, there, condition)
        back = self.jump(learner, reached, there, here, condition)
        return distance_at(back, x, here, self.options.metric).mean()

    def jump(self, learner: nn.Module, x: Tensor, now: Tensor, until: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """The student's sample at levels `until` (N,), from levels `now` (N,)."""
        means = self.task.preconditioning
        return euler_step(Denoiser(learner, means), x, now, until, (means(until.to(x.dtype)).time, *condition))


def grid_and_ends(options: InvertibleOptions) -> tuple[Tensor, Tensor]:
    """(the teacher's levels, falling, and the numbers of those that end segments, the first and the last included)."""
    grid = karras_levels(options.points + 1, options.lowest, options.highest)[:-1].float()
    return grid, torch.tensor([round(options.points * part / options.segments) for part in range(options.segments + 1)])


def inversion_tables(
    preconditioning: Preconditioning, options: InvertibleOptions | None = None
) -> tuple[SamplerTable, SamplerTable]:
    """(how samples are decoded from noise, how noise is encoded from samples): both are run alike."""
    grid, ends = grid_and_ends(options or InvertibleOptions())
    falling = [float(level) for level in grid[ends]]
    steps = len(falling) - 1
    decoder = _jumps(f"decoder, {steps} steps", falling, preconditioning, falling[0], 1.0)
    return decoder, _jumps(f"encoder, {steps} steps", falling[::-1], preconditioning, 1.0, 1 / falling[0])


def _jumps(name: str, levels: list[float], means: Preconditioning, first: float, last: float) -> SamplerTable:
    """The constants of jumps from each level to the next, of an input times `first`; the output is times `last`."""
    start, outputs, rows = first, list[float](), list[Row]()
    for now, then in pairwise(levels):
        here, there = (means(torch.tensor(level, dtype=torch.float64)) for level in (now, then))
        rows.append(Row(start, tuple(outputs), (), float(here.time), float(here.scale), now, float(there.time)))
        ratio = then / now
        kept = ratio + (1 - ratio) * float(here.skip)
        start, outputs = kept * start, [*(kept * each for each in outputs), (1 - ratio) * float(here.out)]
    return SamplerTable(name, (*rows, Row(last * start, tuple(last * each for each in outputs))))
