"""Liu et al. (2021, FastGAN): imitation with a discriminator that is kept from learning few samples by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compress.adversarial import Adversary, AdversarySettings, make_adversary
from compress.adversarial.auxiliary import Autoencoding
from compress.distill.generator.base import GeneratorMethod, Options


@dataclass(frozen=True)
class FastGanOptions(Options):
    """The paper's hinge loss and augmentation; the network of the discriminator is R3GAN's."""

    decode: float = 1.0
    """Weight of the reconstruction of real samples from the discriminator's features."""
    gan: float = 1.0
    adversary: AdversarySettings = field(
        default_factory=lambda: AdversarySettings(
            loss="hinge", penalty="none", augment=("colour", "translation", "cutout"), augment_probability=0.8
        )
    )


class FastGan(GeneratorMethod):
    """The terms of `Options`; see `compress.adversarial.auxiliary` for the discriminator's."""

    Options = FastGanOptions
    options: FastGanOptions

    def make_adversary(self, teacher: nn.Module, example_inputs: Sequence[Tensor]) -> Adversary:
        """A discriminator that can draw again what it sees."""
        with torch.no_grad():
            output = teacher(*example_inputs)
        channels, size = output.shape[1], output.shape[-1]
        settings = self.options.adversary
        discriminator = make_adversary(settings, channels, size).discriminator
        return Autoencoding(discriminator, settings, channels, size, self.options.decode)
