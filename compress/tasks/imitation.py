"""What generators of all kinds share: inputs without labels, and the teacher's own output as the measure."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from compress.errors import DataError
from compress.metrics.bootstrap import summary
from compress.tasks.base import Batch, Predict, Reference, Sample, Split, Stored, Task, take
from compress.types import Number

Inputs = Stored | tuple[Stored, ...]
Prepare = Callable[[Tensor], Tensor]
Augment = Callable[[Tensor, torch.Generator], Tensor]
Compare = Callable[[Tensor, Tensor], Tensor]
"""A figure per sample (N,) from a model's outputs and the teacher's on the same inputs."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Imitation(Task):
    """A model judged by how close its outputs are to the teacher's, sample by sample.

    Args:
        train, validation, test: the inputs of each split: a tensor (N, ...) or anything indexable that gives one sample
            at a time; or a tuple of these, one for each input of the model.
        prepare: turns the first input as stored (say uint8 images) into what the model takes; the others go in as
            they are.
        augment: `augment(batch, generator)` for the first input of training batches; all its randomness must come
            from the generator, or runs cannot be repeated.
        batch_size: samples in a batch; the teacher's outputs on a split are kept once they are known.
        references: what the student is held against beside its teacher, by name.

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
        references: Mapping[str, Reference] | None = None,
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
        self._references = dict(references or {})
        self._teacher: Predict | None = None
        self._teacher_outputs: dict[Split, list[Tensor]] = {}

    @abstractmethod
    def compare(self, output: Tensor, reference: Tensor) -> Tensor:
        """The quality of each of N outputs against the teacher's: (N,), in the task's unit."""

    @abstractmethod
    def picture(self, output: Tensor) -> Tensor:
        """One output as an RGB picture (3, H, W) in [0, 1]."""

    def input_picture(self, inputs: tuple[Tensor, ...], wanted: Tensor) -> Tensor:
        """The picture that stands for one sample's inputs (no batch axis): the output wanted, where there is none.

        Tasks whose inputs can be looked at show these instead.
        """
        return self.picture(wanted)

    def more_comparisons(self) -> Mapping[str, tuple[str, Compare]]:
        """Further figures to report: name -> (unit, how to compare)."""
        return {}

    def output_range(self) -> tuple[float, float] | None:
        """The (lowest, highest) value that outputs should have; None where there is no such range."""
        return None

    def references(self) -> Mapping[str, Reference]:
        """What the student is held against beside its teacher, by name."""
        return self._references

    def example_inputs(self) -> tuple[Tensor, ...]:
        """The first validation sample, batch size 1."""
        return self._gather("validation", torch.arange(1))

    def train_size(self) -> int:
        """How many training samples there are."""
        return len(self._data["train"][0])

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """The training samples at `indices`, the first input augmented; there is no target."""
        first, *others = self._gather("train", indices)
        if self.augment is None:
            return Batch((first, *others), sample_ids=indices)
        return Batch((self.augment(first, generator), *others))

    def batches(self, split: Split) -> Iterator[Batch]:
        """The split's samples in order, in batches of `batch_size`."""
        for indices in self._batch_indices(split):
            yield Batch(self._gather(split, indices))

    def with_teacher(self, teacher: Predict) -> Imitation:
        """The same task, judging by this teacher's outputs."""
        self._teacher, self._teacher_outputs = teacher, {}
        return self

    def quality(self, predict: Predict, split: Split = "test", limit: int | None = None) -> Number:
        """The mean over (the first `limit`) samples of how close the model comes to what is wanted."""
        figures = torch.cat([self.compare(*pair) for pair in self._pairs(predict, split, limit)])
        return mean_of(figures, self.quality_unit, f"{self.quality_name}, {split} split")

    def more_qualities(self, predict: Predict) -> dict[str, Number]:
        """The figures of `further` for what the model makes of the test split."""
        return self.further(list(self.outputs_of(predict, "test")))

    def further(self, outputs: list[Tensor]) -> dict[str, Number]:
        """The mean of each further comparison, and the share of values out of range where there are any.

        Args:
            outputs: what a model makes of the test split, batch by batch.
        """
        found = self.means(outputs, self.wanted("test"), self.more_comparisons()) if self.more_comparisons() else {}
        return {**found, **self._out_of_range(outputs)}

    def means(
        self, outputs: Iterable[Tensor], wanted: Iterable[Tensor], comparisons: Mapping[str, tuple[str, Compare]]
    ) -> dict[str, Number]:
        """The mean of each comparison over the test split."""
        figures: dict[str, list[Tensor]] = {name: [] for name in comparisons}
        for output, reference in zip(outputs, wanted, strict=True):
            for name, (_, compare) in comparisons.items():
                figures[name].append(compare(output, reference))
        return {name: mean_of(torch.cat(figures[name]), unit, "test split") for name, (unit, _) in comparisons.items()}

    def _out_of_range(self, outputs: list[Tensor]) -> dict[str, Number]:
        limits = self.output_range()
        share = 0.0 if limits is None else share_outside(outputs, limits)
        if limits is None or not share:
            return {}
        source = "test split; share of output values that whoever shows them has to clamp"
        if self._teacher is not None:
            theirs = share_outside(self.teacher_outputs("test"), limits)
            source += f" (the teacher's own: {theirs:.2%})"
        samples = sum(len(output) for output in outputs)
        name = f"values outside [{limits[0]:g}, {limits[1]:g}]"
        return {name: Number(share, "fraction", "measured", n=samples, source=source)}

    def samples(self, models: Mapping[str, Predict], count: int = 12) -> list[Sample]:
        """The first `count` test samples with what each model makes of them."""
        inputs = self._gather("test", torch.arange(min(count, len(self._data["test"][0]))))
        outputs = {name: predict(*inputs) for name, predict in models.items()}
        wanted: list[Tensor] = []
        for batch in self.wanted("test"):
            wanted.extend(batch)
            if len(wanted) >= len(inputs[0]):
                break
        return [
            self.sample(tuple(x[i] for x in inputs), wanted[i], {name: output[i] for name, output in outputs.items()})
            for i in range(len(inputs[0]))
        ]

    def sample(self, inputs: tuple[Tensor, ...], wanted: Tensor, outputs: Mapping[str, Tensor]) -> Sample:
        """One row of the sample sheet, from one sample's inputs, what is wanted and what each model made of it."""
        pictures = {name: self.picture(output) for name, output in outputs.items()}
        return Sample(self.input_picture(inputs, wanted), outputs=pictures)

    def teacher_outputs(self, split: Split) -> Iterator[Tensor]:
        """Yields the teacher's outputs on a split, batch by batch; each is computed once and kept."""
        teacher, kept = self._known_teacher(split), self._teacher_outputs.setdefault(split, [])
        for number, indices in enumerate(self._batch_indices(split)):
            if number == len(kept):
                kept.append(teacher(*self._gather(split, indices)))
            yield kept[number]

    def outputs_of(self, predict: Predict, split: Split) -> Iterator[Tensor]:
        """Yields a model's outputs on a split, batch by batch; the teacher's own are not computed anew."""
        if predict is self._teacher:
            yield from self.teacher_outputs(split)
            return
        for batch in self.batches(split):
            yield predict(*batch.inputs)

    def wanted(self, split: Split) -> Iterator[Tensor]:
        """Yields what outputs are compared with, batch by batch: the teacher's."""
        return self.teacher_outputs(split)

    def _pairs(self, predict: Predict, split: Split, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (the model's outputs, what is wanted) batch by batch, `limit` samples in all."""
        left = len(self._data[split][0]) if limit is None else limit
        for output, reference in zip(self.outputs_of(predict, split), self.wanted(split), strict=True):
            yield output[:left], reference[:left]
            left -= len(output)
            if left <= 0:
                return

    def _batch_indices(self, split: Split) -> tuple[Tensor, ...]:
        return torch.arange(len(self._data[split][0])).split(self.batch_size)

    def _gather(self, split: Split, indices: Tensor) -> tuple[Tensor, ...]:
        first, *others = (take(x, indices) for x in self._data[split])
        return (self.prepare(first), *others)

    def _known_teacher(self, split: Split) -> Predict:
        if self._teacher is None:
            raise DataError(f"the {split} split has no teacher to compare with")
        return self._teacher


def mean_of(figures_N: Tensor, unit: str, source: str) -> Number:
    """The mean of a figure per sample with its interval; without one where a figure is NaN or infinite."""
    if bool(figures_N.isfinite().all()):
        return summary(figures_N, unit, source)
    return Number(float(figures_N.double().mean()), unit, "measured", n=len(figures_N), source=source)


def share_outside(outputs: Iterable[Tensor], limits: tuple[float, float]) -> float:
    """The share of values outside the limits, by more than a ten-thousandth of their width; NaN is outside."""
    low, high = limits
    slack = 1e-4 * (high - low)
    counts = [(int(((x >= low - slack) & (x <= high + slack)).sum()), x.numel()) for x in outputs]
    inside, total = (sum(column) for column in zip(*counts, strict=True))
    return 1 - inside / total
