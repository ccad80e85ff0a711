"""E2GAN: are the crucial layers, and the typical samples, better than others?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.bench.beds import shapes
from compress.bench.beds.seeds import seeded
from compress.bench.case import Case
from compress.bench.train import distil
from compress.distill.generator.e2gan import E2gan, near_centroids
from compress.distill.generator.taps import Features
from compress.tasks import PairedTranslation

_EPOCHS, _KEPT, _RANK = 6, 32, 4
_PIXELS: dict[str, Any] = {"data_range": 2.0, "lowest": -1.0, "input_range": (-1.0, 2.0)}
_PAIRS = {"gan": 0.0, "ranks": [_RANK]}


class _Anywhere(E2gan):
    """The same number of changes at random layers."""

    def sensitivities(self, student: nn.Module) -> dict[str, float]:
        """As many random layers as would have been crucial, of one size; the rest nothing."""
        found = super().sensitivities(student)
        total, covered, count = sum(found.values()), 0.0, 0
        for value in sorted(found.values(), reverse=True):
            if count and covered >= self.options.crucial * total:
                break
            covered, count = covered + value, count + 1
        paths = sorted(found)
        picks = torch.randperm(len(paths), generator=torch.Generator().manual_seed(torch.initial_seed()))[:count]
        return {path: float(number in picks.tolist()) for number, path in enumerate(paths)}


def _concept(keep: Callable[[Tensor], Tensor] | None = None) -> PairedTranslation:
    """The new concept: the base's shapes with red and blue swapped; of the training samples only those kept."""
    splits = []
    for number, count in enumerate((256, 64, 64)):
        outlines, filled, _ = shapes.draw(count, 20 + number)
        splits.append((outlines, filled.flip(1)))
    if keep is not None:
        rows = keep(splits[0][0])
        repeats = len(splits[0][0]) // len(rows)  # as many steps in an epoch
        splits[0] = tuple(side[rows].repeat(repeats, 1, 1, 1) for side in splits[0])  # type: ignore[assignment]
    return PairedTranslation(*splits, batch_size=16, **_PIXELS)


def _error(seed: int, method: type[E2gan], task: PairedTranslation) -> float:
    base = shapes.filling_teacher()
    student = distil(
        method, _PAIRS, base, lambda: copy.deepcopy(base), task, seed=seed, epochs=_EPOCHS, learning_rate=1e-2
    )
    with torch.no_grad():
        errors = [F.l1_loss(student(*batch.inputs), batch.target) for batch in task.batches("test")]
    return float(torch.stack(errors).mean())


def _layers(seed: int) -> tuple[float, float]:
    return _error(seed, E2gan, _concept()), _error(seed, _Anywhere, _concept())


def _samples(seed: int) -> tuple[float, float]:
    def typical(outlines: Tensor) -> Tensor:
        return near_centroids(_features(outlines), _KEPT, _KEPT, seed)

    def drawn(outlines: Tensor) -> Tensor:
        with seeded(seed):
            return torch.randperm(len(outlines))[:_KEPT]

    return _error(seed, E2gan, _concept(typical)), _error(seed, E2gan, _concept(drawn))


def _features(outlines: Tensor) -> Tensor:
    """What the base makes of outlines behind its encoder, (N, C)."""
    encoder = Features(shapes.filling_teacher(), ["down2.conv"])
    with torch.no_grad():
        encoder(outlines * 2 - 1)
    return encoder.caught["down2.conv"].flatten(1)


_SETTING = f"a base that fills outlines learns other colours by rank {_RANK} changes; {_EPOCHS} epochs of 256 samples"
CASES = (
    Case(
        method="e2gan",
        name="crucial layers",
        question=f"{_SETTING}: changes at the layers of the highest sensitivity, against as many random layers.",
        metric="mean absolute error of test pictures",
        unit="pixels in [-1, 1]",
        higher_is_better=False,
        card="changes of few per cent of the weights at crucial layers come near to full fine-tuning.",
        run=_layers,
    ),
    Case(
        method="e2gan",
        name="typical samples",
        question=f"{_SETTING}, {_KEPT} distinct: those next to the centroids of their features, against random ones.",
        metric="mean absolute error of test pictures",
        unit="pixels in [-1, 1]",
        higher_is_better=False,
        card="clustered data is at least as good as as many random samples.",
        run=_samples,
    ),
)
