"""LPIPS (Zhang et al., 2018, version 0.1): how different two images look to a network that was trained on people.

The weights are not part of this project: whoever uses the metric hands over those of the backbone (AlexNet or VGG16,
trained on ImageNet) and of the five heads, or a file of them (`load_lpips`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import DataError, InputError, WeightsError


@dataclass(frozen=True, slots=True)
class _Plan:
    """A backbone's convolutions: stride and padding of each, which are read, and behind which a pooling stands."""

    strides: tuple[int, ...]
    paddings: tuple[int, ...]
    read: tuple[int, ...]
    pooled: tuple[int, ...]
    pool: tuple[int, int]  # kernel, stride
    places: tuple[int, ...]  # of the convolutions among the layers of a weights file
    smallest: int  # pixels a side that leave at least one for the last convolution


_PLANS = {
    "alex": _Plan((4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (0, 1, 2, 3, 4), (0, 1), (3, 2), (0, 3, 6, 8, 10), 31),
    "vgg": _Plan(
        strides=(1,) * 13,
        paddings=(1,) * 13,
        read=(1, 3, 6, 9, 12),
        pooled=(1, 3, 6, 9),
        pool=(2, 2),
        places=(0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        smallest=16,
    ),
}

# What the published metric subtracts and divides by, per colour, for images in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_TINY = 1e-10  # keeps a position without any activation from dividing by zero, as in the published metric


class Lpips(nn.Module):
    """The perceptual distance of image pairs; 0 is equal, and it has no unit.

    Called, it measures; `distance` is the same figure as a loss to train with. Its weights are buffers, never trained.

    Args:
        backbone: "alex" or "vgg".
        convolutions: (weight (out, in, k, k), bias (out,)) of the backbone's convolutions, in order.
        heads: the five heads' weights, each with one number per channel of the layer that it reads.

    Raises:
        DataError: there is no such backbone, or the weights are not those of one.
    """

    def __init__(self, backbone: str, convolutions: Sequence[tuple[Tensor, Tensor]], heads: Sequence[Tensor]) -> None:
        super().__init__()
        self.backbone, self.plan = backbone, _plan(backbone)
        _check(self.plan, backbone, convolutions, heads)
        for number, (weight, bias) in enumerate(convolutions):
            self.register_buffer(f"weight_{number}", weight.float())
            self.register_buffer(f"bias_{number}", bias.float())
        for number, head in enumerate(heads):
            self.register_buffer(f"head_{number}", head.float().reshape(1, -1, 1, 1))
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))

    def activations(self, image_NCHW: Tensor) -> list[Tensor]:
        """The five activations that are read, behind their ReLU, of RGB images in [-1, 1]; differentiable.

        Raises:
            DataError: these are no RGB images, or they are too small for the backbone.
        """
        least = self.plan.smallest
        if image_NCHW.dim() != 4 or image_NCHW.shape[1] != 3 or min(image_NCHW.shape[2:]) < least:
            shape = tuple(image_NCHW.shape)
            raise DataError(
                f"{self.backbone} reads RGB images (N, 3, H, W) of {least} pixels or more a side, not {shape}"
            )
        assert isinstance(self.shift, Tensor) and isinstance(self.scale, Tensor)
        x, found = (image_NCHW - self.shift) / self.scale, []
        for number, (stride, padding) in enumerate(zip(self.plan.strides, self.plan.paddings, strict=True)):
            weight, bias = getattr(self, f"weight_{number}"), getattr(self, f"bias_{number}")
            x = F.relu(F.conv2d(x, weight, bias, stride, padding))
            if number in self.plan.read:
                found.append(x)
            if number in self.plan.pooled:
                x = F.max_pool2d(x, *self.plan.pool)
        return found

    def features(self, image_NCHW: Tensor) -> list[Tensor]:
        """The activations that the heads read, each of length 1 over its channels; differentiable."""
        # At a position without any activation vector_norm has the gradient 0; the root of a sum of squares has NaN,
        # which the ReLU hides from the image but not from autograd's anomaly detection.
        # Compared in float32 even where the backbone runs in bfloat16: the differences are what is left of 8 bits.
        found = [x.float() for x in self.activations(image_NCHW)]
        return [x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + _TINY) for x in found]

    def distance(self, output_NCHW: Tensor, reference_NCHW: Tensor) -> Tensor:
        """The distance of each pair of RGB images in [-1, 1]: (N,), differentiable in both.

        Raises:
            DataError: the shapes differ, these are no RGB images, or they are too small for the backbone.
        """
        if output_NCHW.shape != reference_NCHW.shape:
            shapes = f"{tuple(output_NCHW.shape)}, the reference {tuple(reference_NCHW.shape)}"
            raise DataError(f"the images to judge have shape {shapes}")
        pairs = zip(self.features(output_NCHW), self.features(reference_NCHW), strict=True)
        parts = [
            ((first - second).square() * getattr(self, f"head_{number}")).sum(1).mean((1, 2))
            for number, (first, second) in enumerate(pairs)
        ]
        return torch.stack(parts).sum(0)

    @torch.no_grad()
    def forward(self, output_NCHW: Tensor, reference_NCHW: Tensor) -> Tensor:
        """The distance of each pair of RGB images in [-1, 1], to measure with: (N,), no gradients."""
        return self.distance(output_NCHW, reference_NCHW)


def load_lpips(path: str | Path, backbone: str) -> Lpips:
    """The metric with the weights of a `.safetensors` file, ready to measure.

    The tensors have the names that torchvision gives the backbone and the published metric its heads:
    `features.P.weight` and `features.P.bias`, with P in 0, 3, 6, 8, 10 for "alex" and in 0, 2, 5, 7, 10, 12, 14, 17,
    19, 21, 24, 26, 28 for "vgg"; and `lin0.model.1.weight` to `lin4.model.1.weight`. So the state dict of the backbone
    and that of the heads, put together, are such a file; what else is in it (the classifier) is not read.

    Args:
        path: the file.
        backbone: "alex" or "vgg".

    Raises:
        DataError: there is no such backbone.
        InputError: there is no such file.
        WeightsError: it is damaged, lacks a tensor, or holds those of another network.
    """
    plan = _plan(backbone)
    if not Path(path).is_file():
        raise InputError(f"no LPIPS weights at {path}; check the path")
    layers = [f"features.{place}" for place in plan.places]
    wanted = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    heads = [f"lin{number}.model.1.weight" for number in range(len(plan.read))]
    found = _read(Path(path), [*wanted, *heads])
    convolutions = [(found[f"{layer}.weight"], found[f"{layer}.bias"]) for layer in layers]
    try:
        return Lpips(backbone, convolutions, [found[name] for name in heads]).eval()
    except DataError as error:
        raise WeightsError(f"{path}: {error}") from error


def _plan(backbone: str) -> _Plan:
    if backbone not in _PLANS:
        raise DataError(f"LPIPS knows no backbone '{backbone}'; it knows {', '.join(_PLANS)}")
    return _PLANS[backbone]


def _read(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The named tensors of a safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            missing = sorted(set(names) - set(file.keys()))
            if missing:
                raise WeightsError(
                    f"{path}: lacks {', '.join(missing[:3])}, {len(missing)} of {len(names)} LPIPS tensors"
                )
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise WeightsError(f"{path}: damaged, or no safetensors ({error}); save it again") from error


def _check(plan: _Plan, backbone: str, convolutions: Sequence[tuple[Tensor, Tensor]], heads: Sequence[Tensor]) -> None:
    """Raises DataError where the weights are not those of the backbone."""
    if len(convolutions) != len(plan.strides) or len(heads) != len(plan.read):
        raise DataError(
            f"LPIPS with {backbone} has {len(plan.strides)} convolutions and {len(plan.read)} heads; "
            f"it was given {len(convolutions)} and {len(heads)}"
        )
    channels = 3
    for number, (weight, bias) in enumerate(convolutions):
        if weight.dim() != 4 or weight.shape[1] != channels or bias.shape != weight.shape[:1]:
            shapes = f"{tuple(weight.shape)} with {tuple(bias.shape)}"
            raise DataError(f"the LPIPS convolution {number} has weights {shapes} for {channels} channels")
        channels = len(weight)
    for number, head in zip(plan.read, heads, strict=True):
        if head.numel() != len(convolutions[number][0]):
            raise DataError(
                f"the LPIPS head behind convolution {number} has {head.numel()} weights "
                f"for {len(convolutions[number][0])} channels"
            )
