"""What a kind of teacher is: its data, its loss, its quality and its samples to look at.

The pipeline sees only this class. A user writes one of the ready kinds (`Classification`), or subclasses `Task`.
Data is drawn by index, never by a stateful iterator: that is what lets a killed training resume at any step with the
very batches it would have seen, and several processes share one epoch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from compress.types import Number

Split = Literal["train", "validation", "test"]
Predict = Callable[..., Tensor]
"""A model as a function: input tensors (N, ...) in, output tensor out. In torch or through a device runtime."""


@dataclass(frozen=True)
class Batch:
    """A few samples: `inputs` as the model takes them, `target` as the loss takes it (None where there is no label)."""

    inputs: tuple[Tensor, ...]
    target: Any = None

    def __len__(self) -> int:
        return int(self.inputs[0].shape[0])


@dataclass(frozen=True)
class Sample:
    """One row of the report's sample sheet: the input to look at and what each model made of it.

    `image` is an RGB picture (3, H, W) in [0, 1]; `target` a short text; `outputs` maps a model's name to a short
    text or a picture.
    """

    image: Tensor
    target: str = ""
    outputs: Mapping[str, str | Tensor] = field(default_factory=dict)


class Task(ABC):
    """A kind of teacher. Quality is measured on `test`; every choice along the way looks at `validation` only."""

    quality_name: str = "quality"
    quality_unit: str = ""
    higher_is_better: bool = True
    batch_size: int = 128

    @abstractmethod
    def example_inputs(self) -> tuple[Tensor, ...]:
        """One input per model argument, batch size 1, as the model sees them."""

    @abstractmethod
    def train_size(self) -> int:
        """How many training samples there are."""

    @abstractmethod
    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """The training samples at `indices`, augmented with randomness from `generator` only."""

    @abstractmethod
    def batches(self, split: Split) -> Iterator[Batch]:
        """The samples of a split in a fixed order, without augmentation."""

    @abstractmethod
    def quality(self, predict: Predict, split: Split = "test", limit: int | None = None) -> Number:
        """The quality of `predict` on (the first `limit` samples of) a split."""

    def loss(self, output: Tensor, target: Any) -> Tensor:
        """The training loss against labels, a scalar; a task without labels has none."""
        raise NotImplementedError(f"{type(self).__name__} has no labels to learn from")

    @property
    def labelled(self) -> bool:
        """Whether `loss` can be used."""
        return False

    def with_teacher(self, teacher: Predict) -> Task:
        """This task once the teacher is known; tasks that judge against the teacher keep its answers here."""
        return self

    def more_qualities(self, predict: Predict) -> dict[str, Number]:
        """Further figures to report beside the quality, by name."""
        return {}

    def samples(self, models: Mapping[str, Predict], count: int = 12) -> list[Sample]:
        """A few held-out samples with what each model makes of them."""
        return []
