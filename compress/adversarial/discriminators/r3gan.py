"""The discriminator of R3GAN (Huang et al. 2024): a plain residual network without any norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.adversarial.discriminators.base import SLOPE, Discriminator
from compress.errors import RecipeError

DEPTH = 2
_EXPANSION = 2
_GROUP = 16  # channels per group of the 3x3 convolution
_WIDEST = 8  # times the first stage's width
_SMALLEST = 4  # pixels a side where the last stage works


class R3GAN(Discriminator):
    """`depth` residual blocks per resolution, halved down to 4x4; width doubles with each halving, up to 8 times.

    A depthwise convolution over the whole of the last map then leaves one position. `size` is the images' side.
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        width: int = 64,
        depth: int = DEPTH,
        classes: int = 0,
        timed: bool = False,
    ) -> None:
        if size < _SMALLEST or (width * _EXPANSION) % _GROUP:
            raise RecipeError(
                f"adversary.discriminator r3gan takes images of 4 pixels or more and a width divisible by "
                f"{_GROUP // _EXPANSION}, not {size} pixels and width {width}; change adversary.width"
            )
        sides = [size]
        while sides[-1] > _SMALLEST:
            sides.append((sides[-1] + 1) // 2)
        widths = [width * min(2**k, _WIDEST) for k in range(len(sides))]
        layers: list[nn.Module] = [_convolution(in_channels, width, 1)]
        for stage, channels in enumerate(widths):
            if stage:
                layers.append(Halve(widths[stage - 1], channels))
            layers += [Block(channels, depth * len(sides)) for _ in range(depth)]
        layers.append(_convolution(widths[-1], widths[-1], sides[-1], groups=widths[-1], padding=0))
        super().__init__([nn.Sequential(*layers)], [nn.Conv2d(widths[-1], 1, 1)], widths[-1:], classes, timed)


class Block(nn.Module):
    """x + 1x1 (grouped 3x3 (1x1 x)), leaky rectifiers between; it starts as the identity.

    `blocks` is their number in the network: the first two convolutions start smaller by its fourth root, so that the
    update of the whole does not grow with depth (Zhang et al. 2019, Fixup, for branches of three layers).
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        inside, gain = channels * _EXPANSION, blocks**-0.25
        self.widen = _convolution(channels, inside, 1, gain=gain)
        self.mix = _convolution(inside, inside, 3, groups=inside // _GROUP, gain=gain)
        self.narrow = _convolution(inside, channels, 1, bias=False, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """The input plus what the branch adds."""
        inside = F.leaky_relu(self.widen(x), SLOPE)
        added: Tensor = self.narrow(F.leaky_relu(self.mix(inside), SLOPE))
        return x + added


class Halve(nn.Module):
    """Half the resolution through the [1, 2, 1] filter in both directions, then a 1x1 convolution where width changes.

    The filter passes nothing at the Nyquist frequency: plain striding would alias what it cannot show into the map.
    """

    kernel: Tensor

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(taps, taps).expand(before, 1, 3, 3).clone(), persistent=False)
        self.widen = _convolution(before, after, 1, bias=False) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', ceil(H / 2), ceil(W / 2))."""
        halved: Tensor = self.widen(F.conv2d(x, self.kernel, stride=2, padding=1, groups=len(self.kernel)))
        return halved


def _convolution(
    before: int,
    after: int,
    side: int,
    groups: int = 1,
    bias: bool = True,
    gain: float = 1.0,
    padding: int | None = None,
) -> nn.Conv2d:
    """A convolution whose weights start with variance gain^2 times that which keeps a leaky rectifier's scale."""
    layer = nn.Conv2d(before, after, side, padding=side // 2 if padding is None else padding, groups=groups, bias=bias)
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    with torch.no_grad():
        layer.weight.mul_(gain)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer
