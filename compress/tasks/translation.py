"""Images to images: style transfer, super-resolution, denoising; the teacher's own picture is the measure."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compress.metrics import psnr_db, ssim
from compress.tasks.base import Predict
from compress.tasks.imitation import Augment, Compare, Imitation, Inputs, Prepare


class ImageToImage(Imitation):
    """Images in, images out; quality is the PSNR against the teacher's picture, with SSIM beside it.

    A model that equals the teacher has 100 dB (`compress.metrics.images.EXACT_DB`); drops in a budget count from there.

    Args:
        train, validation, test: images (N, C, H, W), or a tuple that begins with them, one tensor per model input.
        prepare, augment, batch_size: see `Imitation`.
        data_range: the width of the interval that output pixels come from; None where the model's outputs have no
            fixed one (predicted noise, logits): then that of the teacher's outputs on the validation split.
        lowest: the pixel value that is shown black; the lowest of the teacher's outputs where data_range is None.
        input_range: (lowest, width) of the prepared input images, for the samples to look at.
        perceptual: a perceptual distance of RGB images in [-1, 1], such as `compress.metrics.Lpips`, reported too.
        perceptual_name: what the report calls it.
    """

    quality_name = "PSNR against the teacher"
    quality_unit = "dB"

    def __init__(
        self,
        train: Inputs,
        validation: Inputs,
        test: Inputs,
        *,
        prepare: Prepare | None = None,
        augment: Augment | None = None,
        batch_size: int = 16,
        data_range: float | None = 1.0,
        lowest: float = 0.0,
        input_range: tuple[float, float] = (0.0, 1.0),
        perceptual: Compare | None = None,
        perceptual_name: str = "LPIPS",
    ) -> None:
        super().__init__(train, validation, test, prepare=prepare, augment=augment, batch_size=batch_size)
        self._given = None if data_range is None else (lowest, data_range)
        self._measured: tuple[float, float] | None = None
        self.input_range = input_range
        self.perceptual, self.perceptual_name = perceptual, perceptual_name

    def with_teacher(self, teacher: Predict) -> ImageToImage:
        """The same task, judging by this teacher's pictures."""
        self._measured = None
        super().with_teacher(teacher)
        return self

    def span(self) -> tuple[float, float]:
        """The lowest output pixel and the width of the outputs' interval."""
        if self._given is not None:
            return self._given
        if self._measured is None:
            edges = [torch.stack(torch.aminmax(output)) for output in self.teacher_outputs("validation")]
            low, high = torch.stack(edges)[:, 0].min(), torch.stack(edges)[:, 1].max()
            self._measured = float(low), max(float(high - low), 1e-12)
        return self._measured

    def compare(self, output: Tensor, reference: Tensor) -> Tensor:
        """The PSNR of each picture, in dB: (N,)."""
        return psnr_db(output, reference, self.span()[1])

    def more_comparisons(self) -> Mapping[str, tuple[str, Compare]]:
        """SSIM, and the perceptual distance where there is one."""
        found: dict[str, tuple[str, Compare]] = {"SSIM": ("", lambda a, b: ssim(a, b, self.span()[1]))}
        perceptual = self.perceptual
        if perceptual is not None:
            found[self.perceptual_name] = ("", lambda a, b: perceptual(self._signed(a), self._signed(b)))
        return found

    def picture(self, output: Tensor) -> Tensor:
        """The output image as RGB in [0, 1]."""
        return _rgb(output, *self.span())

    def input_picture(self, inputs: tuple[Tensor, ...], teacher_output: Tensor) -> Tensor:
        """The input image as RGB in [0, 1]."""
        return _rgb(inputs[0], *self.input_range)

    def _signed(self, images_NCHW: Tensor) -> Tensor:
        """Output images as RGB in [-1, 1]."""
        return torch.stack([self.picture(image) for image in images_NCHW]) * 2 - 1


def _rgb(image_CHW: Tensor, lowest: float, width: float) -> Tensor:
    picture = ((image_CHW.float() - lowest) / width).clamp(0, 1)
    return picture[:1].expand(3, -1, -1) if picture.shape[0] < 3 else picture[:3]
