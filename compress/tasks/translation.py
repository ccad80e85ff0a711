"""Images to images: style transfer, super-resolution, denoising; the teacher's own picture is the measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import DataError, UnknownName
from compress.metrics import Lpips, psnr_db, ssim
from compress.tasks.base import Predict, Reference
from compress.tasks.imitation import Augment, Compare, Imitation, Inputs, Prepare

QUALITIES = ("psnr", "lpips")


class ImageToImage(Imitation):
    """Images in, images out; quality is the PSNR against the teacher's picture, with SSIM beside it.

    A model that equals the teacher has 100 dB (`compress.metrics.images.EXACT_DB`); drops in a budget count from there.
    With quality="lpips" it is the perceptual distance instead: lower is better, and the teacher has 0.

    Args:
        train, validation, test: images (N, C, H, W), or a tuple that begins with them, one tensor per model input.
        prepare, augment, batch_size: see `Imitation`.
        data_range: the width of the interval that output pixels come from; None where the model's outputs have no
            fixed one (predicted noise, logits): then that of the teacher's outputs on the validation split.
        lowest: the pixel value that is shown black; the lowest of the teacher's outputs where data_range is None.
        input_range: (lowest, width) of the prepared input images, for the samples to look at.
        perceptual: a perceptual distance of RGB images in [-1, 1], such as `compress.metrics.Lpips`, reported too; that
            one can also be trained with.
        perceptual_name: what the report calls it.
        teaches: the `compress.metrics.Lpips` to train with; by default the one that judges. Another backbone is better:
            what a student learns from one may please that one alone.
        quality: "psnr" or "lpips", the figure that budgets and choices look at; the other is reported too.
        references: see `Imitation`; the photograph itself is always one, where outputs have its shape.

    Raises:
        DataError: the quality is the perceptual distance, and there is none.
        UnknownName: there is no such quality.
    """

    against = "the teacher"

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
        teaches: Lpips | None = None,
        quality: str = "psnr",
        references: Mapping[str, Reference] | None = None,
    ) -> None:
        super().__init__(
            train, validation, test,
            prepare=prepare, augment=augment, batch_size=batch_size, references=references,
        )  # fmt: skip
        if quality not in QUALITIES:
            raise UnknownName("quality", quality, QUALITIES)
        if quality == "lpips" and perceptual is None:
            raise DataError('quality="lpips" needs a perceptual distance: give perceptual=, such as metrics.Lpips')
        self._given = None if data_range is None else (lowest, data_range)
        self._measured: tuple[float, float] | None = None
        self.input_range = input_range
        self.perceptual, self.perceptual_name = perceptual, perceptual_name
        self.teaches = teaches if teaches is not None else perceptual
        self.by_perception = quality == "lpips"
        self.quality_name = f"{perceptual_name if self.by_perception else 'PSNR'} against {self.against}"
        self.quality_unit = "" if self.by_perception else "dB"
        self.higher_is_better = not self.by_perception

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

    def output_range(self) -> tuple[float, float] | None:
        """The (lowest, highest) pixel value; None where the range is no more than what the teacher happens to give."""
        return None if self._given is None else (self._given[0], sum(self._given))

    def references(self) -> Mapping[str, Reference]:
        """Those given, and the photograph itself where outputs have its shape: what a model that does nothing gets."""
        example = self.example_inputs()
        if self._known_teacher("validation")(*example).shape != example[0].shape:
            return self._references
        return {"the photograph itself": Reference(self._unchanged), **self._references}

    def compare(self, output: Tensor, reference: Tensor) -> Tensor:
        """The PSNR of each picture in dB, or its perceptual distance: (N,)."""
        return self._perceived(output, reference) if self.by_perception else self._psnr_db(output, reference)

    def comparisons(self) -> dict[str, tuple[str, Compare]]:
        """Every figure of two pictures that there is here: name -> (unit, how to compare)."""
        found: dict[str, tuple[str, Compare]] = {
            "PSNR": ("dB", self._psnr_db),
            "SSIM": ("", lambda output, reference: ssim(output, reference, self.span()[1])),
        }
        if self.perceptual is not None:
            found[self.perceptual_name] = ("", self._perceived)
        return found

    def more_comparisons(self) -> Mapping[str, tuple[str, Compare]]:
        """All comparisons but the one that is the quality."""
        quality = self.perceptual_name if self.by_perception else "PSNR"
        return {name: figure for name, figure in self.comparisons().items() if name != quality}

    def perceptual_loss(self, output: Tensor, reference: Tensor) -> Tensor:
        """The perceptual distance of each pair of pictures: (N,), differentiable beyond the range too."""
        return self._lpips(output).distance(self._signed(output), self._signed(reference))

    def perceptual_features(self, output: Tensor) -> list[Tensor]:
        """What the perceptual network makes of pictures: maps (N, C, H, W), differentiable."""
        return self._lpips(output).activations(self._signed(output))

    def picture(self, output: Tensor) -> Tensor:
        """The output image as RGB in [0, 1]."""
        return _rgb(output, *self.span()).clamp(0, 1)

    def pictures(self, output: Tensor) -> Tensor:
        """A batch of output images as RGB in [0, 1], (N, 3, H, W)."""
        return torch.stack([self.picture(image) for image in output])

    def input_picture(self, inputs: tuple[Tensor, ...], wanted: Tensor) -> Tensor:
        """The input image as RGB in [0, 1]."""
        return _rgb(inputs[0], *self.input_range).clamp(0, 1)

    def _psnr_db(self, output: Tensor, reference: Tensor) -> Tensor:
        return psnr_db(output, reference, self.span()[1])

    def _perceived(self, output: Tensor, reference: Tensor) -> Tensor:
        assert self.perceptual is not None
        perceptual = _moved(self.perceptual, output)
        distance_N = perceptual(self.pictures(output) * 2 - 1, self.pictures(reference) * 2 - 1).double()
        return torch.nan_to_num(distance_N, nan=torch.inf, posinf=torch.inf)  # a broken picture is the farthest of all

    def _unchanged(self, *inputs: Tensor) -> Tensor:
        """The first input in the outputs' range."""
        (low, width), (input_low, input_width) = self.span(), self.input_range
        return (inputs[0] - input_low) * (width / input_width) + low

    def _lpips(self, output: Tensor) -> Lpips:
        if not isinstance(self.teaches, Lpips):
            raise DataError("a perceptual loss or style needs teaches=, a compress.metrics.Lpips, in the task file")
        return _moved(self.teaches, output)  # type: ignore[no-any-return]

    def _signed(self, images_NCHW: Tensor) -> Tensor:
        """Output images as RGB in [-1, 1]; values out of range stay so, and keep their gradient."""
        low, width = self.span()
        return torch.stack([_rgb(image, low, width) for image in images_NCHW]) * 2 - 1


def _rgb(image_CHW: Tensor, lowest: float, width: float) -> Tensor:
    picture = (image_CHW.float() - lowest) / width
    return picture[:1].expand(3, -1, -1) if picture.shape[0] < 3 else picture[:3]


def _moved(judge: Any, output: Tensor) -> Any:
    """A network on the device of what it is to judge; a function as it is."""
    return judge.to(output.device) if isinstance(judge, nn.Module) else judge
