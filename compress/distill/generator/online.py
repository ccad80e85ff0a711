"""Teachers that go on learning while the student follows: from real outputs, against the discriminator beside them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.distill.generator.base import GeneratorMethod, Options, Terms, nothing
from compress.errors import RecipeError
from compress.tasks import Task
from compress.train import OptimizerSettings, Player

# The momentum of pix2pix, whose loss the teachers' lesson is.
TEACHER_BETAS = (0.5, 0.999)


@dataclass(frozen=True)
class OnlineOptions(Options):
    """The lesson that the teachers take beside the student; the defaults are those of pix2pix."""

    lesson: Terms = field(default_factory=lambda: Terms(pixel=100.0))
    """A teacher against the real output; without pairs (`UnpairedTranslation`) all its weights have to be 0."""
    lesson_gan: float = 1.0
    """Weight of a teacher's adversarial loss."""
    teacher_learning_rate: float = 2e-4
    teacher_every: int = 1
    """The teachers learn, and so does the discriminator, at every so many steps of the student."""


class Online(GeneratorMethod):
    """What methods with learning teachers share. The teacher handed in is copied: it stays what it was.

    The discriminator is the teachers': it holds their outputs against real ones. Only where the teacher's outputs are
    themselves the real ones (`real: teacher`, or a task without any) it looks at the student's.

    Args:
        partner: a second teacher, deep where the first is wide, say. It needs `learning`.
        learning: whether the teachers learn.
    """

    Options = OnlineOptions
    options: OnlineOptions

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        options: OnlineOptions,
        task: Task,
        partner: fx.GraphModule | None = None,
        learning: bool = True,
    ) -> None:
        super().__init__(teacher, student, example_inputs, options, task)
        if self.adversary is None:
            self.adversary = self.make_adversary(teacher, example_inputs)
        given = [teacher] if partner is None else [teacher, partner]
        self.teachers = [copy.deepcopy(net).requires_grad_(True) for net in given] if learning else [teacher]
        self.learning = learning
        self.teacher = self.teachers[0]
        self._shown: tuple[Tensor, Tensor, Tensor | None] | None = None
        if learning and not options.lesson_gan and not any(_weights(options.lesson)):
            raise RecipeError(
                "distill.options.lesson: every weight is 0, and lesson_gan too; the teacher learns nothing"
            )

    def reference(self, batch: Any) -> Tensor:
        """The teacher's output on a batch as it is at this very step; nothing of it is remembered."""
        with torch.no_grad():
            output: Tensor = self.teacher(*batch.inputs)
        return output

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The student's player, the discriminator's and those of the teachers."""
        found = super().players(learner, optimizer)
        found[1] = replace(found[1], every=self.options.teacher_every * self.options.adversary_every)
        rate = OptimizerSettings(
            "adamw", self.options.teacher_learning_rate, weight_decay=0.0, clip_norm=0.0, betas=TEACHER_BETAS
        )
        for number, net in enumerate(self.teachers if self.learning else ()):
            name = "teacher" if number == 0 else f"teacher_{number + 1}"
            found.append(Player(name, net, partial(self.lesson_loss, name), rate, self.options.teacher_every))
        return found

    def rows(self, batch: Any) -> Any:
        """Which samples of a batch have a real output: an index into them."""
        return slice(None)

    def adversarial_terms(self, output: Tensor, wanted: Tensor, batch: Any) -> dict[str, Tensor]:
        """The student's adversarial loss, where it has a weight; notes what the discriminator's turn is to see."""
        rows = self.rows(batch)
        part, output, wanted = taken(batch, rows), output[rows], wanted[rows]
        terms = super().adversarial_terms(output, wanted, part) if self.options.gan and len(output) else {}
        real = self.real(wanted, part)
        self._shown = (output if real is wanted else wanted).detach(), real.detach(), self.label(part)
        return terms

    def discriminator_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """The discriminator's loss on what the student's last turn noted."""
        assert self._shown is not None
        fake, real, label = self._shown
        adversary: Any = modules["discriminator"]
        if not len(fake) or self.progress < self.options.gan_start:
            return {"waiting": nothing(adversary)}
        turn = adversary.discriminator_loss(self.as_seen(fake), self.as_seen(real), label)
        self._stats = turn.stats
        return turn.terms  # type: ignore[no-any-return]

    def lesson_loss(self, name: str, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """A teacher's own loss terms: the real output, and the discriminator.

        Raises:
            RecipeError: the task has no real outputs.
        """
        if batch.target is None:
            raise RecipeError(
                "distill.method: a teacher that learns needs real outputs, which the task does not have; "
                "take a task with targets, or a method with a frozen teacher"
            )
        part = taken(batch, self.rows(batch))
        if not len(part):
            return {"waiting": nothing(modules[name])}
        output = modules[name](*part.inputs)
        terms = self.distances(output, part.target, self.options.lesson, "")
        if self.options.lesson_gan and self.adversary is not None and self.progress >= self.options.gan_start:
            seen = self.as_seen(output), self.as_seen(part.target)
            terms["gan"] = self.options.lesson_gan * self.adversary.generator_loss(*seen, self.label(part))
        return terms or {"waiting": nothing(modules[name])}


def taken(batch: Any, rows: Any) -> Any:
    """The samples of a batch at some rows; the batch itself where these are all."""
    if isinstance(rows, slice):
        return batch
    ids = None if batch.sample_ids is None else batch.sample_ids[rows]
    return replace(batch, inputs=tuple(x[rows] for x in batch.inputs), target=batch.target[rows], sample_ids=ids)


def _weights(terms: Terms) -> tuple[float, float, float]:
    return terms.pixel, terms.perceptual, terms.style
