"""A discriminator that can also draw real samples again from its features (Liu et al. 2021, FastGAN).

With little data a discriminator soon knows the samples by a few details. Small decoders, dropped after training, ask
it to keep what a picture is made of: the whole of it from a coarse map, a quarter of it from a finer one.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.adversarial.adversary import Adversary, Turn
from compress.adversarial.discriminators import Discriminator
from compress.adversarial.discriminators.base import SLOPE
from compress.adversarial.settings import AdversarySettings
from compress.errors import RecipeError

_COARSEST = 4  # pixels a side of the smallest map that still knows where things are
_DOUBLINGS = 4  # of a decoder, at most: pictures larger than that are compared at a smaller size
_WIDTH = 32


class Autoencoding(Adversary):
    """An adversary with a further term for its discriminator, `reconstruction`: L1, of real samples only.

    Args:
        in_channels, size: of the images, as for `make_adversary`.
        weight: of the term; the paper's is 1.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        settings: AdversarySettings,
        in_channels: int,
        size: int,
        weight: float = 1.0,
    ) -> None:
        super().__init__(discriminator, settings)
        self.weight = weight
        with torch.no_grad():
            maps = discriminator.features(torch.zeros(2, in_channels, size, size))
        self.fine, self.coarse = _chosen([tuple(found.shape[1:]) for found in maps], size)
        self.whole = decoder(maps[self.coarse].shape[1], in_channels, maps[self.coarse].shape[-1], size)
        self.part = decoder(maps[self.fine].shape[1], in_channels, maps[self.fine].shape[-1], size)

    def discriminator_loss(self, fake: Tensor, real: Tensor, label: Tensor | None = None) -> Turn:
        """The adversary's turn, with the reconstruction of the real samples."""
        turn = super().discriminator_loss(fake, real, label)
        return replace(turn, terms={**turn.terms, "reconstruction": self.weight * self.reconstruction(real.detach())})

    def reconstruction(self, real: Tensor) -> Tensor:
        """The error of the samples drawn from the coarse map, plus that of a random quarter drawn from the fine one."""
        maps = self.discriminator.features(real)
        row, column = divmod(int(torch.randint(4, ())), 2)
        fine = _quarter(maps[self.fine], row, column)
        return _error(self.whole(maps[self.coarse]), real) + _error(self.part(fine), _quarter(real, row, column))


def decoder(before: int, colours: int, side: int, size: int) -> nn.Sequential:
    """From maps (N, before, side, side) to pictures of `size`, or as close as four doublings come to it."""
    layers: list[nn.Module] = [nn.Conv2d(before, _WIDTH, 1), nn.LeakyReLU(SLOPE)]
    for _ in range(min(_DOUBLINGS, round(math.log2(size / side)))):
        layers += [nn.Upsample(scale_factor=2.0), nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers, nn.Conv2d(_WIDTH, colours, 3, padding=1), nn.Tanh())


def _chosen(shapes: list[tuple[int, ...]], size: int) -> tuple[int, int]:
    """(the last map of twice the coarsest side, the last map of the coarsest side that has at least 4 pixels)."""
    last = {shape[1]: number for number, shape in enumerate(shapes) if len(shape) == 3 and shape[1] == shape[2]}
    sides = [side for side in last if side >= _COARSEST and 2 * side in last and size % side == 0]
    if not sides:
        raise RecipeError(
            f"a reconstruction needs discriminator maps of {_COARSEST} pixels or more and of twice that; "
            f"with images of {size} this discriminator has {sorted(last)}: take r3gan"
        )
    return last[2 * min(sides)], last[min(sides)]


def _quarter(x_NCHW: Tensor, row: int, column: int) -> Tensor:
    """One of the four quarters of maps."""
    half = x_NCHW.shape[-1] // 2
    return x_NCHW[..., row * half : (row + 1) * half, column * half : (column + 1) * half]


def _error(drawn: Tensor, wanted: Tensor) -> Tensor:
    return F.l1_loss(drawn, F.interpolate(wanted, size=drawn.shape[-1], mode="area"))
