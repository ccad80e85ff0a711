"""Images of one kind to images of another, where there are real pictures of the other kind to learn from.

The teacher's picture stays the measure, as with `ImageToImage`; how close the outputs come to real pictures is reported
beside it. Folders become such data with `split_pairs` and `split_pictures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import DataError
from compress.metrics import Features
from compress.tasks.base import Batch, Predict, Sample, Split, Stored, take
from compress.tasks.distribution import distances, neighbours, rows_of
from compress.tasks.imitation import SPLITS, Inputs
from compress.tasks.translation import ImageToImage
from compress.types import Number

REAL = "the real picture"
Pair = tuple[Inputs, Stored]
"""The inputs of a split, and pictures of the other kind: uint8, or in [0, 1]."""


class _TwoKinds(ImageToImage):
    """What both kinds share: pictures as stored (uint8, or in [0, 1]) on either side, and the outputs' range for them.

    Unless `prepare` is given, the first input is brought into `input_range`.
    """

    def __init__(self, train: Pair, validation: Pair, test: Pair, **settings: Any) -> None:
        splits = (train, validation, test)
        settings["prepare"] = settings.get("prepare") or self._to_input
        super().__init__(*(inputs for inputs, _ in splits), **settings)
        self._others = dict(zip(SPLITS, (others for _, others in splits), strict=True))

    def _to_input(self, stored: Tensor) -> Tensor:
        low, width = self.input_range
        return unit(stored) * width + low

    def to_output(self, stored: Tensor) -> Tensor:
        """Pictures as stored, in the range of the outputs."""
        low, width = self.span()
        return unit(stored) * width + low


class PairedTranslation(_TwoKinds):
    """Images in, images out, with the right output known for each.

    Batches carry the real picture as their target, in the outputs' range; the loss against it is L1.

    Args:
        train, validation, test: each (inputs, targets), sample by sample.
        settings: those of `ImageToImage`. An `augment` is applied to inputs and targets alike, with the same draws: it
            may turn, flip and cut, but not change colours.

    Raises:
        DataError: inputs and targets differ in number.
    """

    def __init__(self, train: Pair, validation: Pair, test: Pair, **settings: Any) -> None:
        super().__init__(train, validation, test, **settings)
        for split in SPLITS:
            inputs, targets = len(self._data[split][0]), len(self._others[split])
            if inputs != targets:
                raise DataError(f"the {split} split has {inputs} inputs but {targets} targets; they must be as many")

    @property
    def labelled(self) -> bool:
        """Always: the real picture is the label."""
        return True

    def loss(self, output: Tensor, target: Any) -> Tensor:
        """The mean absolute difference from the real pictures."""
        return F.l1_loss(output.float(), target)

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """The training samples at `indices` with their targets, augmented alike."""
        twin = torch.Generator()
        twin.set_state(generator.get_state())
        batch, target = super().train_batch(indices, generator), self._real("train", indices)
        return replace(batch, target=target if self.augment is None else self.augment(target, twin))

    def batches(self, split: Split) -> Iterator[Batch]:
        """The split's samples in order with their targets, in batches of `batch_size`."""
        for indices in self._batch_indices(split):
            yield Batch(self._gather(split, indices), self._real(split, indices))

    def real(self, split: Split) -> Iterator[Tensor]:
        """Yields the real pictures of a split, batch by batch, in the outputs' range."""
        for indices in self._batch_indices(split):
            yield self._real(split, indices)

    def further(self, outputs: list[Tensor]) -> dict[str, Number]:
        """The figures of `ImageToImage` against the teacher, and all of them against the real pictures."""
        against_real = {f"{name} against {REAL}": figure for name, figure in self.comparisons().items()}
        return {**super().further(outputs), **self.means(outputs, self.real("test"), against_real)}

    def _real(self, split: Split, indices: Tensor) -> Tensor:
        return self.to_output(take(self._others[split], indices))

    def samples(self, models: Mapping[str, Predict], count: int = 12) -> list[Sample]:
        """The first `count` test samples with what each model makes of them, and the real picture."""
        rows = super().samples(models, count)
        real = self._real("test", torch.arange(len(rows)))
        return [
            replace(row, outputs={**row.outputs, REAL: self.picture(picture)})
            for row, picture in zip(rows, real, strict=True)
        ]


class UnpairedTranslation(_TwoKinds):
    """Images of one kind to images of another, where no picture of one belongs to a picture of the other.

    The target of a training batch is as many pictures of the second kind, drawn at random: what a discriminator is
    shown as real. No loss goes by them.

    Args:
        train, validation, test: each (inputs, pictures of the second kind); their numbers may differ.
        features: a backbone; with it the outputs are compared with the test pictures of the second kind, as sets.
        settings: those of `ImageToImage`.
    """

    def __init__(
        self, train: Pair, validation: Pair, test: Pair, *, features: Features | None = None, **settings: Any
    ) -> None:
        super().__init__(train, validation, test, **settings)
        self.features = features
        self._real_rows: Tensor | None = None

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """The training samples at `indices`, with as many random pictures of the second kind."""
        batch = super().train_batch(indices, generator)
        others = self._others["train"]
        drawn = torch.randint(len(others), (len(indices),), generator=generator)
        return replace(batch, target=self.to_output(take(others, drawn)))

    def further(self, outputs: list[Tensor]) -> dict[str, Number]:
        """The figures of `ImageToImage`, and with a backbone the distances from the second kind as a whole."""
        found = super().further(outputs)
        if self.features is None:
            return found
        made = rows_of(self.features, [self.pictures(output) for output in outputs])
        if self._real_rows is None:
            others = self._others["test"]
            batches = torch.arange(len(others)).split(self.batch_size)
            self._real_rows = rows_of(self.features, [unit(take(others, indices)) for indices in batches])
        source = f"test split, against {len(self._real_rows)} pictures of the second kind"
        return {
            **found,
            **distances(self.features, made, self._real_rows, source),
            **neighbours(self.features, made, self._real_rows, source),
        }


def unit(stored: Tensor) -> Tensor:
    """Pictures in [0, 1], from uint8 or as they are."""
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored
