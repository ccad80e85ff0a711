"""Small nets that between them hold the operators of generators, and how to plant faults in a saved Core ML package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.runtimes.mil.program import model_path
from tests.models import Concatenating, TinyResNet, Upsampling, randomize_norms


class Encoder(nn.Module):
    """Depthwise, grouped, dilated and strided convolutions, both poolings with padding, a batch norm before a ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(8)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.strided = nn.Conv2d(8, 6, (3, 2), stride=(2, 1), padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm(F.hardswish(self.depthwise(x))) * 3)
        x = F.max_pool2d(self.dilated(x), 3, 2, 1, ceil_mode=True)
        x = F.avg_pool2d(F.leaky_relu(self.strided(x), 0.1), 3, 2, 1, count_include_pad=False)
        return F.avg_pool2d(F.elu(x), 2, 1, 1)


class Decoder(nn.Module):
    """Transposed convolutions (output padding, groups, 1-D), both norms, pixel shuffle, and pads."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 8, 3, 2, 1, output_padding=1, groups=2)
        self.instance, self.group = nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(2, 8, eps=1e-3)
        self.out = nn.Conv2d(2, 3, 5)
        self.wave = nn.ConvTranspose1d(3, 2, 4, 2, 1, dilation=2)
        self.act = nn.PReLU(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.group(F.gelu(self.instance(self.up(x)))))
        x = F.pixel_shuffle(x, 2)
        x = self.out(F.pad(F.pad(x, (2, 1, 0, 2), mode="reflect"), (1, 0, 1, 1), mode="replicate"))
        return self.wave(F.pad(x.flatten(2), (1, 2), value=0.5))


class Resizing(nn.Module):
    """Nearest and bilinear resizes by factor and by size, with and without aligned corners, and a grid sample."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = F.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=False)
        x = F.interpolate(x, size=(17, 13), mode="bilinear", align_corners=True)
        grid = torch.tanh(self.flow(x)).permute(0, 2, 3, 1) * 1.3
        bordered = F.grid_sample(x, grid, padding_mode="border", align_corners=True)
        return bordered + F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


class Attention(nn.Module):
    """Self-attention over pixels with a mask, layer norm, einsum, and slicing."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.into, self.norm = nn.Conv2d(4, width, 1), nn.LayerNorm(width)
        self.heads, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("mask", torch.triu(torch.ones(36, 36, dtype=torch.bool)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.into(x).flatten(2).transpose(1, 2))
        q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in self.heads(x).chunk(3, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        scores = torch.einsum("bnc,bmc->bnm", x[:, ::2], x[:, 1:7])
        return torch.stack([scores.softmax(-1).amax(1), scores.mean(1)], 1)


SIZES = {Encoder: (1, 4, 13, 12), Decoder: (1, 4, 5, 6), Resizing: (1, 4, 6, 5), Attention: (1, 4, 6, 6),
         TinyResNet: (1, 1, 8, 8), Concatenating: (1, 3, 8, 8), Upsampling: (1, 3, 8, 8)}  # fmt: skip


def made(kind: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    """(a net in eval mode with random statistics, an input for it), the same on every call."""
    torch.manual_seed(3)
    net = randomize_norms(kind()).eval()
    for module in net.modules():
        if isinstance(module, (nn.GroupNorm, nn.InstanceNorm2d)) and module.weight is not None:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return net, torch.randn(SIZES[kind])


def edit(package: Path, change: Callable[[Any], None]) -> None:
    """Changes the protobuf of a saved package on disk; `change` gets its operations."""
    from coremltools.proto import Model_pb2

    path = model_path(package)
    model = Model_pb2.Model()
    model.ParseFromString(path.read_bytes())
    function = model.mlProgram.functions["main"]
    change(function.block_specializations[function.opset].operations)
    path.write_bytes(model.SerializeToString())


def constant(operations: Any, reader: Any, parameter: str) -> Any:
    """The protobuf tensor of the constant that a parameter of an operation is bound to."""
    name = reader.inputs[parameter].arguments[0].name
    held = next(entry for entry in operations if entry.type == "const" and entry.outputs[0].name == name)
    return held.attributes["val"].immediateValue.tensor


def first(operations: Any, kind: str, number: int = 0) -> Any:
    """The operation of a kind, by its number among them (-1: the last)."""
    return [entry for entry in operations if entry.type == kind][number]
