"""Differentiable augmentations of what a discriminator sees, real and fake alike, each with probability p per sample.

Zhao et al. (2020, DiffAugment) for the operations, Karras et al. (2020, StyleGAN2-ADA) for the probability: applied
always, an augmentation can no longer be told from the data and the generator learns to make it; with p up to 0.8 it
cannot leak. Legend: N samples (N, C, H, W) with values around [-1, 1].

Each operation returns the whole batch changed; which samples keep theirs is decided once, in `Augment`. They are made
of selections and products, so that gradients pass, and add up in the same order on every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from compress.errors import DataError, UnknownName

Operation = Callable[[Tensor, torch.Generator | None], Tensor]

_SHIFT_SHARE = 1 / 8  # of a side, to either direction
_CUT_SHARE = 1 / 2  # of a side


def colour(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The images brighter or darker (up to 0.5), more or less saturated (0..2) and contrasty (0.5..1.5)."""
    bright = x + _uniform(x, generator, -0.5, 0.5)
    grey = bright.mean(1, keepdim=True)
    saturated = grey + (bright - grey) * _uniform(x, generator, 0.0, 2.0) if x.shape[1] > 1 else bright
    level = saturated.mean((1, 2, 3), keepdim=True)
    return level + (saturated - level) * _uniform(x, generator, 0.5, 1.5)


def translation(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The images moved by up to an eighth of a side in either direction, zeros behind them."""
    for axis in (2, 3):
        side = x.shape[axis]
        furthest = round(side * _SHIFT_SHARE)
        shift = _integers(x, generator, -furthest, furthest)
        source = torch.arange(side, device=x.device).view(1, *[side if a == axis else 1 for a in (1, 2, 3)]) - shift
        inside = (source >= 0) & (source < side)
        x = torch.gather(x, axis, source.clamp(0, side - 1).expand_as(x)) * inside
    return x


def cutout(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The images with a rectangle of half a side at a random place set to zero; it may stick out at a border."""
    cut = torch.ones_like(x[:, :1], dtype=torch.bool)
    for axis in (2, 3):
        side = x.shape[axis]
        half = max(1, round(side * _CUT_SHARE / 2))
        centre = _integers(x, generator, 0, side - 1)
        position = torch.arange(side, device=x.device).view(1, *[side if a == axis else 1 for a in (1, 2, 3)])
        cut = cut & ((position - centre >= -half) & (position - centre < half))
    return x * ~cut


def flip(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Half of the images mirrored left to right."""
    return torch.where(_integers(x, generator, 0, 1) == 1, x.flip(3), x)


def rotation(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The images turned by 0, 90, 180 or 270 degrees, each as likely; by 0 or 180 where they are not square.

    With 0 among them p is free up to 1; of the three others alone, p = 3/4 would hide which way up the data is.
    """
    square = x.shape[2] == x.shape[3]
    turns = _integers(x, generator, 0, 3) if square else 2 * _integers(x, generator, 0, 1)
    for quarter in (1, 2, 3) if square else (2,):
        x = torch.where(turns == quarter, torch.rot90(x, quarter, (2, 3)), x)
        turns = torch.where(turns == quarter, 0, turns)
    return x


OPERATIONS: dict[str, Operation] = {
    "colour": colour,
    "translation": translation,
    "cutout": cutout,
    "flip": flip,
    "rotation": rotation,
}


class Augment(nn.Module):
    """A row of operations by name, each applied to each sample with the probability given at the call."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        for name in names:
            if name not in OPERATIONS:
                raise UnknownName("augmentation", name, OPERATIONS)
        self.names = tuple(names)

    def forward(self, x: Tensor, probability: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        """The samples augmented; with no names, or probability 0, as they are."""
        if self.names and x.dim() != 4:
            raise DataError(
                f"augmentations take images (N, C, H, W), not {tuple(x.shape)}; leave adversary.augment out"
            )
        for name in self.names:
            chosen = _uniform(x, generator, 0.0, 1.0) < probability
            x = torch.where(chosen, OPERATIONS[name](x, generator), x)
        return x


def _uniform(x: Tensor, generator: torch.Generator | None, low: float, high: float) -> Tensor:
    """A number per sample, (N, 1, 1, 1)."""
    drawn = torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype, generator=generator)
    return low + (high - low) * drawn


def _integers(x: Tensor, generator: torch.Generator | None, low: int, high: int) -> Tensor:
    """A whole number in low..high per sample, (N, 1, 1, 1)."""
    return torch.randint(low, high + 1, (len(x), 1, 1, 1), device=x.device, generator=generator)
