"""Activations, each between two layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.conformance.case import DIFFUSION, GENERATOR, IMAGE, SIGNAL, TOKENS, VISION, VOCODER, Made, case


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha, one alpha per channel (Ziyin et al., 2020; BigVGAN's activation)."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(1, 8, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 8, L) -> the same shape."""
        return x + torch.sin(self.alpha * x).square() / self.alpha


_PICTURES = (VISION, GENERATOR, DIFFUSION)

CASES = (
    case("relu", F.relu, IMAGE),
    case("relu_in_place", Made(lambda: nn.ReLU(inplace=True)), IMAGE),
    case("relu6", F.relu6, IMAGE, kinds=(VISION,)),
    case("hardtanh", F.hardtanh, IMAGE, kinds=(VISION,)),
    case("leaky_relu", lambda x: F.leaky_relu(x, 0.2), IMAGE, kinds=(GENERATOR, VOCODER)),
    case("leaky_relu_1d", lambda x: F.leaky_relu(x, 0.1), SIGNAL, kinds=(VOCODER,)),
    case("prelu", Made(lambda: nn.PReLU(8)), IMAGE, kinds=(GENERATOR,)),
    case("prelu_single", Made(nn.PReLU), IMAGE, kinds=(GENERATOR,)),
    case("elu", F.elu, IMAGE, kinds=(VISION, VOCODER)),
    case("selu", F.selu, IMAGE, kinds=(VISION,)),
    case("gelu", F.gelu, TOKENS, kinds=_PICTURES, tokens=True),
    case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), TOKENS, kinds=_PICTURES, tokens=True),
    case("silu", F.silu, IMAGE, kinds=_PICTURES),
    case("hardswish", F.hardswish, IMAGE, kinds=(VISION,)),
    case("hardsigmoid", F.hardsigmoid, IMAGE, kinds=(VISION,)),
    case("sigmoid", torch.sigmoid, IMAGE),
    case("tanh", torch.tanh, IMAGE, kinds=(GENERATOR, VOCODER)),
    case("softplus", F.softplus, IMAGE, kinds=(GENERATOR, DIFFUSION)),
    case("mish", F.mish, IMAGE, kinds=(VISION, DIFFUSION)),
    case("softmax", lambda x: F.softmax(x, -1), TOKENS, kinds=_PICTURES, tokens=True),
    case("softmax_channels", lambda x: F.softmax(x, 1), IMAGE, kinds=(VISION,)),
    case("log_softmax", lambda x: F.log_softmax(x, -1), TOKENS, kinds=(VISION,), tokens=True),
    case("clamp", lambda x: x.clamp(-0.5, 0.5), IMAGE, kinds=(GENERATOR, DIFFUSION)),
    case("clamp_min", lambda x: x.clamp(min=-0.25), IMAGE, kinds=(DIFFUSION,)),
    case("clamp_without_zero", lambda x: x.clamp(0.25, 1.0), IMAGE, kinds=(DIFFUSION, VOCODER)),
    case("glu", lambda x: F.glu(x, 1), IMAGE, kinds=(DIFFUSION, VOCODER)),
    case("gated_tanh", lambda x: torch.tanh(x[:, :4]) * torch.sigmoid(x[:, 4:]), SIGNAL, kinds=(VOCODER, DIFFUSION)),
    case("geglu", lambda x: x[..., :8] * F.gelu(x[..., 8:]), TOKENS, kinds=(DIFFUSION,), tokens=True),
    case("snake", Made(Snake), SIGNAL, kinds=(VOCODER,)),
)
