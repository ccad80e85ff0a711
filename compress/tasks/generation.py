"""Noise to images: a generator compared with the teacher on the same latents, and as a whole distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from compress.metrics import Features, Lpips
from compress.tasks.base import Predict, Reference, Split
from compress.tasks.distribution import distances, neighbours, rows_of
from compress.tasks.draws import AskedClasses, Noise
from compress.tasks.imitation import SPLITS, Compare, Inputs, mean_of
from compress.tasks.translation import ImageToImage
from compress.types import Number

Classifier = Callable[[Tensor], Tensor]
"""Images, RGB in [0, 1] (N, 3, H, W), to logits (N, classes)."""
ClassOf = Callable[[tuple[Tensor, ...]], Tensor]
"""The inputs of a batch to the class numbers (N,) that they ask for."""


class Generation(ImageToImage):
    """Latents in, images out; quality is the PSNR against the teacher's picture of the same latent.

    The PSNR asks for the same picture; a student may well draw another one that is as good. With `features` the report
    also has figures of sets. The Fréchet and kernel distances are those from `real` images, or from the teacher's
    pictures of the same latents: what the student adds. Precision, recall, density and coverage are among `real`
    images, or among the teacher's pictures of *other* latents (the validation split's); there the teacher itself does
    not reach 1, so its own figure stands beside each, and a student's recall is read as a share of that.

    Args:
        train, validation, test: latents (N, ...), or a tuple of them with labels, one entry per model input.
        batch_size, data_range, lowest, perceptual, teaches, quality, references: see `ImageToImage`.
        features: the backbone of the figures of sets; its name is in theirs.
        real: real images as RGB in [0, 1], (M, 3, H, W).
        classifier: says what is in a picture; the report then has the share of pictures that show the class asked for
            or, without `class_of`, the class that it sees in the teacher's picture of the same latent.
        class_of: the classes that inputs ask for.
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
        teaches: Lpips | None = None,
        quality: str = "psnr",
        references: Mapping[str, Reference] | None = None,
        features: Features | None = None,
        real: Tensor | None = None,
        classifier: Classifier | None = None,
        class_of: ClassOf | None = None,
    ) -> None:
        super().__init__(
            train, validation, test,
            batch_size=batch_size, data_range=data_range, lowest=lowest, perceptual=perceptual, teaches=teaches,
            quality=quality, references=references,
        )  # fmt: skip
        self.features, self.real = features, real
        self.classifier, self.class_of = classifier, class_of
        self._kept_rows: dict[str, Tensor] = {}
        self._own: dict[str, Number] = {}

    @classmethod
    def from_noise(
        cls,
        latent_dim: int | tuple[int, ...],
        *,
        classes: int | None = None,
        one_hot: bool = True,
        train_size: int = 10_000,
        test_size: int = 1_000,
        seed: int = 0,
        fresh: bool = False,
        **settings: Any,
    ) -> Self:
        """A task without any data: standard normal latents, each a function of the seed and its number alone.

        Args:
            latent_dim: the shape of a latent, or its length.
            classes: of a conditional generator, whose second input they are; all are asked for equally often.
            one_hot: whether a class comes as a row (classes,), or as its number.
            train_size: latents in the training split.
            test_size: latents in the test split, and as many in the validation split.
            seed: of all latents.
            fresh: whether every epoch draws training latents of its own. Otherwise all epochs show the same
                `train_size`, and the teacher's pictures of them are kept.
            settings: those of `Generation`.
        """
        shape = (latent_dim,) if isinstance(latent_dim, int) else tuple(latent_dim)
        inputs: list[Inputs] = []
        for split, count in zip(SPLITS, (train_size, test_size, test_size), strict=True):
            latents = Noise(shape, count, seed, split)
            inputs.append(latents if classes is None else (latents, AskedClasses(classes, count, one_hot)))
        if classes is not None:
            settings.setdefault("class_of", lambda given: given[1].argmax(1) if one_hot else given[1])
        task = cls(*inputs, **settings)
        if fresh:
            task.augment = lambda latents, generator: torch.randn(latents.shape, generator=generator)
        return task

    def with_teacher(self, teacher: Predict) -> Generation:
        """The same task, judging by this teacher's pictures."""
        self._kept_rows, self._own = {}, {}
        super().with_teacher(teacher)
        return self

    def references(self) -> Mapping[str, Reference]:
        """Those given: a latent is no picture that could be handed back."""
        return self._references

    def input_picture(self, inputs: tuple[Tensor, ...], wanted: Tensor) -> Tensor:
        """The teacher's picture: a latent cannot be looked at."""
        return self.picture(wanted)

    def further(self, outputs: list[Tensor]) -> dict[str, Number]:
        """SSIM, the perceptual distance, the figures of sets on the backbone, and the classes that are seen."""
        found = super().further(outputs)
        if self.features is not None:
            found |= self._figures_of_sets(self.features, outputs)
        if self.classifier is not None:
            found |= self._classes_seen(self.classifier, outputs)
        return found

    def _figures_of_sets(self, features: Features, outputs: list[Tensor]) -> dict[str, Number]:
        made = rows_of(features, map(self.pictures, outputs))
        teachers = self._teacher_rows(features, "test")
        if self.real is None:
            same, others = teachers, self._teacher_rows(features, "validation")
            against, among = "the teacher's pictures", f"the teacher's pictures of {len(others)} other latents"
        else:
            batches = self.real.split(self.batch_size)
            same = others = self._rows("real", lambda: rows_of(features, batches))
            against = among = f"{len(others)} real images"
        self._own = self._own or neighbours(features, teachers, others, "")
        return {
            **distances(features, made, same, f"test split, against {against}"),
            **neighbours(features, made, others, f"test split, among {among}", self._own),
        }

    def _teacher_rows(self, features: Features, split: Split) -> Tensor:
        return self._rows(split, lambda: rows_of(features, map(self.pictures, self.teacher_outputs(split))))

    def _rows(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Feature rows that stay the same from model to model, computed once."""
        if name not in self._kept_rows:
            self._kept_rows[name] = compute()
        return self._kept_rows[name]

    def _classes_seen(self, classifier: Classifier, outputs: list[Tensor]) -> dict[str, Number]:
        seen = torch.cat([classifier(self.pictures(output)).argmax(1) for output in outputs])
        if self.class_of is not None:
            asked = torch.cat([self.class_of(batch.inputs) for batch in self.batches("test")])
            name = "pictures of the class asked for"
        else:
            asked = torch.cat([classifier(self.pictures(out)).argmax(1) for out in self.teacher_outputs("test")])
            name = "pictures of the class in the teacher's"
        return {name: mean_of((seen == asked).double(), "fraction", "test split, by the classifier given")}
