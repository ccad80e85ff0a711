"""A generator that a phone could run, small: noise (N, 3, 8, 8) to pictures (N, 3, 16, 16), and its task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.tasks import Generation
from tests.models import randomize_norms


class Residual(nn.Module):
    """x + conv, norm, ReLU, conv, norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))


class Painter(nn.Module):
    """A wide kernel, a residual block, twice the size by a transposed convolution."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, width, 5, 1, 2), nn.BatchNorm2d(width)
        self.block = Residual(width)
        self.up, self.norm2 = nn.ConvTranspose2d(width, width, 4, 2, 1), nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.norm1(self.first(x)).relu())
        return torch.tanh(self.last(self.norm2(self.up(x)).relu()))


def teacher() -> nn.Module:
    """A painter whose weights and norms are drawn at random, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomize_norms(Painter()).eval()


def task() -> Generation:
    """Judged by the PSNR against the teacher's pictures of the same noise."""
    splits = [torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in (48, 16, 8)]
    return Generation(*splits)
