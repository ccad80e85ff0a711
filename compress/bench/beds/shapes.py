"""Drawn shapes: outlines to filled shapes (pairs), and one colour to another (no pairs); with a small teacher for each.

A shape's kind says how thick its outline is and what colour it is filled with.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.bench.beds.seeds import seeded
from compress.bench.train import learn
from compress.tasks import PairedTranslation, UnpairedTranslation

SIDE = 16
SLOPE = 0.2
KINDS = 3  # disc, square, diamond
COLOURS = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.8, 0.3], [0.2, 0.4, 0.9]])
_GROUND = 0.1
_EPOCHS, _BATCH = 36, 16
_PIXELS: dict[str, Any] = {"data_range": 2.0, "lowest": -1.0, "input_range": (-1.0, 2.0)}


def draw(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(outlines (N, 3, 16, 16), filled shapes (N, 3, 16, 16), kinds (N,)); pictures in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(KINDS, (count,), generator=generator)
    radius = 3 + 2 * torch.rand(count, generator=generator)
    centre = 6 + 4 * torch.rand(count, 2, generator=generator)
    inside = _signed_distance(kinds, radius, centre)
    fill_N1HW = (inside + 0.5).clamp(0, 1)[:, None]
    thickness_N = 0.8 + 0.5 * kinds
    edge_N1HW = (thickness_N[:, None, None] - inside.abs()).clamp(0, 1)[:, None]
    filled = _GROUND + fill_N1HW * (COLOURS[kinds][:, :, None, None] - _GROUND)
    return edge_N1HW.expand(-1, 3, -1, -1).contiguous(), filled, kinds


@cache
def filling(train: int = 256, held_out: int = 64) -> PairedTranslation:
    """The task of filling outlines, with the right picture known; pixels of both sides in [-1, 1]."""
    parts = [draw(count, seed)[:2] for seed, count in enumerate((train, held_out, held_out))]
    return PairedTranslation(*parts, batch_size=_BATCH, **_PIXELS)


@cache
def recolouring(train: int = 256, held_out: int = 64) -> UnpairedTranslation:
    """The task of turning filled shapes into ones with red and blue swapped, with no pair to learn from."""
    parts = []
    for seed, count in enumerate((train, held_out, held_out)):
        _, first, _ = draw(count, 2 * seed)
        _, second, _ = draw(count, 2 * seed + 1)
        parts.append((first, second.flip(1)))
    return UnpairedTranslation(*parts, batch_size=_BATCH, **_PIXELS)


def kinds_seen(pictures_NCHW: Tensor) -> Tensor:
    """Which shape's colour a filled picture, in [-1, 1], has at its most coloured place: (N,)."""
    pixels_NPC = ((pictures_NCHW + 1) / 2).flatten(2).transpose(1, 2)
    colour_NC = pixels_NPC.gather(
        1, (pixels_NPC.amax(2) - pixels_NPC.amin(2)).argmax(1).view(-1, 1, 1).expand(-1, 1, 3)
    )
    return torch.cdist(colour_NC, COLOURS[None]).argmin(2).flatten()


class Translator(nn.Module):
    """Pictures (N, 3, H, W) to pictures around [-1, 1]: two strided layers down, residual blocks, two layers up.

    Teacher and students are of this kind; `width` is the narrowest layer's.
    """

    def __init__(self, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down1, self.down2 = Normed(width, 2 * width, stride=2), Normed(2 * width, 4 * width, stride=2)
        self.blocks = nn.ModuleList(Residual(4 * width) for _ in range(blocks))
        self.up1, self.up2 = Normed(4 * width, 2 * width), Normed(2 * width, width)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The translated pictures, not clamped."""
        x = self.first(x)
        for layer in (self.down1, self.down2):
            x = layer(F.leaky_relu(x, SLOPE))
        for block in self.blocks:
            x = block(x)
        for layer in (self.up1, self.up2):
            x = layer(F.interpolate(F.leaky_relu(x, SLOPE), scale_factor=2.0))
        translated: Tensor = self.last(F.leaky_relu(x, SLOPE))
        return translated


class Normed(nn.Module):
    """A 3x3 convolution and an instance norm, as translators commonly have."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride, padding=1)
        self.norm = nn.InstanceNorm2d(after, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """The maps, normalized image by image."""
        maps: Tensor = self.norm(self.conv(x))
        return maps


class Residual(nn.Module):
    """x plus two normed convolutions, a leaky rectifier between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Normed(width, width), Normed(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps of the same shape."""
        return x + self.conv2(F.leaky_relu(self.conv1(x), SLOPE))


@cache
def filling_teacher() -> nn.Module:
    """The teacher that fills outlines: trained once on the real pictures by L1, and frozen."""
    with seeded(0):
        teacher = Translator()
    return learn(teacher, filling(), seed=0, epochs=_EPOCHS).requires_grad_(False)


@torch.no_grad()
def filling_error(model: nn.Module) -> float:
    """The mean absolute error of filled test outlines against the real pictures, of pixels in [-1, 1]."""
    task = filling()
    errors = [(model(*batch.inputs) - batch.target).abs().flatten(1).mean(1) for batch in task.batches("test")]
    return float(torch.cat(errors).double().mean())


def _signed_distance(kinds_N: Tensor, radius_N: Tensor, centre_N2: Tensor) -> Tensor:
    """How many pixels each place lies inside the shape's edge, negative outside: (N, 16, 16)."""
    along = torch.arange(SIDE, dtype=torch.float)
    y = (along[None, :, None] - centre_N2[:, 0, None, None]).abs()
    x = (along[None, None, :] - centre_N2[:, 1, None, None]).abs()
    norms = torch.stack([(x.square() + y.square()).sqrt(), torch.maximum(x, y) * 1.13, (x + y) * 0.8])
    return radius_N[:, None, None] - norms[kinds_N, torch.arange(len(kinds_N))]
