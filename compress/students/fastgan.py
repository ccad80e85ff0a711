"""FastGAN: Liu et al. 2021, "Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image Synthesis".

A generator with one convolution per resolution, whose fine maps are gated by coarse ones: a shortcut for gradients
over many resolutions at the price of a few multiplications. The noise that training adds to its maps is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.1
START_PX = 4


class SkipExcitation(nn.Module):
    """A gate in (0, 1) for each channel of a fine map, made of a coarse map, which may be of any size from 4x4 on."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(coarse, fine, START_PX), nn.Conv2d(fine, fine, 1)

    def forward(self, coarse_NCHW: Tensor, fine_NCHW: Tensor) -> Tensor:
        """The fine map, gated."""
        squeezed = self.squeeze(F.adaptive_avg_pool2d(coarse_NCHW, START_PX))
        return fine_NCHW * self.excite(F.leaky_relu(squeezed, SLOPE)).sigmoid()


class Block(nn.Module):
    """Twice the side: pixels repeated, a convolution, a norm, and half of the channels gate the other half."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, 2 * after, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * after)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Maps of twice the side."""
        return _gated(self.norm(self.conv(F.interpolate(x_NCHW, scale_factor=2.0))))


class FastGan(nn.Module):
    """Latents (N, latent) to images (N, colours, side, side) in (-1, 1), side = 4 * 2^(len(channels) - 1).

    Args:
        latent: width of the latents.
        channels: width at each resolution, from 4x4 on.
        reach: resolutions between a map and the one that it gates; 4 as published, where 8x8 gates 128x128.
        colours: channels of the image.
    """

    def __init__(
        self,
        latent: int = 256,
        channels: Sequence[int] = (1024, 512, 256, 128, 128, 64, 64),
        reach: int = 4,
        colours: int = 3,
    ) -> None:
        super().__init__()
        self.reach = reach
        self.first = nn.Linear(latent, 2 * channels[0] * START_PX**2, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels[0])
        self.blocks = nn.ModuleList(Block(before, after) for before, after in pairwise(channels))
        # The 4x4 map gates nothing: it is all that the latent has become so far.
        self.gates = nn.ModuleList(
            SkipExcitation(channels[fine - reach], channels[fine]) for fine in range(1 + reach, len(channels))
        )
        self.last = nn.Conv2d(channels[-1], colours, 3, padding=1)

    def forward(self, z_NL: Tensor) -> Tensor:
        """The images."""
        maps = [_gated(self.norm(self.first(z_NL).unflatten(1, (-1, START_PX, START_PX))))]
        for number, block in enumerate(self.blocks, 1):
            y = block(maps[-1])
            if number > self.reach:
                y = self.gates[number - 1 - self.reach](maps[number - self.reach], y)
            maps.append(y)
        return self.last(maps[-1]).tanh()


def _gated(x_NCHW: Tensor) -> Tensor:
    values, gates = x_NCHW.chunk(2, 1)
    return values * gates.sigmoid()
