"""Small pictures to large ones, judged by the real large picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import DataError
from compress.tasks.base import Batch, Reference, Split, Stored, take
from compress.tasks.degrade import Bicubic, Degrade
from compress.tasks.domains import REAL, PairedTranslation, unit
from compress.tasks.draws import generator_of
from compress.tasks.imitation import SPLITS
from compress.tasks.translation import ImageToImage
from compress.types import Number


@dataclass(frozen=True)
class Degraded:
    """The low-resolution picture of each high-resolution one, always the same for the same number, split and seed."""

    pictures: Stored
    degrade: Degrade
    seed: int
    split: str

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.degrade(unit(self.pictures[index]), generator_of(self.seed, self.split, index))


class SuperResolution(PairedTranslation):
    """Small images in, images `scale` times as large out; quality is the PSNR against the real picture, in RGB.

    Whole tiles are compared, their edges included, and outputs as the model gives them: neither is so in some
    published figures. The closeness to the teacher is reported beside it. A bicubic resize is always a reference.

    Args:
        train, validation, test: high-resolution pictures (3, H, W), uint8 or in [0, 1]: a tensor of them or `Pieces`.
        scale: how many times as large outputs are.
        degrade: makes the small picture of a large one; `degrade.Bicubic` by default.
        vary: whether training pictures are flipped, turned and degraded anew each time they are drawn.
        crop: the side of the random square that is cut of each training picture, in high-resolution pixels; None for
            whole ones.
        seed: of the degradations of validation and test pictures.
        settings: those of `ImageToImage` but `augment`, which knows nothing of two sizes.

    Raises:
        DataError: sizes are no multiples of the scale, a crop is larger than a picture, or is asked for without `vary`.
    """

    against = REAL

    def __init__(
        self,
        train: Stored,
        validation: Stored,
        test: Stored,
        *,
        scale: int,
        degrade: Degrade | None = None,
        vary: bool = True,
        crop: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        if settings.get("augment") is not None:
            raise DataError("SuperResolution flips and turns its pictures itself (vary=True); leave augment out")
        self.scale, self.degrade = scale, degrade or Bicubic(scale)
        self.vary, self.crop = vary, crop
        first, second, third = (
            (Degraded(pictures, self.degrade, seed, split), pictures)
            for pictures, split in zip((train, validation, test), SPLITS, strict=True)
        )
        super().__init__(first, second, third, **settings)
        for pictures in (train, validation, test):
            self.degrade(unit(pictures[0]), generator_of(seed))  # refuses sizes that the scale does not fit
        side = min(train[0].shape[1:])
        if crop is not None and (not vary or crop > side or crop % scale):
            raise DataError(
                f"crop={crop} needs vary=True, a multiple of the scale {scale} and pictures as large; "
                f"the first has {side} pixels"
            )

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Small training pictures with their large ones, varied with randomness from the generator only."""
        if not self.vary:
            return super().train_batch(indices, generator)
        large = [self._varied(unit(picture), generator) for picture in take(self._others["train"], indices)]
        small = torch.stack([self.degrade(picture, generator) for picture in large])
        return Batch((self.prepare(small),), self.to_output(torch.stack(large)))

    def references(self) -> Mapping[str, Reference]:
        """Those given, and a bicubic resize."""
        return {"bicubic": Reference(self._bicubic), **self._references}

    def wanted(self, split: Split) -> Iterator[Tensor]:
        """Yields the real pictures, batch by batch."""
        return self.real(split)

    def further(self, outputs: list[Tensor]) -> dict[str, Number]:
        """SSIM and the perceptual distance from the real picture, and the PSNR against the teacher once it is known."""
        found = ImageToImage.further(self, outputs)
        if self._teacher is None:
            return found
        psnr = {"PSNR against the teacher": ("dB", self._psnr_db)}
        return {**found, **self.means(outputs, self.teacher_outputs("test"), psnr)}

    def _bicubic(self, *inputs: Tensor) -> Tensor:
        large = F.interpolate(
            self._unchanged(*inputs), scale_factor=self.scale, mode="bicubic", antialias=True, align_corners=False
        )
        low, width = self.span()
        return large.clamp(low, low + width)

    def _varied(self, picture_CHW: Tensor, generator: torch.Generator) -> Tensor:
        """A random crop of the picture, in one of its eight positions (four, where it is not square)."""
        height, width = picture_CHW.shape[1:]
        side = self.crop
        if side is not None:
            top = int(torch.randint(height - side + 1, (), generator=generator))
            left = int(torch.randint(width - side + 1, (), generator=generator))
            picture_CHW = picture_CHW[:, top : top + side, left : left + side]
        down, right, across = torch.randint(2, (3,), generator=generator).tolist()
        picture_CHW = picture_CHW.flip([axis for axis, turn in ((1, down), (2, right)) if turn])
        square = picture_CHW.shape[1] == picture_CHW.shape[2]
        return picture_CHW.transpose(1, 2) if across and square else picture_CHW
