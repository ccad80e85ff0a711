"""Two published students of the ESRGAN family, x4: the figures to beat, measured beside our own in every report.

Weights: npm packages @upscalerjs/esrgan-slim 1.0.0 and @upscalerjs/esrgan-medium 1.0.0 (MIT), TensorFlow.js models
of layers in float32. Fetched on first use, not part of this project.
"""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.checkpoint import fit_weights
from examples.fetch import npm_package
from examples.parity.tfjs import read_weights


class Compact(nn.Module):
    """RGB images in [0, 1] (N, 3, H, W) to (N, 3, 4 H, 4 W), not clamped."""

    def __init__(self, width: int, growth: int, blocks: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.grow = nn.ModuleList(nn.Conv2d(width, growth, 3, 1, 1) for _ in range(blocks))
        self.fuse = nn.ModuleList(nn.Conv2d(width + growth, width, 1) for _ in range(blocks))
        self.gather, self.middle = nn.Conv2d(blocks * width, width, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.up = nn.ModuleList([nn.Conv2d(width, 64, 5, 1, 2), nn.Conv2d(64, 32, 3, 1, 1), nn.Conv2d(32, 48, 3, 1, 1)])
        self.last = nn.Conv2d(48, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        y, found = self.second(first), []
        for grow, fuse in zip(self.grow, self.fuse, strict=True):
            y = y + fuse(torch.cat([y, grow(y).relu()], 1))
            found.append(y)
        y = self.middle(self.gather(torch.cat(found, 1))) + first
        y = self.up[2](self.up[1](self.up[0](y).relu()).relu())
        return self.last(F.interpolate(y, scale_factor=4, mode="nearest"))


PLACES = (
    (r"F_m1", "first"), (r"F_0", "second"), (r"F_(\d+)_1", "grow.{}"), (r"LFF_(\d+)", "fuse.{}"),
    (r"GFF_1", "gather"), (r"GFF_2", "middle"), (r"UPN(\d+)", "up.{}"), (r"SR", "last"),
)  # fmt: skip


def place_of(layer: str) -> str:
    """Where a layer of the published model stands in ours; its numbers begin with 1."""
    for pattern, place in PLACES:
        match = re.fullmatch(pattern, layer)
        if match:
            return place.format(*(int(number) - 1 for number in match.groups()))
    raise KeyError(f"the model has a layer {layer} that this port does not know")


def weights(model_json: Path) -> dict[str, Tensor]:
    """The published weights under our names and in torch's layouts."""
    found = {}
    for name, array in read_weights(model_json).items():
        layer, kind = name.split("/")[-2:]
        array = array.transpose(3, 2, 0, 1) if kind == "kernel" else array  # (kH, kW, in, out) to (out, in, kH, kW)
        leaf = {"kernel": "weight", "bias": "bias"}[kind]
        found[f"{place_of(layer)}.{leaf}"] = torch.from_numpy(np.ascontiguousarray(array))
    return found


def published(size: str, path: str = "") -> Compact:
    """The published student of a size, "slim" or "medium"."""
    folder = Path(path) if path else npm_package(f"@upscalerjs/esrgan-{size}", "1.0.0")
    file = next(file for file in sorted(folder.rglob("model.json")) if file.parent.name == "x4")
    found = weights(file)
    model = Compact(len(found["first.bias"]), len(found["grow.0.bias"]), sum(n.startswith("fuse.") for n in found) // 2)
    fit_weights(model, found, str(file))
    return model.eval()
