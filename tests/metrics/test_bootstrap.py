"""Intervals: how often they cover what is known, and where the plain bootstrap misses it altogether."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compress.errors import DataError
from compress.metrics import (
    bootstrap,
    bootstrap_interval,
    bootstrap_of,
    frechet_distance,
    half_sample_interval,
    kernel_distance,
    precision_recall,
    summary,
)

Sets = tuple[Tensor, Tensor]
Interval = tuple[float, float]


def drawn(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def coverage(interval: Callable[[int], Interval], truth: float, times: int) -> float:
    """The share of `times` intervals, by seed, that hold the truth."""
    found = [interval(seed) for seed in range(times)]
    return sum(low <= truth <= high for low, high in found) / times


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    """On 400 figures with mean 0 and deviation 1: +- 1.645 / 20."""
    figures = drawn(400, 0)
    figures = (figures - figures.mean()) / figures.std(correction=0)
    low, high = bootstrap_interval(figures, resamples=4000)
    assert (low, high) == pytest.approx((-1.645 / 20, 1.645 / 20), abs=0.004)


def test_a_mean_is_covered_as_often_as_promised() -> None:
    """With 60 skewed figures: 90 times in 100, within 3 standard errors of 400 tries and a percent for the skew."""
    hit = coverage(lambda seed: bootstrap_interval(drawn(60, seed).square(), seed, 400), 1.0, 400)
    assert 0.84 < hit < 0.95
    half = coverage(lambda seed: bootstrap_interval(drawn(60, seed), seed, 400, level=0.5), 0.0, 400)
    assert 0.42 < half < 0.58


def test_a_seed_repeats_and_the_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(50, 0)
    found = bootstrap_interval(figures, seed=3)
    assert found == bootstrap_interval(figures, seed=3) != bootstrap_interval(figures, seed=4)
    monkeypatch.setattr(bootstrap, "_BLOCK_PLACES", 50 * 7)
    assert bootstrap_interval(figures, seed=3) == pytest.approx(found, abs=0.03)


def test_rows_that_belong_together_are_drawn_together() -> None:
    """A difference of paired figures: as columns of one set the shared part drops out, as two sets it does not."""
    shared, own = 10 * drawn(100, 0), drawn(100, 1)
    paired = torch.stack([shared + own, shared], 1)

    def apart(a: Tensor, b: Tensor) -> float:
        return float(a.mean() - b.mean())

    low, high = bootstrap_of(lambda rows: apart(rows[:, 0], rows[:, 1]), paired, resamples=400)
    assert (low, high) == pytest.approx(bootstrap_interval(own, resamples=400), abs=0.05)
    wide_low, wide_high = bootstrap_of(apart, paired[:, 0], paired[:, 1], resamples=400)
    assert wide_high - wide_low > 5 * (high - low)


def two_sets(count: int, width: int, shift: float) -> Callable[[int], Sets]:
    def draw(seed: int) -> Sets:
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(count, width, generator=generator)
        second = torch.randn(count, width, generator=generator)
        return first, second + shift * torch.eye(width)[0]

    return draw


# name, statistic, how sets are drawn, how often half-samples may cover, how often the bootstrap covers at most
CASES = {
    "distance in few dimensions": (frechet_distance, two_sets(80, 3, 1.0), (0.80, 1.0), 1.0),
    "distance in many dimensions": (frechet_distance, two_sets(60, 24, 1.5), (0.80, 1.0), 0.05),
    "precision": (lambda a, b: precision_recall(a, b)[0], two_sets(81, 3, 1.5), (0.80, 0.98), 0.75),
    "kernel distance of equal sets": (kernel_distance, two_sets(60, 3, 0.0), (0.9, 1.0), 0.8),
}


@pytest.mark.parametrize("case", CASES)
def test_halves_cover_the_expected_figure_where_repeated_rows_miss_it(case: str) -> None:
    """90 % intervals from 60 data sets against the mean figure of 300 others of the same size."""
    statistic, draw, (lowest, highest), bootstrap_covers = CASES[case]
    expected = sum(statistic(*draw(1000 + seed)) for seed in range(300)) / 300
    halves = coverage(lambda seed: half_sample_interval(statistic, *draw(seed), seed=seed, resamples=60), expected, 60)
    repeated = coverage(lambda seed: bootstrap_of(statistic, *draw(seed), seed=seed, resamples=60), expected, 60)
    assert lowest <= halves <= highest
    assert repeated <= bootstrap_covers


def test_halves_need_no_scaling_for_a_mean() -> None:
    """Their interval is as wide as the bootstrap's, for an odd number of rows too."""
    for count in (7, 200):
        rows = drawn(count, 5)
        low, high = half_sample_interval(lambda x: float(x.mean()), rows, resamples=4000)
        deviation = float(rows.std() / count**0.5)
        assert (low + high) / 2 == pytest.approx(float(rows.mean()), abs=0.2 * deviation)
        assert high - low == pytest.approx(2 * 1.645 * deviation, rel=0.08)


def test_a_summary_is_a_number_with_its_interval() -> None:
    figures = drawn(40, 0)
    number = summary(figures, "dB", "PSNR, test split")
    assert (number.unit, number.origin, number.n, number.source) == ("dB", "measured", 40, "PSNR, test split")
    assert number.value == pytest.approx(float(figures.double().mean()))
    assert number.interval == bootstrap_interval(figures)
    assert number.interval[0] < number.value < number.interval[1]
    assert summary(figures[:1], "dB", "").interval is None


def test_figures_without_an_interval_are_refused() -> None:
    with pytest.raises(DataError, match=r"2 or more figures, not the shape \(1,\)"):
        bootstrap_interval(drawn(1, 0))
    with pytest.raises(DataError, match="1 of 3 figures are NaN or infinite"):
        summary(torch.tensor([1.0, math.nan, 2.0]), "", "")
    with pytest.raises(DataError, match="the level is 90"):
        bootstrap_interval(drawn(5, 0), level=90)
    with pytest.raises(DataError, match="set 2 has 3 rows; an interval needs 4"):
        half_sample_interval(frechet_distance, drawn(8, 0).view(4, 2), drawn(6, 1).view(3, 2))
