"""A set of made pictures against a set of others, as a named backbone sees both: distances, and who has neighbours.

Legend: N made rows, M other rows, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from compress.errors import DataError
from compress.metrics import (
    Features,
    Statistic,
    density_coverage,
    figure_name,
    frechet_distance,
    half_sample_interval,
    kernel_distance,
    precision_recall,
)
from compress.types import Number

Measure = Callable[[Tensor, Tensor], tuple[float, ...]]
"""Figures of (other rows, made rows)."""
Measures = tuple[tuple[tuple[Statistic, ...], Measure], ...]
DISTANCES: Measures = (
    (("Fréchet distance",), lambda others, made: (frechet_distance(others, made),)),
    (("kernel distance",), lambda others, made: (kernel_distance(others, made),)),
)
NEIGHBOURS: Measures = ((("precision", "recall"), precision_recall), (("density", "coverage"), density_coverage))
# The ends lie between the second and third of so many at either side: rough, but every artifact of a run is judged so.
_HALVES = 40


def rows_of(features: Features, batches: Iterable[Tensor]) -> Tensor:
    """The feature rows (N, D) of batches of pictures, RGB in [0, 1]."""
    return torch.cat([features.compute(batch) for batch in batches])


def distances(features: Features, made_ND: Tensor, others_MD: Tensor, source: str) -> dict[str, Number]:
    """The Fréchet and the kernel distance of two sets; 0 is equal."""
    return _figures(DISTANCES, features, made_ND, others_MD, source)


def neighbours(
    features: Features, made_ND: Tensor, others_MD: Tensor, source: str, own: Mapping[str, Number] | None = None
) -> dict[str, Number]:
    """Precision, recall, density and coverage of the made pictures among the others; 1 is all of them.

    Args:
        features: what made the rows.
        made_ND: the rows of the pictures to judge.
        others_MD: the rows of those that they should be like.
        source: where the pictures are from.
        own: the same figures of the teacher's pictures; each then stands in the source, to read the student's by.
    """
    own = own or {}
    beside = {name: f"; the teacher's own: {n.value:.3f}" for name, n in own.items() if n.value is not None}
    return _figures(NEIGHBOURS, features, made_ND, others_MD, source, beside)


def _figures(
    measures: Measures, features: Features, made: Tensor, others: Tensor, source: str, beside: Mapping[str, str] = {}
) -> dict[str, Number]:
    """The figures with intervals from half samples; unknown, with the reason, where the rows do not allow one."""
    found: dict[str, Number] = {}
    for statistics, measure in measures:
        names = [figure_name(statistic, features) for statistic in statistics]
        try:
            values = measure(others, made)
        except DataError as error:
            found |= {n: Number(None, "", "measured", n=len(made), source=f"{source}: {error}") for n in names}
            continue
        intervals = _intervals(measure, others, made, len(names))
        for name, value, interval in zip(names, values, intervals, strict=True):
            text = source + beside.get(name, "")
            found[name] = Number(value, "", "measured", n=len(made), interval=interval, source=text)
    return found


def _intervals(measure: Measure, others: Tensor, made: Tensor, count: int) -> list[tuple[float, float] | None]:
    """The interval of each of the measure's figures; None where half the rows are too few."""
    taken: list[tuple[float, ...]] = []

    def first(*halves: Tensor) -> float:
        taken.append(measure(*halves))
        return taken[-1][0]

    def again(figure: int) -> tuple[float, float]:
        known = iter(taken)  # the same halves in the same order: what was measured on each is known
        return half_sample_interval(lambda *_: next(known)[figure], others, made, resamples=_HALVES)

    try:
        return [half_sample_interval(first, others, made, resamples=_HALVES), *map(again, range(1, count))]
    except DataError:
        return [None] * count
