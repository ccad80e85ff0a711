"""What a kind of teacher is: its data, its loss, its quality and its samples to look at.

The pipeline sees only this class. A user writes one of the ready kinds (`Classification`), or subclasses `Task`.
Data is drawn by index, never by a stateful iterator: that is what lets a killed training resume at any step with the
very batches it would have seen, and several processes share one epoch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from compress.errors import DataError
from compress.types import Number

Split = Literal["train", "validation", "test"]
Predict = Callable[..., Tensor]
"""A model as a function: input tensors (N, ...) in, output tensor out. In torch or through a device runtime."""


class Indexed(Protocol):
    """Samples that are made or read one at a time: a tensor without a batch axis for each number below the length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


Stored = Tensor | Indexed


def take(stored: Stored, indices: Tensor) -> Tensor:
    """The samples at `indices`, stacked: (N, ...)."""
    return stored[indices] if isinstance(stored, Tensor) else torch.stack([stored[int(i)] for i in indices])


@dataclass(frozen=True)
class Batch:
    """A few samples: `inputs` as the model takes them, `target` as the loss takes it (None where there is no label).

    `sample_ids` (N,) are there where the inputs are those of these training samples and always will be: what a teacher
    said to a sample may then be remembered by its number. They are None where anything was drawn or mixed anew.
    """

    inputs: tuple[Tensor, ...]
    target: Any = None
    sample_ids: Tensor | None = None

    def __len__(self) -> int:
        return int(self.inputs[0].shape[0])


@dataclass(frozen=True)
class Sample:
    """One row of the report's sample sheet: the input to look at and what each model made of it.

    `image` is an RGB picture (3, H, W) in [0, 1]; `target` a short text; `outputs` maps a model's name to a short
    text or a picture. Where outputs are sounds, `sounds` has them to listen to, by the same names: each (S,) in
    [-1, 1] at `sample_rate` samples per second.
    """

    image: Tensor
    target: str = ""
    outputs: Mapping[str, str | Tensor] = field(default_factory=dict)
    sounds: Mapping[str, Tensor] = field(default_factory=dict)
    sample_rate: int | None = None


@dataclass(frozen=True)
class Companion:
    """A network that is shipped beside the student as it is: a text encoder in front of it, a decoder behind it.

    `examples` are its inputs, batch size 1, to calibrate and verify it with.
    """

    name: str
    network: nn.Module
    examples: Sequence[tuple[Tensor, ...]]


@dataclass(frozen=True)
class Use:
    """A model in one of the ways in which it can be used, and how often that asks it for one output."""

    predict: Predict
    evaluations: int


@dataclass(frozen=True)
class Reference:
    """Something to hold the student against, always reported: a published small model, or doing next to nothing.

    `predict` takes what the models take. `module` is there where its cost can be counted.
    """

    predict: Predict
    module: nn.Module | None = None

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """A module, set to evaluation, as a reference."""

        @torch.no_grad()
        def predict(*inputs: Tensor) -> Tensor:
            output: Tensor = module(*inputs)
            return output

        module.eval()
        return cls(predict, module)


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

    def span(self) -> tuple[float, float]:
        """The lowest output value and the width of the outputs' interval.

        Raises:
            DataError: outputs come from no interval.
        """
        raise DataError(f"the outputs of a {type(self).__name__} task have no range")

    def perceptual_loss(self, output: Tensor, reference: Tensor) -> Tensor:
        """How different outputs look or sound, (N,), differentiable.

        Raises:
            DataError: the task has no such distance.
        """
        raise DataError(f"a {type(self).__name__} task has no perceptual distance to train with")

    def perceptual_features(self, output: Tensor) -> list[Tensor]:
        """The feature maps (N, C, H, W) that a perceptual network makes of outputs, differentiable.

        Raises:
            DataError: the task has no such network.
        """
        raise DataError(f"a {type(self).__name__} task has no perceptual network")

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

    def calibration(self, predict: Predict, count: int) -> list[Batch] | None:
        """`count` batches that a model sees when it is used, where those are others than the training batches."""
        return None

    def manifest(self) -> dict[str, Any] | None:
        """What a runner needs beside the model's file (plain data, written as pipeline.json); None: nothing."""
        return None

    def golden(self, predict: Predict) -> dict[str, Tensor]:
        """A few samples with all that they were made of, for a device to make again; where there is a manifest."""
        return {}

    def companions(self) -> Sequence[Companion]:
        """The networks that a pipeline's folder has beside the student."""
        return ()

    def references(self) -> Mapping[str, Reference]:
        """What the student is held against beside its teacher, by name."""
        return {}

    @property
    def evaluations(self) -> int:
        """How often the student is asked for one of the task's outputs; a budget's latency is for all of them."""
        return 1

    def uses(self, predict: Predict) -> Mapping[str, Use]:
        """The ways in which a model can be used, by name, its own one first, where there are several."""
        return {}

    def samples(self, models: Mapping[str, Predict], count: int = 12) -> list[Sample]:
        """A few held-out samples with what each model makes of them."""
        return []
