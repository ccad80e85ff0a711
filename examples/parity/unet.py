"""A UNet (Ronneberger et al., 2015) with transposed convolutions and GroupNorm; random weights from a fixed seed."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.tasks import ImageToImage
from examples.parity.photographs import tiles
from examples.parity.seeded import seeded

TITLE = "UNet (transposed convolutions, GroupNorm)"
SOURCE = "random weights, seed 0"
SIDE = 128


def double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """RGB images in [-1, 1] (N, 3, H, W) to the same size and range; H and W are multiples of 8."""

    def __init__(self, width: int = 24, depth: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(double(i, o) for i, o in zip((3, *widths), widths[:-1], strict=False))
        self.bottom = double(widths[-2], widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(double(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(kept), strict=True):
            x = merge(torch.cat([up(x), skip], 1))
        return torch.tanh(self.head(x))


def teacher() -> UNet:
    return seeded(UNet)


def task() -> ImageToImage:
    """Photograph tiles, split by file."""
    return ImageToImage(
        *tiles(SIDE),
        prepare=lambda stored: stored.float() / 127.5 - 1,
        batch_size=8,
        data_range=2.0,
        lowest=-1.0,
        input_range=(-1.0, 2.0),
    )
