"""PatchGAN (Isola et al. 2017): one logit per overlapping patch, so that only local texture is judged."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from compress.adversarial.discriminators.base import Discriminator, activated
from compress.errors import RecipeError

DEPTH = 3
_WIDEST = 8  # times the first layer's width


class Patch(Discriminator):
    """`depth` convolutions of stride 2, one of stride 1 and the head, all 4x4; depth 3 judges patches of 70x70 pixels.

    No norm between the layers, which would let samples of a batch see each other under a penalty per sample; spectral
    norm if wanted.
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        width: int = 64,
        depth: int = DEPTH,
        spectral: bool = False,
        classes: int = 0,
        timed: bool = False,
    ) -> None:
        if size >> depth < 3:
            needed = 3 << depth
            raise RecipeError(
                f"adversary.depth {depth} halves images of {size} pixels too often: it takes {needed} pixels or more"
            )
        widths = [width * min(2**k, _WIDEST) for k in range(depth + 1)]
        strides = [2] * depth + [1]
        convolutions = [
            nn.Conv2d(before, after, 4, stride, padding=1)
            for before, after, stride in zip([in_channels, *widths], widths, strides, strict=False)
        ]
        head = nn.Conv2d(widths[-1], 1, 4, padding=1)
        for layer in [*convolutions, head] if spectral else []:
            spectral_norm(layer)
        super().__init__([nn.Sequential(*map(activated, convolutions))], [head], widths[-1:], classes, timed)
