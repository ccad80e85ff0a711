"""The adversary of a generator: discriminator, loss, penalty and augmentation in one module, a player of the loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from compress.adversarial.augment import Augment
from compress.adversarial.controller import LEAK_FREE, SignController
from compress.adversarial.discriminators import Condition, Discriminator, build
from compress.adversarial.entropy import ReplayEntropy, code
from compress.adversarial.last_layer import slice_heads, split_logits
from compress.adversarial.losses import LOSSES, Logits
from compress.adversarial.noise import DiffusionNoise
from compress.adversarial.regularizers import Judge, Regularizer, clip_weights
from compress.adversarial.settings import NO_PENALTY, AdversarySettings
from compress.errors import DataError


@dataclass(frozen=True)
class Turn:
    """The discriminator's turn on one batch: named loss terms to sum, and what monitors look at."""

    terms: dict[str, Tensor]
    stats: dict[str, float]


class Adversary(nn.Module):
    """A discriminator with all that belongs to its training; counters and strengths are buffers, so that it resumes.

    Samples are images (N, C, H, W) around [-1, 1], or sound (N, 1, T). A condition that is an image is concatenated to
    real and fake samples by the caller; `label` (N,) is for a discriminator with classes.
    """

    steps: Tensor

    def __init__(self, discriminator: Discriminator, settings: AdversarySettings) -> None:
        super().__init__()
        self.discriminator, self.settings = discriminator, settings
        if settings.sliced:
            slice_heads(discriminator)
        self.loss = LOSSES[settings.loss]
        self.regularizer = (
            None
            if settings.penalty == NO_PENALTY
            else Regularizer(settings.penalty, settings.penalty_weight, settings.penalty_every)
        )
        control = partial(SignController, target=settings.target, ramp_images=settings.ramp_images)
        self.augment = Augment(settings.augment)
        self.strength = control(limit=LEAK_FREE, start=settings.augment_probability)
        self.noise = DiffusionNoise(control()) if settings.noise else None
        self.entropy = ReplayEntropy(sum(discriminator.widths)) if settings.entropy_weight else None
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def generator_loss(self, fake: Tensor, real: Tensor, label: Tensor | None = None) -> Tensor:
        """What the generator minimizes: a scalar whose gradient reaches `fake` and no parameter in here."""
        _check(fake, real)
        with frozen(self.discriminator):
            condition, seen_fake, seen_real = self._shown(fake, real.detach(), label)
            fake_logits = self.discriminator(seen_fake, condition)
            paid = self._paid(seen_fake)
            if self.settings.sliced:
                return LOSSES["wasserstein"].generator(None, fake_logits) - paid
            with torch.no_grad():
                real_logits = self.discriminator(seen_real, condition) if self.loss.reads_real else None
        return self.loss.generator(real_logits, fake_logits) - paid

    def features(self, samples: Tensor) -> list[Tensor]:
        """The discriminator's intermediate maps of the samples, for feature losses; no parameter in here learns."""
        with frozen(self.discriminator):
            return self.discriminator.features(samples)

    def discriminator_loss(self, fake: Tensor, real: Tensor, label: Tensor | None = None) -> Turn:
        """The discriminator's terms and stats on one batch; no gradient reaches `fake`.

        The terms are `adversarial`, `direction` where the last layer is sliced, and `penalty` at the steps where it is
        due. The stats are the mean signs of the margins, from -1 to 1: `sign_real` and `sign_fake`, 1 where the
        discriminator is always right; `augment_probability` and `noise_length` where they are in use.
        """
        _check(fake, real)
        if self.settings.weight_clip:
            # Before the weights are used is as good as after the last step, and needs no hook there.
            clip_weights(self.discriminator, self.settings.weight_clip)
        condition, seen_fake, seen_real = self._shown(fake.detach(), real.detach(), label)
        real_logits, fake_logits, terms = self._judged(seen_real, seen_fake, condition)
        if self.regularizer is not None and self.regularizer.is_due(int(self.steps)):
            judge = Judge(self.discriminator, condition)
            terms["penalty"] = self.regularizer(judge, seen_real, seen_fake)
        if self.entropy is not None:
            with torch.no_grad():
                self.entropy.remember(code(self.discriminator.hidden(seen_fake)))
        self.steps += 1
        return Turn(terms, self._noted(real_logits, fake_logits, len(real)))

    def _paid(self, seen_fake: Tensor) -> Tensor | float:
        """What the generator gets for samples unlike the ones before."""
        if self.entropy is None:
            return 0.0
        paid: Tensor = self.settings.entropy_weight * self.entropy(code(self.discriminator.hidden(seen_fake)))
        return paid

    def _shown(self, fake: Tensor, real: Tensor, label: Tensor | None) -> tuple[Condition, Tensor, Tensor]:
        """What the discriminator gets to see: (condition, fake, real), augmented and noised.

        A pair shares its number of noise steps, so that it is judged, and penalized, under one condition.
        """
        probability = self.strength.value
        fake, real = self.augment(fake, probability), self.augment(real, probability)
        if self.noise is None:
            return Condition(label), fake, real
        times = self.noise.draw_times(len(fake))
        return Condition(label, times), self.noise(fake, times), self.noise(real, times)

    def _judged(self, real: Tensor, fake: Tensor, condition: Condition) -> tuple[Logits, Logits, dict[str, Tensor]]:
        """The logits of real and fake samples and the loss terms made of them."""
        terms: dict[str, Tensor] = {}
        real_logits: Logits
        fake_logits: Logits
        if self.settings.sliced:
            real_logits, real_direction = split_logits(self.discriminator, real)
            fake_logits, fake_direction = split_logits(self.discriminator, fake)
            terms["direction"] = LOSSES["wasserstein"].discriminator(real_direction, fake_direction)
        else:
            real_logits, fake_logits = self.discriminator(real, condition), self.discriminator(fake, condition)
        return real_logits, fake_logits, {"adversarial": self.loss.discriminator(real_logits, fake_logits), **terms}

    @torch.no_grad()
    def _noted(self, real_logits: Logits, fake_logits: Logits, images: int) -> dict[str, float]:
        """The stats of a batch, after the controllers saw it."""
        of_real, of_fake = self.loss.margins(real_logits, fake_logits)
        stats = {"sign_real": float(of_real.float().sign().mean()), "sign_fake": float(of_fake.float().sign().mean())}
        if self.settings.adaptive:
            self.strength.update(of_real, images)
        if self.settings.augment:
            stats["augment_probability"] = float(self.strength.value)
        if self.noise is not None:
            self.noise.update(of_real, images)
            stats["noise_length"] = float(self.noise.length)
        return stats


def make_adversary(
    settings: AdversarySettings, in_channels: int, size: int, extractor: nn.Module | None = None
) -> Adversary:
    """A new adversary as the settings have it, for samples with so many channels and images of `size` pixels a side."""
    discriminator = build(
        settings.discriminator,
        in_channels,
        size,
        settings.width,
        settings.depth,
        settings.spectral,
        settings.classes,
        timed=settings.noise,
        extractor=extractor,
    )
    return Adversary(discriminator, settings)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter of the module takes part in graphs that are made meanwhile."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _check(fake: Tensor, real: Tensor) -> None:
    if fake.shape != real.shape:
        shapes = f"{tuple(fake.shape)} and {tuple(real.shape)}"
        raise DataError(
            f"an adversary compares fake and real samples of one shape, not {shapes}; give it equal batches"
        )
