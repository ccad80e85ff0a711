"""A small UNet that denoises, for teachers and students of diffusion: convolutions, SiLU and sums, and little else.

Without normalization layers, whose statistics phones compute in float: the residual branches begin at zero instead,
which is what keeps such nets trainable. The noise level scales and shifts the channels of every block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FREQUENCIES = 16
Layer = TypeVar("Layer", bound=nn.Module)


class DenoiserUnet(nn.Module):
    """Scaled samples (N, C, H, W), times (N,) and condition rows (N, K) to raw outputs (N, C, H, W).

    Args:
        channels: of the samples.
        width: channels at full resolution.
        multipliers: of the width at each resolution, from full on; each halves the sides.
        blocks: residual blocks per resolution, on the way down and up.
        conditions: length K of the condition rows (one-hot classes, a text's embedding); a row of zeros asks for
            nothing in particular. 0: the network takes none.
        until: whether a second time (N,), where a flow map is to go, comes behind the first. Its embedding begins at
            zero, so that a network without one can be loaded into it.
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        conditions: int = 0,
        until: bool = False,
    ) -> None:
        super().__init__()
        depth = 4 * width
        self.embed = TimeEmbedding(depth)
        self.embed_until = TimeEmbedding(depth, zero=True) if until else None
        self.embed_condition = nn.Linear(conditions, depth, bias=False) if conditions else None
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        widths = [width * m for m in multipliers]
        now, kept = width, [width]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, wide in enumerate(widths):
            if level:
                self.down.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                kept.append(now)
            for _ in range(blocks):
                self.down.append(_Block(now, wide, depth))
                now = wide
                kept.append(now)
        self.kept_widths = tuple(kept)
        self.middle = _Block(now, now, depth)
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(_Block(now + kept.pop(), wide, depth))
                now = wide
            if level:
                self.up.append(_Larger(now))
        self.last = zeroed(nn.Conv2d(now, channels, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor, *others: Tensor) -> Tensor:
        """The raw outputs; `others` are the second time, where there is one, and the condition, where there is one."""
        embedded = self.embedded(time, *others)
        return self.decoded(self.encoded(x, embedded), embedded)

    def embedded(self, time: Tensor, *others: Tensor) -> Tensor:
        """What all blocks are told, as rows (N, depth): of the times and the condition."""
        embedded = self.embed(time)
        rest = list(others)
        if self.embed_until is not None:
            embedded = embedded + self.embed_until(rest.pop(0))
        if self.embed_condition is not None:
            embedded = embedded + self.embed_condition(rest.pop(0))
        return F.silu(embedded)

    def encoded(self, x: Tensor, embedded: Tensor) -> list[Tensor]:
        """The features on the way down, all of which the way up takes; the deepest are the last."""
        kept = [self.first(x)]
        for part in self.down:
            kept.append(part(kept[-1], embedded) if isinstance(part, _Block) else part(kept[-1]))
        return kept

    def decoded(self, kept: Sequence[Tensor], embedded: Tensor) -> Tensor:
        """The raw outputs behind the features of the way down."""
        left = list(kept)
        x = self.middle(left[-1], embedded)
        for part in self.up:
            x = part(torch.cat([x, left.pop()], 1), embedded) if isinstance(part, _Block) else part(x)
        output: Tensor = self.last(F.silu(x))
        return output


class TimeEmbedding(nn.Module):
    """Times (N,) to rows (N, depth), through waves from a slow one over all times to fast ones."""

    frequencies: Tensor

    def __init__(self, depth: int, zero: bool = False) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-1, 1, FREQUENCIES) * math.pi)
        self.inner = nn.Linear(2 * FREQUENCIES, depth)
        self.outer = nn.Linear(depth, depth)
        if zero:
            zeroed(self.outer)

    def forward(self, time: Tensor) -> Tensor:
        """The rows."""
        angles = time[:, None] * self.frequencies
        rows: Tensor = self.outer(F.silu(self.inner(torch.cat([angles.cos(), angles.sin()], 1))))
        return rows


class _Block(nn.Module):
    """x + conv(silu(conv(silu(x)) scaled and shifted by the embedding)); the last convolution begins at zero."""

    def __init__(self, before: int, after: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.scale = nn.Linear(depth, after)
        with torch.no_grad():
            self.scale.bias.add_(1)  # the scale's own 1; an addition of a plain number stays float on phones
        self.shift = nn.Linear(depth, after)
        self.second = zeroed(nn.Conv2d(after, after, 3, padding=1))
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        h = self.first(F.silu(x))
        h = h * self.scale(embedded)[:, :, None, None] + self.shift(embedded)[:, :, None, None]
        result: Tensor = self.skip(x) + self.second(F.silu(h))
        return result


class _Larger(nn.Module):
    """Twice as many pixels a side, by repetition and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        larger: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return larger


def zeroed(layer: Layer) -> Layer:
    """The layer with all its parameters at zero, in place."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
