"""GET: Geng et al. 2023, "One-Step Diffusion Distillation via Deep Equilibrium Models".

A small vision transformer makes of a noise what a few tied blocks are told at every turn; these are then iterated, and
where they come to rest is the sample. The file holds the tied blocks once, however many iterations there are: with the
same weights another number of them gives another network, slower and better or faster and worse.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.students.denoiser_unet import TimeEmbedding, zeroed


class Equilibrium(nn.Module):
    """Scaled samples (N, C, H, W), times (N,) and condition rows (N, K) to raw outputs (N, C, H, W).

    Args:
        channels: of the samples.
        side: H and W, a multiple of `patch`.
        patch: side of a patch, which is one token.
        width: of the tokens, a multiple of `heads` and of 4.
        heads: of the attention.
        injection: blocks that are used once, and make what the tied ones are told.
        tied: blocks that are iterated.
        iterations: how often. It is no part of the weights.
        widening: of the tied blocks' hidden layers; the others' is 4.
        conditions: length K of the condition rows; 0: the network takes none.
    """

    places: Tensor

    def __init__(
        self,
        channels: int = 1,
        side: int = 8,
        patch: int = 2,
        width: int = 64,
        heads: int = 4,
        injection: int = 6,
        tied: int = 3,
        iterations: int = 6,
        widening: int = 6,
        conditions: int = 0,
    ) -> None:
        super().__init__()
        self.iterations = iterations
        self.embed = TimeEmbedding(width)
        self.embed_condition = nn.Linear(conditions, width, bias=False) if conditions else None
        self.told = nn.Linear(width, 3 * width)
        self.first = nn.Conv2d(channels, width, patch, patch)
        self.register_buffer("places", _places(side // patch, width))
        self.injection = nn.ModuleList(_Block(width, heads, 4) for _ in range(injection))
        self.inject = nn.ModuleList(_PerToken(width, 3 * width, bias=False) for _ in range(tied))
        self.tied = nn.ModuleList(_Block(width, heads, widening) for _ in range(tied))
        self.settled = nn.LayerNorm(width)
        self.last = zeroed(nn.Conv2d(width, channels * patch**2, 1))
        self.patch = patch

    def forward(self, x: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        """The raw outputs."""
        embedded = self.embed(time)
        if self.embed_condition is not None:
            embedded = embedded + self.embed_condition(condition[0])
        told = self.told(F.silu(embedded))[:, None]
        patches = self.first(x)
        tokens = patches.flatten(2).transpose(1, 2) + self.places
        for block in self.injection:
            tokens = block(tokens, told)
        injected = [told + inject(tokens) for inject in self.inject]
        state = torch.zeros_like(tokens)
        for _ in range(self.iterations):
            for block, given in zip(self.tied, injected, strict=True):
                state = block(state, given)
            state = self.settled(state)
        output: Tensor = self.last(state.transpose(1, 2).unflatten(2, patches.shape[-2:]))
        return F.pixel_shuffle(output, self.patch)


class _PerToken(nn.Linear):
    """A linear layer for tokens (N, T, width), as a product of two matrices.

    ONNX files hold the weight of such a product once, however often it is used; of others they hold a copy per use.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The tokens (N, T, ...) after the layer."""
        return super().forward(x.flatten(0, 1)).unflatten(0, (-1, x.shape[1]))


class _Block(nn.Module):
    """A transformer block; what it is told (N, T or 1, 3 width) is added to its queries, keys and values."""

    def __init__(self, width: int, heads: int, widening: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.out = _PerToken(width, 3 * width), _PerToken(width, width)
        self.widen, self.narrow = _PerToken(width, widening * width), _PerToken(widening * width, width)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query_key_value(self.before(x)) + told).chunk(3, 2)
        )
        seen = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(3) @ value
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        result: Tensor = x + self.narrow(F.gelu(self.widen(self.between(x))))
        return result


def _places(side: int, width: int) -> Tensor:
    """What tells the tokens apart: (1, side^2, width), waves of the row and of the column."""
    speeds = 10_000.0 ** -torch.linspace(0, 1, width // 4)
    angles = torch.arange(side)[:, None] * speeds
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1)[None].clone()
