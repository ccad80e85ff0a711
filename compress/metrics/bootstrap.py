"""How far a figure could be off because other samples might have been drawn: intervals without a formula.

Three cases, three functions: the mean of one figure per sample (`bootstrap_interval`, `summary`), a smooth statistic
of sets of rows (`bootstrap_of`), and a statistic that repeated rows distort (`half_sample_interval`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compress.errors import DataError
from compress.types import Number

_BLOCK_PLACES = 1 << 22  # drawn places at a time: 32 MB


def bootstrap_interval(
    figures_N: Tensor, seed: int = 0, resamples: int = 1000, level: float = 0.9
) -> tuple[float, float]:
    """The percentile bootstrap's (low, high) for the mean of one figure per sample (Efron, 1979).

    With few samples it is too narrow: at ten, a 90 % interval of a bell curve covers the mean 81 times in 100.

    Args:
        figures_N: one figure per independent sample.
        seed: the same seed gives the same interval.
        resamples: how many means are drawn.
        level: the share of the means that the interval holds.

    Raises:
        DataError: there are fewer than two figures, or one is NaN or infinite.
    """
    figures = _checked_figures(figures_N)
    count, generator = len(figures), torch.Generator().manual_seed(seed)
    blocks = torch.arange(resamples).split(max(1, _BLOCK_PLACES // count))
    drawn = (torch.randint(count, (len(block), count), generator=generator) for block in blocks)
    return _percentiles(torch.cat([figures[places].mean(1) for places in drawn]), level)


def bootstrap_of(
    statistic: Callable[..., float], *row_sets: Tensor, seed: int = 0, resamples: int = 1000, level: float = 0.9
) -> tuple[float, float]:
    """The percentile bootstrap's (low, high) for a statistic of sets of rows, each set resampled by itself.

    For smooth statistics: a ratio of means, a correlation, an accuracy. Rows that belong together (a model's figure
    and its teacher's on one sample) go in as columns of one set. Resampled sets repeat rows, which widens the Fréchet
    distance, fills the kernel distance with pairs of equal rows and empties balls of neighbours: for those the whole
    interval is off, and `half_sample_interval` is the one to use.

    Raises:
        DataError: a set has fewer than two rows, or the statistic is NaN or infinite on a resample.
    """
    generator = torch.Generator().manual_seed(seed)
    _check_sets(row_sets)
    found = [
        statistic(*(rows[torch.randint(len(rows), (len(rows),), generator=generator)] for rows in row_sets))
        for _ in range(resamples)
    ]
    return _percentiles(_checked_figures(torch.tensor(found, dtype=torch.float64)), level)


def half_sample_interval(
    statistic: Callable[..., float], *row_sets: Tensor, seed: int = 0, resamples: int = 200, level: float = 0.9
) -> tuple[float, float]:
    """(low, high) around a statistic of sets of rows that repeated rows would distort: distances, neighbour counts.

    Random halves of each set, drawn without replacement, repeat no row. A half's figure varies around the whole's as
    much as the whole's does around its expectation, 1/(n/2) - 1/n being 1/n, so the deviations need no scaling
    (Politis and Romano, 1994, has the general case). They are taken from the halves' own mean and put around the whole
    set's figure: what halves add in bias drops out.

    The interval is for the figure that other sets of this size would give on average, bias included, and so serves to
    compare models on as many rows; it does not reach for the figure of infinitely many. Near a distance of 0 it is too
    wide, by up to 1.7 times.

    Raises:
        DataError: a set has fewer than four rows, its half is too small for the statistic, or the statistic is NaN or
            infinite on a half.
    """
    generator = torch.Generator().manual_seed(seed)
    _check_sets(row_sets, least=4)

    def half(rows: Tensor, turn: int) -> Tensor:
        """A random half; that of an odd number of rows is rounded down and up in turn."""
        return rows[torch.randperm(len(rows), generator=generator)[: (len(rows) + turn % 2) // 2]]

    found = [statistic(*(half(rows, turn) for rows in row_sets)) for turn in range(resamples)]
    figures = _checked_figures(torch.tensor(found, dtype=torch.float64))
    return _percentiles(figures - figures.mean() + statistic(*row_sets), level)


def summary(figures_N: Tensor, unit: str, source: str) -> Number:
    """The mean of one measured figure per sample, with its 90 % bootstrap interval where there are two or more.

    Raises:
        DataError: there is no figure, or one is NaN or infinite.
    """
    figures = _checked_figures(figures_N, least=1)
    interval = bootstrap_interval(figures) if len(figures) > 1 else None
    return Number(float(figures.mean()), unit, "measured", n=len(figures), interval=interval, source=source)


def _checked_figures(figures_N: Tensor, least: int = 2) -> Tensor:
    """The figures in float64 on the CPU, where the draws are made; raises DataError where they have no interval."""
    if figures_N.dim() != 1 or len(figures_N) < least:
        raise DataError(f"an interval needs a row of {least} or more figures, not the shape {tuple(figures_N.shape)}")
    broken = int((~figures_N.isfinite()).sum())
    if broken:
        raise DataError(f"{broken} of {len(figures_N)} figures are NaN or infinite; their mean has no interval")
    return figures_N.detach().double().cpu()


def _check_sets(row_sets: tuple[Tensor, ...], least: int = 2) -> None:
    for number, rows in enumerate(row_sets, 1):
        if len(rows) < least:
            raise DataError(f"set {number} has {len(rows)} rows; an interval needs {least} or more")


def _percentiles(figures_N: Tensor, level: float) -> tuple[float, float]:
    """The edges of the middle `level` of the figures."""
    if not 0 < level < 1:
        raise DataError(f"the level is {level:g}; it must be a share between 0 and 1, such as 0.9")
    low, high = torch.quantile(figures_N, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=figures_N.dtype))
    return float(low), float(high)
