"""Image classification, with labels or without (then the teacher's own answers are the measure)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import DataError
from compress.metrics import count_top1
from compress.tasks.base import Batch, Predict, Sample, Split, Stored, Task, take
from compress.types import Number

Augment = Callable[[Tensor, torch.Generator], Tensor]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Classification(Task):
    """Images to classes; quality is top-1 accuracy, or top-1 agreement with the teacher where there are no labels.

    Args:
        train, validation, test: each `(images, labels)`. `images` is a tensor (N, C, H, W) or anything indexable that
            gives one (C, H, W) tensor; `labels` a tensor (N,) of class numbers, or None for images without labels.
        prepare: turns a stacked batch as stored (say uint8) into the model's input (say normalized float32).
        augment: `augment(batch, generator)` applied to prepared training batches; all its randomness must come from
            the generator, or runs cannot be repeated.
        classes: names for the report.
        show: turns a prepared image (C, H, W) back into RGB in [0, 1] for the report.
    """

    quality_unit = "fraction"

    def __init__(
        self,
        train: tuple[Stored, Tensor | None],
        validation: tuple[Stored, Tensor | None],
        test: tuple[Stored, Tensor | None],
        *,
        prepare: Callable[[Tensor], Tensor] | None = None,
        augment: Augment | None = None,
        batch_size: int = 128,
        classes: Sequence[str] = (),
        show: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._data = dict(zip(SPLITS, (train, validation, test), strict=True))
        self.prepare = prepare or (lambda images: images.float())
        self.augment = augment
        self.batch_size = batch_size
        self.classes = list(classes)
        self.show = show or _stretch
        self._teacher: Predict | None = None
        self._teacher_answers: dict[Split, Tensor] = {}
        for split, (images, labels) in self._data.items():
            if len(images) == 0:
                raise DataError(f"the {split} split holds no samples; check the data path in the task file")
            if labels is not None and len(labels) != len(images):
                raise DataError(f"the {split} split has {len(images)} images but {len(labels)} labels")
        self.quality_name = "top-1 accuracy" if self._labels("test") is not None else "top-1 agreement with the teacher"

    def _labels(self, split: Split) -> Tensor | None:
        return self._data[split][1]

    @property
    def labelled(self) -> bool:
        """Whether the training split has labels."""
        return self._labels("train") is not None

    def _gather(self, split: Split, indices: Tensor) -> Tensor:
        return self.prepare(take(self._data[split][0], indices))

    def example_inputs(self) -> tuple[Tensor, ...]:
        """The first validation image, (1, C, H, W)."""
        return (self._gather("validation", torch.arange(1)),)

    def train_size(self) -> int:
        """How many training images there are."""
        return len(self._data["train"][0])

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Augmented images (N, C, H, W) with their class numbers (N,), or None without labels."""
        images, labels = self._gather("train", indices), self._labels("train")
        target = None if labels is None else labels[indices]
        if self.augment is None:
            return Batch((images,), target, sample_ids=indices)
        return Batch((self.augment(images, generator),), target)

    def batches(self, split: Split) -> Iterator[Batch]:
        """The split's images in order, in batches of `batch_size`."""
        labels = self._labels(split)
        for indices in torch.arange(len(self._data[split][0])).split(self.batch_size):
            yield Batch((self._gather(split, indices),), None if labels is None else labels[indices])

    def loss(self, output: Tensor, target: Any) -> Tensor:
        """Cross-entropy of logits (N, classes) against class numbers (N,)."""
        return F.cross_entropy(output.float(), target)

    def with_teacher(self, teacher: Predict) -> Classification:
        """The same task, judging unlabelled splits by the teacher's answers."""
        self._teacher, self._teacher_answers = teacher, {}
        return self

    def _answers(self, split: Split) -> Tensor:
        labels = self._labels(split)
        if labels is not None:
            return labels
        if self._teacher is None:
            raise DataError(f"the {split} split has no labels and no teacher to agree with")
        if split not in self._teacher_answers:
            answers = [self._teacher(*batch.inputs).argmax(1) for batch in self.batches(split)]
            self._teacher_answers[split] = torch.cat(answers)
        return self._teacher_answers[split]

    def quality(self, predict: Predict, split: Split = "test", limit: int | None = None) -> Number:
        """Share of images whose highest logit is the labelled (or the teacher's) class."""
        answers, right, seen = self._answers(split), 0, 0
        for batch in self.batches(split):
            right += count_top1(predict(*batch.inputs), answers[seen : seen + len(batch)])
            seen += len(batch)
            if limit is not None and seen >= limit:
                break
        return Number(right / seen, self.quality_unit, "measured", n=seen, source=f"{self.quality_name}, {split} split")

    def samples(self, models: Mapping[str, Predict], count: int = 12) -> list[Sample]:
        """The first `count` test images with each model's top class and its probability."""
        inputs = self._gather("test", torch.arange(min(count, len(self._data["test"][0]))))
        answers = {name: predict(inputs).softmax(1).max(1) for name, predict in models.items()}
        labels = self._labels("test")
        return [
            Sample(
                self.show(inputs[i]),
                "" if labels is None else self._name(int(labels[i])),
                {n: f"{self._name(int(a.indices[i]))} {float(a.values[i]):.0%}" for n, a in answers.items()},
            )
            for i in range(len(inputs))
        ]

    def _name(self, number: int) -> str:
        return self.classes[number] if number < len(self.classes) else str(number)


def _stretch(image_CHW: Tensor) -> Tensor:
    """The image as RGB in [0, 1], stretched to its own range."""
    low, high = image_CHW.min(), image_CHW.max()
    picture = (image_CHW - low) / (high - low).clamp_min(1e-6)
    return picture.expand(3, -1, -1) if picture.shape[0] == 1 else picture[:3]
