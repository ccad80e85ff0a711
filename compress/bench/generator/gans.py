"""The small GANs that the cases of adversarial parts share: points in clusters, and digits of 8 x 8 pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from compress.adversarial import Adversary, AdversarySettings, make_adversary
from compress.bench.beds import digits, points
from compress.bench.beds.seeds import seeded
from compress.bench.train import train_gan

_COUNT = 2_000  # points that are measured
_POINT_LATENT, _DIGIT_LATENT = 2, 16
_DIGIT_BATCH = 64


def drawn_points(
    clusters: points.Clusters,
    settings: AdversarySettings,
    seed: int,
    steps: int,
    learning_rate: float = 1e-3,
    adversary_turns: int = 1,
    betas: tuple[float, float] = (0.0, 0.9),
) -> Tensor:
    """2,000 points (N, 2) from a generator that was trained against the adversary of these settings."""
    with seeded(seed):
        generator = points.generator(_POINT_LATENT)
        adversary = Adversary(points.discriminator(timed=settings.noise), settings)
        train_gan(
            generator, adversary, clusters.draw, seed=seed, steps=steps, latent=_POINT_LATENT,
            learning_rate=learning_rate, adversary_turns=adversary_turns, betas=betas,
        )  # fmt: skip
        with torch.no_grad():
            found: Tensor = generator(torch.randn(_COUNT, _POINT_LATENT))
    return found


def drawn_digits(
    settings: AdversarySettings,
    seed: int,
    steps: int,
    images: Tensor | None = None,
    extractor: nn.Module | None = None,
    learning_rate: float = 1e-3,
    adversary_learning_rate: float | None = None,
) -> Tensor:
    """500 digits (N, 1, 8, 8) from a generator that was trained against the adversary of these settings.

    Args:
        images: the real digits to train with; all of the training split where not given.
        extractor: the frozen network of a projected discriminator.
    """
    real = digits.digits()[0].images if images is None else images

    def draw(count: int, randomness: torch.Generator) -> Tensor:
        return real[torch.randint(len(real), (count,), generator=randomness)]

    with seeded(seed):
        generator = digits.Generator(_DIGIT_LATENT)
        adversary = make_adversary(settings, 1, digits.SIDE, extractor)
        train_gan(
            generator, adversary, draw, seed=seed, steps=steps, latent=_DIGIT_LATENT, batch_size=_DIGIT_BATCH,
            learning_rate=learning_rate, adversary_learning_rate=adversary_learning_rate, average=0.98,
        )  # fmt: skip
        with torch.no_grad():
            found: Tensor = generator(torch.randn(digits.HELD_OUT, _DIGIT_LATENT))
    return found


def compare(
    measure: Callable[[AdversarySettings, int], float], with_idea: AdversarySettings, without: AdversarySettings
) -> Callable[[int], tuple[float, float]]:
    """A case's run: the measure of both settings from one seed."""
    return lambda seed: (measure(with_idea, seed), measure(without, seed))
