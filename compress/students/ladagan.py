"""LadaGAN: Morales-Juarez and Fuentes-Pineda 2024, "Efficient GANs using linear additive-attention Transformers".

A generator of transformer blocks whose attention has one vector per head instead of a map of all pairs of positions:
its cost and memory grow with the number of positions, not with its square.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import ModelError

EPS = 1e-6


class AdditiveAttention(nn.Module):
    """Tokens (N, T, D) weighed by themselves: each head's queries are averaged into one, which scales keys and values.

    The weights of the average are a softmax over the tokens of one number per token and head. Nothing depends on the
    tokens' order.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"LadaGan: {width} channels do not divide into {heads} heads; change either")
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.weigh, self.out = nn.Linear(width, heads), nn.Linear(width, width)

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Tokens of the same shape."""
        query_NTD = self.query(x_NTD)
        depth = query_NTD.shape[2] // self.heads
        share_NTH = (self.weigh(query_NTD) * depth**-0.5).softmax(1)
        split_NTHd = query_NTD.unflatten(2, (self.heads, depth))
        global_N1D = (split_NTHd * share_NTH[..., None]).sum(1, keepdim=True).flatten(2)
        mixed: Tensor = self.out(self.value(x_NTD) * (self.key(x_NTD) * global_N1D))
        return mixed


class ModulatedNorm(nn.Module):
    """A layer norm whose scale and shift come from the latent."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(latent, width)
        self.scale, self.shift = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.ones_(self.scale.bias)

    def forward(self, x_NTD: Tensor, z_NL: Tensor) -> Tensor:
        """Tokens of the same shape."""
        hidden = self.hidden(z_NL).relu()
        normed = F.layer_norm(x_NTD, x_NTD.shape[2:], eps=EPS)
        return normed * self.scale(hidden)[:, None] + self.shift(hidden)[:, None]


class Block(nn.Module):
    """Attention added to its input, then two layers per token; as published, nothing goes past these."""

    def __init__(self, width: int, heads: int, inside: int, latent: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ModulatedNorm(width, latent), ModulatedNorm(width, latent)
        self.attention = AdditiveAttention(width, heads)
        self.widen, self.narrow = nn.Linear(width, inside), nn.Linear(inside, width)

    def forward(self, x_NTD: Tensor, z_NL: Tensor) -> Tensor:
        """Tokens of the same shape."""
        x_NTD = x_NTD + self.attention(self.norm1(x_NTD, z_NL))
        narrowed: Tensor = self.narrow(F.gelu(self.widen(self.norm2(x_NTD, z_NL))))
        return narrowed


class LadaGan(nn.Module):
    """Latents (N, latent) to images (N, colours, side, side), side = start_px * 2^(len(widths) - 1) * patch.

    Args:
        latent: width of the latents.
        widths: channels of the tokens at each resolution, from coarse to fine; multiples of four times the heads.
        heads: of each attention.
        start_px: side of the first map, whose positions are the first tokens.
        patch: side of the pixels that one token of the last map stands for.
        colours: channels of the image.
    """

    def __init__(
        self,
        latent: int = 128,
        widths: Sequence[int] = (1024, 256, 64),
        heads: int = 2,
        start_px: int = 8,
        patch: int = 1,
        colours: int = 3,
    ) -> None:
        super().__init__()
        self.start_px, self.patch = start_px, patch
        self.first = nn.Linear(latent, widths[0] * start_px**2, bias=False)
        self.places = nn.ParameterList(
            0.02 * torch.randn(1, (start_px * 2**stage) ** 2, width) for stage, width in enumerate(widths)
        )
        # Twice the width inside for the widest tokens and relatively more for the narrow ones, as published.
        self.blocks = nn.ModuleList(
            Block(width, heads, 2 ** (stage + 1) * width, latent) for stage, width in enumerate(widths)
        )
        self.grow = nn.ModuleList(nn.Conv2d(before // 4, after, 3, padding=1) for before, after in pairwise(widths))
        self.last = nn.Conv2d(widths[-1] // patch**2, colours, 3, padding=1)

    def forward(self, z_NL: Tensor) -> Tensor:
        """The images, not clamped."""
        side = self.start_px
        x_NTD = self.first(z_NL).unflatten(1, (side**2, -1))
        for stage, (block, places) in enumerate(zip(self.blocks, self.places, strict=True)):
            x_NTD = block(x_NTD + places, z_NL)
            x_NCHW = x_NTD.transpose(1, 2).unflatten(2, (side, side))
            if stage < len(self.grow):
                x_NTD = self.grow[stage](F.pixel_shuffle(x_NCHW, 2)).flatten(2).transpose(1, 2)
                side *= 2
        if self.patch > 1:
            x_NCHW = F.pixel_shuffle(x_NCHW, self.patch)
        image: Tensor = self.last(x_NCHW)
        return image
