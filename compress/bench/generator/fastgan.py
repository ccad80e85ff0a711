"""FastGAN: with 100 digits to learn from, does a discriminator that has to draw them again keep a GAN from collapse?"""

from __future__ import annotations

import torch

from compress.adversarial import Adversary, AdversarySettings, make_adversary
from compress.adversarial.auxiliary import Autoencoding
from compress.bench.beds import digits
from compress.bench.beds.seeds import seeded
from compress.bench.case import Case
from compress.bench.train import train_gan
from compress.students import FastGan

_IMAGES, _STEPS, _LATENT = 100, 300, 16
_SETTINGS = AdversarySettings(
    width=16, depth=1, loss="hinge", penalty="none", augment=("translation", "cutout"), augment_probability=0.5
)


def _distance(seed: int, decode: bool) -> float:
    """The Fréchet distance to held-out digits of a FastGAN that was trained on 100 of the others."""
    real = digits.digits()[0].images[:_IMAGES]
    with seeded(seed):
        generator = FastGan(_LATENT, (32, 32), colours=1)
        adversary: Adversary = make_adversary(_SETTINGS, 1, digits.SIDE)
        if decode:
            adversary = Autoencoding(adversary.discriminator, _SETTINGS, 1, digits.SIDE)
        train_gan(
            generator,
            adversary,
            lambda count, randomness: real[torch.randint(len(real), (count,), generator=randomness)],
            seed=seed,
            steps=_STEPS,
            latent=_LATENT,
            batch_size=32,
            learning_rate=1e-3,
            betas=(0.5, 0.999),
            average=0.95,
        )
        with torch.no_grad():
            return digits.distance(generator(torch.randn(digits.HELD_OUT, _LATENT)))


CASES = (
    Case(
        method="fastgan",
        name="decoder",
        question=(
            f"A small FastGAN learns from {_IMAGES} digits: its discriminator also draws real ones again from its "
            f"features, against one that does not; {_STEPS} steps."
        ),
        metric="Fréchet distance to held-out digits, on a classifier's features",
        unit="",
        higher_is_better=False,
        card="reconstruction delays the collapse of the discriminator with few images.",
        run=lambda seed: (_distance(seed, True), _distance(seed, False)),
    ),
)
