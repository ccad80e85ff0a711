"""Normalizations, as layers and written out: batch, layer, group, instance, RMS, adaptive instance, pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.conformance.case import (
    DIFFUSION,
    GENERATOR,
    IMAGE,
    ROW,
    SIGNAL,
    TOKENS,
    VISION,
    VOCODER,
    Made,
    case,
)

_STYLE = (1, 8, 1, 1)
_PICTURES = (VISION, GENERATOR, DIFFUSION)


class AdaptiveInstance(nn.Module):
    """Adaptive instance norm written out: the style gives scale and shift (Huang and Belongie, 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.affine = nn.Linear(8, 16)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """X (1, 8, H, W), style (1, 8, 1, 1) -> (1, 8, H, W)."""
        scale, shift = self.affine(style.flatten(1)).reshape(-1, 16, 1, 1).chunk(2, 1)
        mean = x.mean((2, 3), keepdim=True)
        variance = (x - mean).square().mean((2, 3), keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-5) * (1 + scale) + shift


class AdaptiveInstanceLayer(nn.Module):
    """Adaptive instance norm around torch's instance norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(8)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """X (1, 8, H, W), style (1, 8, 1, 1) -> (1, 8, H, W)."""
        y: Tensor = self.norm(x) * (1 + style) + style
        return y


class ChannelsFirstLayerNorm(nn.Module):
    """Layer norm over the channels of an image, by two permutations (ConvNeXt, Liu et al., 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 8, H, W) -> the same shape."""
        y: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y


class GlobalResponse(nn.Module):
    """Global response norm (ConvNeXt V2, Woo et al., 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 8, H, W) -> the same shape."""
        energy = x.square().sum((2, 3), keepdim=True).sqrt()
        return x + self.gamma * x * energy / (energy.mean(1, keepdim=True) + 1e-6)


class RmsWrittenOut(nn.Module):
    """RMS norm from mean and rsqrt, as language and diffusion models write it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(16) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """X (1, L, 16) -> the same shape."""
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def pixel_norm(x: Tensor) -> Tensor:
    """Each pixel over its channels' root mean square (Progressive GAN, Karras et al., 2018)."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


CASES = (
    # A relu between the layer and the norm: this one cannot be folded away.
    case("batch_norm2d", Made(lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8, eps=1e-3))), IMAGE, kinds=_PICTURES),
    case("batch_norm1d", Made(lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(8))), SIGNAL, kinds=(VOCODER,)),
    case("layer_norm", Made(lambda: nn.LayerNorm(16)), TOKENS, kinds=_PICTURES, tokens=True),
    case("layer_norm_row", Made(lambda: nn.LayerNorm(16)), ROW, kinds=_PICTURES),
    case(
        "layer_norm_plain",
        Made(lambda: nn.LayerNorm(16, elementwise_affine=False)),
        TOKENS,
        kinds=(DIFFUSION,),
        tokens=True,
    ),
    case("layer_norm_channels_first", Made(ChannelsFirstLayerNorm), IMAGE, kinds=(VISION,)),
    case("group_norm", Made(lambda: nn.GroupNorm(4, 8)), IMAGE, kinds=(GENERATOR, DIFFUSION)),
    case("group_norm_plain", Made(lambda: nn.GroupNorm(4, 8, affine=False)), IMAGE, kinds=(DIFFUSION,)),
    case("group_norm_one_group", Made(lambda: nn.GroupNorm(1, 8, eps=1e-3)), IMAGE, kinds=(VISION, DIFFUSION)),
    case("group_norm_1d", Made(lambda: nn.GroupNorm(2, 8)), SIGNAL, kinds=(VOCODER,)),
    case("group_norm_silu", Made(lambda: nn.Sequential(nn.GroupNorm(4, 8), nn.SiLU())), IMAGE, kinds=(DIFFUSION,)),
    case("instance_norm2d", Made(lambda: nn.InstanceNorm2d(8)), IMAGE, kinds=(GENERATOR,)),
    case(
        "instance_norm2d_affine", Made(lambda: nn.InstanceNorm2d(8, eps=1e-3, affine=True)), IMAGE, kinds=(GENERATOR,)
    ),
    case(
        "instance_norm2d_tracked",
        Made(lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
        IMAGE,
        kinds=(GENERATOR,),
    ),
    case("instance_norm1d", Made(lambda: nn.InstanceNorm1d(8, affine=True)), SIGNAL, kinds=(VOCODER,)),
    case("rms_norm", Made(lambda: nn.RMSNorm(16)), TOKENS, kinds=(DIFFUSION,), tokens=True),
    case("rms_norm_written_out", Made(RmsWrittenOut), TOKENS, kinds=(DIFFUSION,), tokens=True),
    case("adain_written_out", Made(AdaptiveInstance), IMAGE, _STYLE, kinds=(GENERATOR,)),
    case("adain_layer", Made(AdaptiveInstanceLayer), IMAGE, _STYLE, kinds=(GENERATOR,)),
    case("pixel_norm", pixel_norm, IMAGE, kinds=(GENERATOR,)),
    case("global_response_norm", Made(GlobalResponse), IMAGE, kinds=(VISION,)),
    case("local_response_norm", Made(lambda: nn.LocalResponseNorm(5)), IMAGE, kinds=(VISION,)),
    case("l2_normalize", lambda x: F.normalize(x, dim=1), ROW, kinds=(VISION, DIFFUSION)),
)
