"""Elementwise arithmetic: two tensors, one of them small, a constant, a plain number."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.conformance.case import DIFFUSION, GENERATOR, IMAGE, SIGNAL, VISION, VOCODER, Made, case

_CHANNELS = (1, 8, 1, 1)
_ROW_OF_PIXELS = (1, 1, 1, 12)
_ARITHMETIC = (VISION, GENERATOR, DIFFUSION)


class Affine(nn.Module):
    """A learned scale and shift per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(1, 8, 1, 1))
        self.shift = nn.Parameter(torch.randn(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 8, H, W) -> the same shape."""
        return x * self.scale + self.shift


class SqueezeExcite(nn.Module):
    """A gate per channel from the mean of each (Hu et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 8, H, W) -> the same shape."""
        gate = self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


CASES = (
    case("add", torch.add, IMAGE, IMAGE),
    case("add_twice", lambda x: x + x, IMAGE),
    case("add_channels", torch.add, IMAGE, _CHANNELS, kinds=_ARITHMETIC),
    case("add_row", torch.add, IMAGE, _ROW_OF_PIXELS, kinds=_ARITHMETIC),
    case("add_number", lambda x: x + 0.5, IMAGE),
    case("add_scaled", lambda x, y: torch.add(x, y, alpha=0.25), IMAGE, IMAGE, kinds=(GENERATOR,)),
    case("add_relu", lambda x, y: torch.relu(x + y), IMAGE, IMAGE, kinds=(VISION,)),
    case("sub", torch.sub, IMAGE, IMAGE),
    case("sub_number", lambda x: x - 0.5, IMAGE),
    case("one_minus", lambda x: 1.0 - x, IMAGE, kinds=(GENERATOR, DIFFUSION)),
    case("mul", torch.mul, IMAGE, IMAGE),
    case("mul_channels", torch.mul, IMAGE, _CHANNELS, kinds=_ARITHMETIC),
    case("mul_number", lambda x: x * 0.2, IMAGE),
    case("div", lambda x, y: x / (y.abs() + 1.0), IMAGE, IMAGE, kinds=(DIFFUSION,)),
    case("div_number", lambda x: x / 1.7, IMAGE),
    case("affine_parameters", Made(Affine), IMAGE),
    case("squeeze_excite", Made(SqueezeExcite), IMAGE, kinds=(VISION,)),
    case("neg", torch.neg, IMAGE),
    case("abs", torch.abs, IMAGE),
    case("square", torch.square, IMAGE),
    case("pow_3", lambda x: x**3, IMAGE, kinds=(DIFFUSION,)),
    case("sqrt", lambda x: torch.sqrt(x.abs()), IMAGE, kinds=(VOCODER, DIFFUSION)),
    case("rsqrt", lambda x: torch.rsqrt(x.abs() + 0.1), IMAGE, kinds=(DIFFUSION, GENERATOR)),
    case("exp", torch.exp, IMAGE, kinds=(VOCODER, DIFFUSION)),
    case("log", lambda x: torch.log(x.abs() + 0.1), IMAGE, kinds=(VOCODER,)),
    case("sin", torch.sin, SIGNAL, kinds=(VOCODER, DIFFUSION)),
    case("cos", torch.cos, SIGNAL, kinds=(VOCODER, DIFFUSION)),
    case("erf", torch.erf, IMAGE, kinds=(DIFFUSION,)),
    case("reciprocal", lambda x: torch.reciprocal(x.abs() + 0.5), IMAGE, kinds=(VOCODER,)),
    case("maximum", torch.maximum, IMAGE, IMAGE, kinds=(VISION, VOCODER)),
    case("minimum", torch.minimum, IMAGE, IMAGE, kinds=(VISION, VOCODER)),
    case("where", lambda x, y: torch.where(x > 0, x, y), IMAGE, IMAGE, kinds=(VISION, DIFFUSION)),
    case("masked_fill", lambda x: x.masked_fill(x < -0.5, -0.5), IMAGE, kinds=(DIFFUSION,)),
    case("lerp", lambda x, y: torch.lerp(x, y, 0.3), IMAGE, IMAGE, kinds=(GENERATOR, DIFFUSION)),
    case("floor", torch.floor, IMAGE, kinds=(VOCODER,)),
    case("round", torch.round, IMAGE, kinds=(VOCODER,)),
)
