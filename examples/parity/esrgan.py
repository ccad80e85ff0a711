"""An ESRGAN-type generator (Wang et al., 2018), four times the size: residual dense blocks and pixel shuffle.

Weights: npm package @upscalerjs/esrgan-thick 1.0.0 (MIT), the x4 model, a TensorFlow.js layers model in float32.
Fetched on first use, not part of this project. (The package's smaller siblings upsample without pixel shuffle.)
"""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.checkpoint import fit_weights
from compress.tasks import ImageToImage
from examples.fetch import npm_package
from examples.lpips_weights import alex
from examples.parity.photographs import tiles
from examples.parity.tfjs import read_weights

TITLE = "ESRGAN-type generator, x4 (dense blocks, pixel shuffle)"
SOURCE = "npm @upscalerjs/esrgan-thick 1.0.0, x4"
SIDE = 32
BETA = 0.2  # the published layer MultiplyBeta


class DenseBlock(nn.Module):
    """Convolutions that each read all before them, fused by one more."""

    def __init__(self, width: int, growth: int, count: int) -> None:
        super().__init__()
        self.grow = nn.ModuleList(nn.Conv2d(width + i * growth, growth, 3, 1, 1) for i in range(count))
        self.fuse = nn.Conv2d(width + count * growth, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.grow:
            x = torch.cat([x, F.relu(conv(x))], 1)
        return self.fuse(x)


class Residual(nn.Module):
    """Dense blocks in a row, each and all of them added with a factor of 0.2."""

    def __init__(self, width: int, growth: int, count: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DenseBlock(width, growth, count) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block in self.blocks:
            y = y + block(y) * BETA
        return x + y * BETA


class Generator(nn.Module):
    """RGB images in [0, 1] (N, 3, H, W) to (N, 3, scale H, scale W), not clamped."""

    def __init__(self, width: int, growth: int, count: int, blocks: int, groups: int, scale: int, last: int) -> None:
        super().__init__()
        self.scale = scale
        self.first = nn.Conv2d(3, width, 3, 1, 1)
        self.body = nn.ModuleList(Residual(width, growth, count, blocks) for _ in range(groups))
        self.middle = nn.Conv2d(width, width, 3, 1, 1)
        self.spread = nn.Conv2d(width, 3 * scale**2, 3, 1, 1)
        self.last = nn.Conv2d(3, 3, last, 1, last // 2)

    def forward(self, x: Tensor) -> Tensor:
        first = y = self.first(x)
        for group in self.body:
            y = group(y)
        return self.last(F.pixel_shuffle(self.spread(self.middle(y) + first), self.scale))


PLACES = (
    (re.compile(r"F_(\d+)_(\d+)_(\d+)"), "body.{0}.blocks.{1}.grow.{2}"),
    (re.compile(r"LFF_(\d+)_(\d+)"), "body.{0}.blocks.{1}.fuse"),
    (re.compile(r"Pre_blocks_conv"), "first"),
    (re.compile(r"post_blocks_conv"), "middle"),
    (re.compile(r"PreShuffle"), "spread"),
    (re.compile(r"SR"), "last"),
)


def place_of(layer: str) -> str:
    """Where a layer of the published model stands in ours; its numbers begin with 1."""
    for pattern, place in PLACES:
        match = pattern.fullmatch(layer)
        if match:
            return place.format(*(int(number) - 1 for number in match.groups()))
    raise KeyError(f"the model has a layer {layer} that this port does not know")


def weights(model_json: Path) -> dict[str, Tensor]:
    """The published weights under our names and in torch's layouts."""
    found = {}
    for name, array in read_weights(model_json).items():
        layer, kind = name.split("/")[-2:]
        if kind == "kernel":
            array = array.transpose(3, 2, 0, 1)  # (kH, kW, in, out) to (out, in, kH, kW)
        if layer == "PreShuffle":
            array = shuffled(array)
        leaf = {"kernel": "weight", "bias": "bias"}[kind]
        found[f"{place_of(layer)}.{leaf}"] = torch.from_numpy(np.ascontiguousarray(array))
    return found


def shuffled(array: np.ndarray) -> np.ndarray:
    """Output channels brought from TensorFlow's order of depth-to-space (place, colour) to torch's (colour, place)."""
    return array.reshape(-1, 3, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def build(found: dict[str, Tensor]) -> Generator:
    """The generator of the size that the weights have."""
    counts = [1 + max(int(name.split(".")[i]) for name in found if name.startswith("body.")) for i in (1, 3)]
    grow = [name for name in found if name.startswith("body.0.blocks.0.grow.") and name.endswith("weight")]
    width, scale = len(found["first.bias"]), int((len(found["spread.bias"]) // 3) ** 0.5)
    growth, last = len(found["body.0.blocks.0.grow.0.bias"]), found["last.weight"].shape[2]
    return Generator(width, growth, len(grow), counts[1], counts[0], scale, last)


def model_file(scale: int, path: str = "") -> Path:
    folder = Path(path) if path else npm_package("@upscalerjs/esrgan-thick", "1.0.0")
    return next(file for file in sorted(folder.rglob("model.json")) if f"x{scale}" in file.parent.name)


def teacher(scale: int = 4, path: str = "") -> Generator:
    file = model_file(scale, path)
    found = weights(file)
    model = build(found)
    fit_weights(model, found, str(file))
    return model.eval()


def task() -> ImageToImage:
    """Photograph tiles, split by file."""
    return ImageToImage(
        *tiles(SIDE),
        prepare=lambda stored: stored.float() / 255,
        batch_size=8,
        perceptual=alex(),
        perceptual_name="LPIPS (AlexNet)",
    )
