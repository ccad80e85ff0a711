"""LPIPS (Zhang et al., 2018, version 0.1): how different two images look to a network that was trained on people.

The weights are not part of this project: whoever uses the metric hands over those of the backbone (AlexNet or VGG16,
trained on ImageNet) and of the five heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import DataError


@dataclass(frozen=True, slots=True)
class _Plan:
    """A backbone's convolutions: stride and padding of each, which are read, and behind which a pooling stands."""

    strides: tuple[int, ...]
    paddings: tuple[int, ...]
    read: tuple[int, ...]
    pooled: tuple[int, ...]
    pool: tuple[int, int]  # kernel, stride


_PLANS = {
    "alex": _Plan((4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (0, 1, 2, 3, 4), (0, 1), (3, 2)),
    "vgg": _Plan((1,) * 13, (1,) * 13, (1, 3, 6, 9, 12), (1, 3, 6, 9), (2, 2)),
}

# What the published metric subtracts and divides by, per colour, for images in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_TINY = 1e-10  # keeps a position without any activation from dividing by zero, as in the published metric


class Lpips(nn.Module):
    """The perceptual distance of image pairs; 0 is equal, and it has no unit.

    Args:
        backbone: "alex" or "vgg".
        convolutions: (weight (out, in, k, k), bias (out,)) of the backbone's convolutions, in order.
        heads: the five heads' weights, each with one number per channel of the layer that it reads.

    Raises:
        DataError: there is no such backbone, or the weights are not those of one.
    """

    def __init__(self, backbone: str, convolutions: Sequence[tuple[Tensor, Tensor]], heads: Sequence[Tensor]) -> None:
        super().__init__()
        if backbone not in _PLANS:
            raise DataError(f"LPIPS knows no backbone '{backbone}'; it knows {', '.join(_PLANS)}")
        self.backbone, self.plan = backbone, _PLANS[backbone]
        _check(self.plan, backbone, convolutions, heads)
        for number, (weight, bias) in enumerate(convolutions):
            self.register_buffer(f"weight_{number}", weight.float())
            self.register_buffer(f"bias_{number}", bias.float())
        for number, head in enumerate(heads):
            self.register_buffer(f"head_{number}", head.float().reshape(1, -1, 1, 1))
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))

    def features(self, image_NCHW: Tensor) -> list[Tensor]:
        """The activations that the heads read, each of length 1 over its channels."""
        assert isinstance(self.shift, Tensor) and isinstance(self.scale, Tensor)
        x, found = (image_NCHW - self.shift) / self.scale, []
        for number, (stride, padding) in enumerate(zip(self.plan.strides, self.plan.paddings, strict=True)):
            weight, bias = getattr(self, f"weight_{number}"), getattr(self, f"bias_{number}")
            x = F.relu(F.conv2d(x, weight, bias, stride, padding))
            if number in self.plan.read:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + _TINY))
            if number in self.plan.pooled:
                x = F.max_pool2d(x, *self.plan.pool)
        return found

    @torch.no_grad()
    def forward(self, output_NCHW: Tensor, reference_NCHW: Tensor) -> Tensor:
        """The distance of each pair of RGB images in [-1, 1]: (N,)."""
        pairs = zip(self.features(output_NCHW), self.features(reference_NCHW), strict=True)
        parts = [
            ((first - second).square() * getattr(self, f"head_{number}")).sum(1).mean((1, 2))
            for number, (first, second) in enumerate(pairs)
        ]
        return torch.stack(parts).sum(0)


def _check(plan: _Plan, backbone: str, convolutions: Sequence[tuple[Tensor, Tensor]], heads: Sequence[Tensor]) -> None:
    """Raises DataError where the weights are not those of the backbone."""
    if len(convolutions) != len(plan.strides) or len(heads) != len(plan.read):
        raise DataError(
            f"LPIPS with {backbone} has {len(plan.strides)} convolutions and {len(plan.read)} heads; "
            f"it was given {len(convolutions)} and {len(heads)}"
        )
    for number, head in zip(plan.read, heads, strict=True):
        if head.numel() != len(convolutions[number][0]):
            raise DataError(
                f"the LPIPS head behind convolution {number} has {head.numel()} weights "
                f"for {len(convolutions[number][0])} channels"
            )
