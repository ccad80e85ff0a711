"""What generators of all kinds share: inputs without labels, and the teacher's own output as the measure."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from compress.errors import DataError
from compress.tasks.base import Batch, Predict, Sample, Split, Task
from compress.types import Number

Inputs = Tensor | tuple[Tensor, ...]
Prepare = Callable[[Tensor], Tensor]
Augment = Callable[[Tensor, torch.Generator], Tensor]
Compare = Callable[[Tensor, Tensor], Tensor]
"""A figure per sample (N,) from a model's outputs and the teacher's on the same inputs."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Imitation(Task):
    """A model judged by how close its outputs are to the teacher's, sample by sample.

    Args:
        train, validation, test: the inputs of each split: a tensor (N, ...), or one for each input of the model.
        prepare: turns the first input as stored (say uint8 images) into what the model takes; the others go in as
            they are.
        augment: `augment(batch, generator)` for the first input of training batches; all its randomness must come
            from the generator, or runs cannot be repeated.
        batch_size: samples in a batch; the teacher's outputs on a split are kept once they are known.

    Raises:
        DataError: a split is empty, or its inputs differ in length.
    """

    def __init__(
        self,
        train: Inputs,
        validation: Inputs,
        test: Inputs,
        *,
        prepare: Prepare | None = None,
        augment: Augment | None = None,
        batch_size: int = 16,
    ) -> None:
        self._data = {
            split: inputs if isinstance(inputs, tuple) else (inputs,)
            for split, inputs in zip(SPLITS, (train, validation, test), strict=True)
        }
        for split, inputs in self._data.items():
            counts = {len(x) for x in inputs}
            if not counts or 0 in counts:
                raise DataError(f"the {split} split holds no samples; check the data path in the task file")
            if len(counts) > 1:
                raise DataError(f"the inputs of the {split} split hold {sorted(counts)} samples; they must be as many")
        self.prepare = prepare or (lambda stored: stored)
        self.augment = augment
        self.batch_size = batch_size
        self._teacher: Predict | None = None
        self._teacher_outputs: dict[Split, list[Tensor]] = {}

    @abstractmethod
    def compare(self, output: Tensor, reference: Tensor) -> Tensor:
        """The quality of each of N outputs against the teacher's: (N,), in the task's unit."""

    @abstractmethod
    def picture(self, output: Tensor) -> Tensor:
        """One output as an RGB picture (3, H, W) in [0, 1]."""

    def input_picture(self, inputs: tuple[Tensor, ...], teacher_output: Tensor) -> Tensor:
        """The picture that stands for one sample's inputs (no batch axis): the teacher's output, where there is none.

        Tasks whose inputs can be looked at show these instead.
        """
        return self.picture(teacher_output)

    def more_comparisons(self) -> Mapping[str, tuple[str, Compare]]:
        """Further figures to report: name -> (unit, how to compare)."""
        return {}

    def example_inputs(self) -> tuple[Tensor, ...]:
        """The first validation sample, batch size 1."""
        return self._gather("validation", torch.arange(1))

    def train_size(self) -> int:
        """How many training samples there are."""
        return len(self._data["train"][0])

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """The training samples at `indices`, the first input augmented; there is no target."""
        first, *others = self._gather("train", indices)
        if self.augment is not None:
            first = self.augment(first, generator)
        return Batch((first, *others))

    def batches(self, split: Split) -> Iterator[Batch]:
        """The split's samples in order, in batches of `batch_size`."""
        for indices in torch.arange(len(self._data[split][0])).split(self.batch_size):
            yield Batch(self._gather(split, indices))

    def with_teacher(self, teacher: Predict) -> Imitation:
        """The same task, judging by this teacher's outputs."""
        self._teacher, self._teacher_outputs = teacher, {}
        return self

    def quality(self, predict: Predict, split: Split = "test", limit: int | None = None) -> Number:
        """The mean over (the first `limit`) samples of how close the model comes to the teacher."""
        figures = torch.cat([self.compare(*pair) for pair in self._pairs(predict, split, limit)])
        source = f"{self.quality_name}, {split} split"
        return Number(float(figures.mean()), self.quality_unit, "measured", n=len(figures), source=source)

    def more_qualities(self, predict: Predict) -> dict[str, Number]:
        """The mean over the test split of each further figure."""
        wanted = self.more_comparisons()
        if not wanted:
            return {}
        found: dict[str, list[Tensor]] = {name: [] for name in wanted}
        for pair in self._pairs(predict, "test"):
            for name, (_, compare) in wanted.items():
                found[name].append(compare(*pair).double())
        means = {name: torch.cat(parts) for name, parts in found.items()}
        return {
            name: Number(float(means[name].mean()), unit, "measured", n=len(means[name]), source="test split")
            for name, (unit, _) in wanted.items()
        }

    def samples(self, models: Mapping[str, Predict], count: int = 12) -> list[Sample]:
        """The first `count` test samples with what each model makes of them."""
        inputs = self._gather("test", torch.arange(min(count, len(self._data["test"][0]))))
        outputs = {name: predict(*inputs) for name, predict in models.items()}
        wanted = self._known_teacher("test")(*inputs)
        return [
            Sample(
                self.input_picture(tuple(x[i] for x in inputs), wanted[i]),
                outputs={name: self.picture(output[i]) for name, output in outputs.items()},
            )
            for i in range(len(inputs[0]))
        ]

    def teacher_outputs(self, split: Split) -> Iterator[Tensor]:
        """Yields the teacher's outputs on a split, batch by batch; each is computed once and kept."""
        teacher, kept = self._known_teacher(split), self._teacher_outputs.setdefault(split, [])
        for number, batch in enumerate(self.batches(split)):
            if number == len(kept):
                kept.append(teacher(*batch.inputs))
            yield kept[number]

    def _pairs(self, predict: Predict, split: Split, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (the model's outputs, the teacher's) batch by batch, `limit` samples in all."""
        left = len(self._data[split][0]) if limit is None else limit
        for batch, reference in zip(self.batches(split), self.teacher_outputs(split), strict=True):
            yield predict(*(x[:left] for x in batch.inputs)), reference[:left]
            left -= len(batch)
            if left <= 0:
                return

    def _gather(self, split: Split, indices: Tensor) -> tuple[Tensor, ...]:
        first, *others = (x[indices] for x in self._data[split])
        return (self.prepare(first), *others)

    def _known_teacher(self, split: Split) -> Predict:
        if self._teacher is None:
            raise DataError(f"the {split} split has no teacher to compare with")
        return self._teacher
