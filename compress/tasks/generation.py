"""Noise to images: a generator compared with the teacher on the same latents, and as a whole distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.metrics import Features, frechet_distance
from compress.tasks.base import Predict
from compress.tasks.imitation import Compare, Inputs
from compress.tasks.translation import ImageToImage
from compress.types import Number


class Generation(ImageToImage):
    """Latents in, images out; quality is the PSNR against the teacher's picture of the same latent.

    The PSNR asks for the same picture; a student may well draw another one that is as good. With `features` the report
    also has the Fréchet distance between the model's pictures and `real` ones (the teacher's, where there are none).

    Args:
        train, validation, test: latents (N, ...), or a tuple of them with labels, one tensor per model input.
        batch_size, data_range, lowest, perceptual: see `ImageToImage`.
        features: the backbone of the Fréchet distance; its name is in the figure's.
        real: real images as RGB in [0, 1], (M, 3, H, W).
    """

    def __init__(
        self,
        train: Inputs,
        validation: Inputs,
        test: Inputs,
        *,
        batch_size: int = 16,
        data_range: float | None = 2.0,
        lowest: float = -1.0,
        perceptual: Compare | None = None,
        features: Features | None = None,
        real: Tensor | None = None,
    ) -> None:
        super().__init__(
            train, validation, test,
            batch_size=batch_size, data_range=data_range, lowest=lowest, perceptual=perceptual,
        )  # fmt: skip
        self.features, self.real = features, real

    def input_picture(self, inputs: tuple[Tensor, ...], teacher_output: Tensor) -> Tensor:
        """The teacher's picture: a latent cannot be looked at."""
        return self.picture(teacher_output)

    def more_qualities(self, predict: Predict) -> dict[str, Number]:
        """SSIM, the perceptual distance and, where there is a backbone, the Fréchet distance on it."""
        found = super().more_qualities(predict)
        if self.features is None:
            return found
        pairs = list(self._pairs(predict, "test"))
        made = self._rows([output for output, _ in pairs])
        others = [reference for _, reference in pairs]
        wanted = self._rows(others) if self.real is None else self.features.compute(self.real)
        against = "the teacher's pictures" if self.real is None else f"{len(wanted)} real images"
        name = f"Fréchet distance on {self.features.name}"
        source = f"test split, against {against}"
        return {**found, name: Number(frechet_distance(made, wanted), "", "measured", n=len(made), source=source)}

    def _rows(self, outputs: list[Tensor]) -> Tensor:
        """The feature rows of batches of output images."""
        assert self.features is not None
        images = [torch.stack([self.picture(image) for image in output]) for output in outputs]
        return torch.cat([self.features.compute(batch) for batch in images])
