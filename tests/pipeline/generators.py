"""What the tests of generators in the pipeline name in their recipes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.tasks import ImageToImage
from compress.tasks.base import Reference
from tests.models import randomize_norms
from tests.pipeline.painter import Painter, task, teacher

__all__ = ["narrow", "noisy_teacher", "normed_teacher", "task", "teacher", "translation", "translator", "wide_teacher"]


def narrow(width: int = 8) -> nn.Module:
    """A painter that no one has taught anything."""
    return Painter(width)


def wide_teacher() -> nn.Module:
    """A painter with channels to spare, where a processor wants them in sixteens."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomize_norms(Painter(48)).eval()


def normed_teacher() -> nn.Module:
    """Pictures twice as large, with norms that no runtime has on integers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1), nn.InstanceNorm2d(16, affine=True), nn.ReLU(),
            nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.InstanceNorm2d(16, affine=True), nn.ReLU(), nn.Conv2d(16, 3, 1),
        ).eval()  # fmt: skip


class Noisy(Painter):
    """A painter that draws noise of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x))


def noisy_teacher() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomize_norms(Noisy()).eval()


def translator() -> nn.Module:
    """Pictures to pictures of one size, with a wide kernel."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 16, 5, 1, 2), nn.ReLU(), nn.Conv2d(16, 3, 3, 1, 1), nn.Tanh())


def translation() -> ImageToImage:
    """Pictures in [-1, 1], with one thing more to be held against."""
    splits = [2 * torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(n)) - 1 for n in (32, 8, 12)]
    grey = Reference(lambda x: torch.zeros_like(x))
    return ImageToImage(
        *splits, batch_size=8, data_range=2.0, lowest=-1.0, input_range=(-1.0, 2.0), references={"grey": grey}
    )
