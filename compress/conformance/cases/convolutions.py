"""Convolutions and linear layers in all forms, with the norms and activations that fold into them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from compress.conformance.case import (
    DIFFUSION,
    GENERATOR,
    IMAGE,
    ROW,
    SIGNAL,
    TOKENS,
    VISION,
    VOCODER,
    VOLUME,
    bare,
)

_WIDE = (1, 8, 12, 16)  # not square: a height taken for a width shows


class Modulated(nn.Module):
    """A convolution whose weight is scaled by the input and normalized (StyleGAN 2, Karras et al., 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.style = nn.Linear(8, 8)
        self.weight = nn.Parameter(torch.randn(6, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 8, H, W) -> (1, 6, H, W)."""
        scale = self.style(x.mean((2, 3))).reshape(1, 8, 1, 1)
        weight = self.weight * scale
        weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        return nn.functional.conv2d(x, weight, padding=1)


class LinearNorm(nn.Module):
    """A linear layer, its batch norm, relu."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12, eps=1e-2), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 16) -> (1, 12)."""
        y: Tensor = self.layers(x)
        return y


_PICTURES = (VISION, GENERATOR, DIFFUSION)

CASES = (
    bare("conv2d", lambda: nn.Conv2d(8, 6, 3, padding=1), _WIDE),
    bare("conv2d_no_bias", lambda: nn.Conv2d(8, 6, 3, padding=1, bias=False), _WIDE),
    bare("conv2d_pointwise", lambda: nn.Conv2d(8, 12, 1), IMAGE),
    bare("conv2d_strided", lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1), _WIDE),
    bare("conv2d_unpadded", lambda: nn.Conv2d(8, 6, 3), _WIDE),
    bare("conv2d_kernel_7x1", lambda: nn.Conv2d(8, 6, (7, 1), padding=(3, 0)), _WIDE),
    bare("conv2d_strides_2x1", lambda: nn.Conv2d(8, 6, 3, stride=(2, 1), padding=1), _WIDE),
    bare("conv2d_same", lambda: nn.Conv2d(8, 6, 3, padding="same"), _WIDE),
    bare("conv2d_same_even", lambda: nn.Conv2d(8, 6, 4, padding="same"), _WIDE),
    bare("conv2d_dilated", lambda: nn.Conv2d(8, 6, 3, padding=2, dilation=2), _WIDE),
    bare("conv2d_grouped", lambda: nn.Conv2d(8, 12, 3, padding=1, groups=4), _WIDE, kinds=_PICTURES),
    bare("conv2d_grouped_dilated", lambda: nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2), _WIDE, kinds=_PICTURES),
    bare("conv2d_depthwise", lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), _WIDE, kinds=_PICTURES),
    bare("conv2d_depthwise_strided", lambda: nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=8), _WIDE, kinds=_PICTURES),
    bare("conv2d_depthwise_multiplied", lambda: nn.Conv2d(8, 16, 3, padding=1, groups=8), _WIDE, kinds=(VISION,)),
    bare(
        "conv2d_depthwise_dilated",
        lambda: nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        _WIDE,
        kinds=(VISION, GENERATOR),
    ),
    bare(
        "conv2d_reflect_padded",
        lambda: nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"),
        _WIDE,
        kinds=(GENERATOR,),
    ),
    bare(
        "conv2d_replicate_padded",
        lambda: nn.Conv2d(8, 6, 3, padding=1, padding_mode="replicate"),
        _WIDE,
        kinds=(GENERATOR,),
    ),
    bare(
        "conv2d_circular_padded",
        lambda: nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular"),
        _WIDE,
        kinds=(GENERATOR, DIFFUSION),
    ),
    bare("conv2d_relu", lambda: nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.ReLU()), IMAGE),
    bare("conv2d_relu6", lambda: nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.ReLU6()), IMAGE, kinds=(VISION,)),
    bare(
        "conv2d_batch_norm_relu",
        lambda: nn.Sequential(nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, eps=1e-2), nn.ReLU()),
        IMAGE,
        kinds=_PICTURES,
    ),
    bare(
        "conv2d_depthwise_batch_norm",
        lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8, eps=1e-3)),
        IMAGE,
        kinds=(VISION,),
    ),
    bare(
        "conv2d_spectral_norm",
        lambda: parametrizations.spectral_norm(nn.Conv2d(8, 6, 3, padding=1)),
        IMAGE,
        kinds=(GENERATOR,),
    ),
    bare(
        "conv2d_weight_norm",
        lambda: parametrizations.weight_norm(nn.Conv2d(8, 6, 3, padding=1)),
        IMAGE,
        kinds=(GENERATOR,),
    ),
    bare("conv2d_modulated", Modulated, IMAGE, kinds=(GENERATOR,)),
    bare("conv1d", lambda: nn.Conv1d(8, 6, 5, padding=2), SIGNAL, kinds=(VOCODER, DIFFUSION)),
    bare("conv1d_strided", lambda: nn.Conv1d(8, 6, 4, stride=2, padding=1), SIGNAL, kinds=(VOCODER,)),
    bare("conv1d_dilated", lambda: nn.Conv1d(8, 6, 3, padding=5, dilation=5), SIGNAL, kinds=(VOCODER,)),
    bare("conv1d_grouped", lambda: nn.Conv1d(8, 12, 3, padding=1, groups=4), SIGNAL, kinds=(VOCODER,)),
    bare("conv1d_depthwise", lambda: nn.Conv1d(8, 8, 7, padding=3, groups=8), SIGNAL, kinds=(VOCODER,)),
    bare(
        "conv1d_weight_norm",
        lambda: parametrizations.weight_norm(nn.Conv1d(8, 6, 3, padding=3, dilation=3)),
        SIGNAL,
        kinds=(VOCODER,),
    ),
    bare("conv3d", lambda: nn.Conv3d(4, 6, 3, padding=1), VOLUME, kinds=(DIFFUSION,)),
    bare("conv3d_strided", lambda: nn.Conv3d(4, 6, (1, 3, 3), stride=(1, 2, 2)), VOLUME, kinds=(DIFFUSION,)),
    bare("linear", lambda: nn.Linear(16, 10), ROW),
    bare("linear_no_bias", lambda: nn.Linear(16, 10, bias=False), ROW),
    bare("linear_of_tokens", lambda: nn.Linear(16, 24), TOKENS, kinds=_PICTURES),
    bare("linear_batch_norm_relu", LinearNorm, ROW, kinds=(VISION,)),
)
