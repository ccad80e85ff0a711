"""What the distillation methods for generators share: the terms of their losses, taps, the discriminator, the teacher.

A method is one small file with a subclass of `GeneratorMethod`: its settings (`Options`, a frozen dataclass that a
recipe's `distill.options` fills), the modules that it trains beside the student, and what it adds to the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.adversarial import Adversary, AdversarySettings, make_adversary
from compress.distill.generator.memory import Remembered
from compress.distill.generator.taps import Features, chosen_taps
from compress.distill.playing import STRICT, Playing
from compress.errors import RecipeError
from compress.tasks import Task
from compress.train import OptimizerSettings, Player

# Kingma and Ba's first moment would carry the gradient of a game that has moved on: R3GAN trains without it.
ADVERSARY_BETAS = (0.0, 0.99)


@dataclass(frozen=True)
class Terms:
    """Weights of the distances between the student's output and a reference; a weight of 0 leaves the term out."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    pixel: float = 0.0
    """L1, or the squared error with `norm: l2`, on outputs as wide as 2 (images in [-1, 1])."""
    norm: Literal["l1", "l2"] = "l1"
    perceptual: float = 0.0
    """The task's perceptual distance: LPIPS of images, the multi-resolution STFT distance of sound."""
    style: float = 0.0
    """L1 between the Gram matrices of the perceptual network's features (Gatys et al., 2016)."""
    crop: int = 0
    """Side of the random square that `perceptual` and `style` look at, to save time; 0: the whole output."""


@dataclass(frozen=True)
class Options:
    """The settings that all generator methods share."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    teacher: Terms = Terms(pixel=1.0)
    """The student against the teacher's output."""
    target: Terms = Terms()
    """The student against the real output, where the task has one (`Batch.target`)."""
    feature: float = 0.0
    """L1 between features at `taps`, each student feature through a 1x1 convolution to the teacher's width."""
    taps: tuple[str, ...] = ()
    """Layers to compare, by their path in both networks; by default four that both have, spread over the depth."""
    gan: float = 0.0
    """Weight of the student's adversarial loss; 0: there is no discriminator."""
    gan_start: float = 0.0
    """Share of the training before the discriminator plays."""
    real: Literal["auto", "target", "teacher"] = "auto"
    """What the discriminator takes for real; auto: the task's own outputs where it has them, else the teacher's."""
    adversary: AdversarySettings = field(default_factory=AdversarySettings)
    adversary_learning_rate: float = 2e-4
    adversary_every: int = 1


SharedOptions = Options
"""The same under another name: inside a method, `Options` is that method's own."""


class GeneratorMethod(Playing):
    """A distillation of a generator."""

    Options: ClassVar[type[SharedOptions]] = SharedOptions

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        options: SharedOptions,
        task: Task,
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.remembered = Remembered(self.teacher)
        self.options, self.task = options, task
        self.taps = chosen_taps(teacher, student, options.taps) if options.feature else []
        parts: dict[str, nn.Module] = {}
        if self.taps:
            parts["connectors"] = self.make_connectors(teacher, student, example_inputs)
        self.extra: nn.Module | None = nn.ModuleDict(parts) if parts else None
        self.adversary = self.make_adversary(teacher, example_inputs) if options.gan else None
        self._fake: Tensor | None = None
        self._real: Tensor | None = None
        self._stats: dict[str, float] = {}

    def make_connectors(
        self, teacher: nn.Module, student: nn.Module, example_inputs: Sequence[Tensor]
    ) -> nn.ModuleList:
        """One 1x1 convolution per tap from the student's width to the teacher's."""
        theirs, ours = Features(teacher, self.taps), Features(student, self.taps)
        with torch.no_grad():
            theirs(*example_inputs)
            ours(*example_inputs)
        return nn.ModuleList(_pointwise(ours.caught[tap], theirs.caught[tap].shape[1]) for tap in self.taps)

    def make_adversary(self, teacher: nn.Module, example_inputs: Sequence[Tensor]) -> Adversary:
        """A discriminator for outputs of the teacher's shape."""
        with torch.no_grad():
            output = teacher(*example_inputs)
        return make_adversary(self.options.adversary, output.shape[1], output.shape[-1])

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The student's player and, with `gan`, the discriminator's."""
        found = [Player("student", learner, lambda modules, batch: self.loss(modules["student"], batch), optimizer)]
        if self.adversary is not None:
            rate = OptimizerSettings(
                "adamw", self.options.adversary_learning_rate, weight_decay=0.0, clip_norm=0.0, betas=ADVERSARY_BETAS
            )
            found.append(
                Player(
                    "discriminator", self.adversary, self.discriminator_loss, rate,
                    self.options.adversary_every, self.adversary_stats,
                )
            )  # fmt: skip
        return found

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Named loss terms of the student on one batch; their sum is minimized."""
        wanted = self.reference(batch)
        if self.taps:
            output, feature = self.run_with_features(learner, batch)
        else:
            output, feature = learner(*batch.inputs), None
        terms = self.output_terms(output, wanted, batch)
        if feature is not None:
            terms["feature"] = self.options.feature * feature
        terms |= self.adversarial_terms(output, wanted, batch)
        return terms

    def reference(self, batch: Any) -> Tensor:
        """The teacher's output on a batch."""
        return self.remembered(batch)

    def run_with_features(self, learner: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """The student's output, and the mean L1 distance of the tapped features."""
        with Features(self.teacher, self.taps) as theirs, torch.no_grad():
            self.teacher(*batch.inputs)
        with Features(learner.student, self.taps) as ours:  # type: ignore[arg-type]
            output = learner(*batch.inputs)
        connectors = learner.extra["connectors"]  # type: ignore[index]
        pairs = [
            F.l1_loss(connect(ours.caught[tap]), theirs.caught[tap])
            for tap, connect in zip(self.taps, connectors, strict=True)
        ]
        return output, torch.stack(pairs).mean()

    def output_terms(self, output: Tensor, wanted: Tensor, batch: Any) -> dict[str, Tensor]:
        """The distances to the teacher's output and to the real one."""
        terms = self.distances(output, wanted, self.options.teacher, "")
        if batch.target is not None:
            terms |= self.distances(output, batch.target, self.options.target, "target ")
        return terms

    def distances(self, output: Tensor, reference: Tensor, weights: Terms, prefix: str) -> dict[str, Tensor]:
        """The weighted distances of two outputs, by name."""
        found: dict[str, Tensor] = {}
        if weights.pixel:
            norm = F.l1_loss if weights.norm == "l1" else F.mse_loss
            scale = 2 / self.task.span()[1]
            found[f"{prefix}pixel"] = weights.pixel * norm(output * scale, reference * scale)
        if weights.crop:
            output, reference = same_crop(output, reference, weights.crop)
        if weights.perceptual:
            distance = self.task.perceptual_loss(output, reference)
            found[f"{prefix}perceptual"] = weights.perceptual * distance.mean()
        if weights.style:
            found[f"{prefix}style"] = weights.style * style_distance(
                self.task.perceptual_features(output), self.task.perceptual_features(reference)
            )
        return found

    def adversarial_terms(self, output: Tensor, wanted: Tensor, batch: Any) -> dict[str, Tensor]:
        """The student's adversarial loss; the discriminator's turn sees the same outputs."""
        if self.adversary is None:
            return {}
        real = self.real(wanted, batch)
        self._fake, self._real = output.detach(), real.detach()
        if self.progress < self.options.gan_start:
            return {}
        seen = self.as_seen(output), self.as_seen(real)
        return {"gan": self.options.gan * self.adversary.generator_loss(*seen, self.label(batch))}

    def as_seen(self, output: Tensor) -> Tensor:
        """Outputs as a discriminator takes them: moved and scaled to [-1, 1]."""
        lowest, width = self.task.span()
        return (output - lowest) * (2 / width) - 1

    def label(self, batch: Any) -> Tensor | None:
        """The class numbers (N,) of a batch for a discriminator that is told them."""
        if not self.options.adversary.classes:
            return None
        class_of = getattr(self.task, "class_of", None)
        if class_of is None:
            raise RecipeError("distill.options.adversary.classes: the task does not say which class is asked for")
        return class_of(batch.inputs)  # type: ignore[no-any-return]

    def real(self, wanted: Tensor, batch: Any) -> Tensor:
        """What the discriminator takes for real."""
        if self.options.real == "teacher" or batch.target is None:
            if self.options.real == "target":
                raise RecipeError("distill.options.real: the task has no real outputs; take teacher")
            return wanted
        return batch.target  # type: ignore[no-any-return]

    def discriminator_loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """The discriminator's loss on what the student's last turn noted; the teacher is not asked again."""
        assert self._fake is not None and self._real is not None
        adversary: Any = modules["discriminator"]
        if self.progress < self.options.gan_start:
            return {"waiting": nothing(adversary)}
        turn = adversary.discriminator_loss(self.as_seen(self._fake), self.as_seen(self._real), self.label(batch))
        self._stats = turn.stats
        return turn.terms  # type: ignore[no-any-return]

    def adversary_stats(self) -> dict[str, float]:
        """What the guard wants to know of the discriminator."""
        return self._stats


def nothing(module: nn.Module) -> Tensor:
    """A loss of 0 whose gradient is 0 everywhere: the turn of a player that has nothing to learn from."""
    return torch.stack([p.sum() * 0 for p in module.parameters() if p.requires_grad]).sum()


def same_crop(first_NCHW: Tensor, second_NCHW: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The same random square of two batches of images; whole axes that are no longer than `side`."""
    for axis in range(2, first_NCHW.dim()):
        length = first_NCHW.shape[axis]
        start, kept = int(torch.randint(max(0, length - side) + 1, ())), min(side, length)
        first_NCHW, second_NCHW = (x.narrow(axis, start, kept) for x in (first_NCHW, second_NCHW))
    return first_NCHW, second_NCHW


def style_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The mean L1 distance of the Gram matrices (N, C, C) of feature maps (N, C, H, W)."""
    return torch.stack([F.l1_loss(gram(a), gram(b)) for a, b in zip(first, second, strict=True)]).mean()


def gram(feature_NCHW: Tensor) -> Tensor:
    """The mean over positions of the products of channels, (N, C, C)."""
    flat_NCP = feature_NCHW.flatten(2)
    return flat_NCP @ flat_NCP.transpose(1, 2) / flat_NCP.shape[2]


def _pointwise(feature: Tensor, width: int) -> nn.Module:
    if feature.dim() == 4:
        return nn.Conv2d(feature.shape[1], width, 1)
    return nn.Conv1d(feature.shape[1], width, 1) if feature.dim() == 3 else nn.Linear(feature.shape[1], width)
