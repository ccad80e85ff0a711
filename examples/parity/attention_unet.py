"""A small UNet of the diffusion type (Ho et al., 2020): residual blocks told the timestep, attention, two inputs.

Random weights from a fixed seed. The inputs are photograph tiles in noise, with the timestep as a float.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.tasks import ImageToImage
from examples.parity.photographs import tiles
from examples.parity.seeded import seeded

TITLE = "attention UNet (timestep, GroupNorm, SiLU, attention)"
SOURCE = "random weights, seed 0"
SIDE = 32
STEPS = 1000


class Timestep(nn.Module):
    """Timesteps (N,) to embeddings (N, width): sines and cosines, then two linear layers."""

    frequencies: Tensor

    def __init__(self, waves: int, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.arange(waves // 2) * (-math.log(10000) / (waves // 2))))
        self.first, self.second = nn.Linear(waves, width), nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return self.second(F.silu(self.first(torch.cat([angles.cos(), angles.sin()], 1))))


class Residual(nn.Module):
    """Two convolutions with the timestep added in between, beside a skip."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inputs), nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.time = nn.Linear(time, outputs)
        self.norm2, self.conv2 = nn.GroupNorm(8, outputs), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class Attention(nn.Module):
    """Every place looks at every other, in several heads (Vaswani et al., 2017)."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(8, width)
        self.to_qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, width, high, wide = x.shape
        parts = self.to_qkv(self.norm(x)).chunk(3, 1)
        query, key, value = (p.reshape(-1, self.heads, width // self.heads, high * wide).transpose(2, 3) for p in parts)
        y = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(y.transpose(2, 3).reshape(-1, width, high, wide))


class AttentionUNet(nn.Module):
    """Noisy images (N, 3, 32, 32) and timesteps (N,) to the noise in them, (N, 3, 32, 32)."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96), time: int = 128) -> None:
        super().__init__()
        self.embed = Timestep(64, time)
        self.stem = nn.Conv2d(3, widths[0], 3, 1, 1)
        self.down = nn.ModuleList(Residual(i, o, time) for i, o in zip((widths[0], *widths), widths, strict=False))
        self.shrink = nn.ModuleList(nn.Conv2d(w, w, 3, 2, 1) for w in widths[:-1])
        self.attend = nn.ModuleList([Attention(widths[-2]), Attention(widths[-1])])
        self.bottom = Residual(widths[-1], widths[-1], time)
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.grow = nn.ModuleList(nn.Conv2d(i, o, 3, 1, 1) for i, o in pairs)
        self.up = nn.ModuleList(Residual(2 * o, o, time) for _, o in pairs)
        self.norm, self.head = nn.GroupNorm(8, widths[0]), nn.Conv2d(widths[0], 3, 3, 1, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time, x, kept = self.embed(t), self.stem(x), []
        for number, block in enumerate(self.down):
            x = block(x, time)
            if number:
                x = self.attend[number - 1](x)
            if number < len(self.shrink):
                kept.append(x)
                x = self.shrink[number](x)
        x = self.bottom(x, time)
        for grow, block, skip in zip(self.grow, self.up, reversed(kept), strict=True):
            x = block(torch.cat([grow(F.interpolate(x, scale_factor=2.0, mode="nearest")), skip], 1), time)
        return self.head(F.silu(self.norm(x)))


def teacher() -> AttentionUNet:
    return seeded(AttentionUNet)


def task() -> ImageToImage:
    """Tiles in noise, split by file; the outputs have no fixed range."""
    return ImageToImage(
        *(noisy(part, seed) for seed, part in enumerate(tiles(SIDE))),
        batch_size=8,
        data_range=None,
        input_range=(-2.0, 4.0),
    )


def noisy(stored: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Tiles at random places of the cosine noise schedule (Nichol and Dhariwal, 2021), and those places."""
    generator = torch.Generator().manual_seed(seed)
    clean = stored.float() / 127.5 - 1
    t = torch.randint(0, STEPS, (len(clean),), generator=generator).float()
    angle = (t / STEPS * math.pi / 2).view(-1, 1, 1, 1)
    return angle.cos() * clean + angle.sin() * torch.randn(clean.shape, generator=generator), t
