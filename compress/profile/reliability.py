"""Rank correlation with ties, and how high it can get: what repeated measurements of equal graphs leave to predict."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.profile.regression import Floats

Places = NDArray[np.int64]
# Noise is averaged over so many equal parts of the ranks; the error of a ceiling over so many resamplings.
_PARTS, _RESAMPLED = 10, 200


def ranked(values: Floats) -> Floats:
    """The rank of each value from 0; equal values share their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count + 1) / 2)[place])


def spearman(first: Floats, second: Floats) -> float:
    """Rank correlation with ties (Spearman, 1904); 0 where one side is all the same."""
    a, b = ranked(first), ranked(second)
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


def kendall(first: Floats, second: Floats) -> float:
    """The excess of pairs in the same order over those in the other, with ties (tau-b; Kendall, 1945); 0 as above."""
    order = np.lexsort((second, first))
    pairs = len(order) * (len(order) - 1) / 2
    tied = [_tied(values) for values in (first[:, None], second[:, None], np.stack([first, second], axis=1))]
    apart = (pairs - tied[0]) * (pairs - tied[1])
    agreeing_or_not = pairs - tied[0] - tied[1] + tied[2]
    return float((agreeing_or_not - 2 * _inversions(ranked(second)[order])) / np.sqrt(apart)) if apart > 0 else 0.0


def _tied(values: Floats) -> float:
    """How many pairs of rows are the same."""
    _, count = np.unique(values, axis=0, return_counts=True)
    return float((count * (count - 1.0)).sum() / 2)


def _inversions(values: Floats) -> float:
    """How many pairs stand in descending order, by a merge sort whose runs of one length are merged at once."""
    span = values.max() + 2
    merged = np.full(1 << (len(values) - 1).bit_length(), span - 1)
    merged[: len(values)] = values
    width, found = 1, 0.0
    while width < merged.size:
        runs = merged.reshape(-1, 2 * width)
        place = np.arange(len(runs))[:, None]
        # Each merge gets values of its own, so that all first halves together are one sorted row.
        left, right = ((half + place * span).ravel() for half in (runs[:, :width], runs[:, width:]))
        found += float(((place + 1) * width - np.searchsorted(left, right, side="right").reshape(-1, width)).sum())
        merged, width = np.sort(runs, axis=1).ravel(), 2 * width
    return found


def ceiling_of_pairs(measured: Floats, pairs: Places, level: Floats) -> tuple[float, float]:
    """The highest rank correlation of any predictor that sees only the graph, and its standard error (bootstrap).

    Two measurements of one graph (`pairs`: their places) differ by noise alone. The best that a predictor can say of a
    rank is its mean over measurements of that graph, which correlates with a single one as the root of the share of
    the variance that is not noise (the index of reliability; Lord & Novick, 1968). Fast and slow graphs are noisy to
    different degrees and not paired equally often, so the noise is that of each tenth of the ranks of `level` (what is
    expected of each measurement; the measurements themselves would tell pairs apart by their noise), and all tenths
    count alike.
    """
    ranks = ranked(measured)
    noise = (ranks[pairs[:, 0]] - ranks[pairs[:, 1]]) ** 2 / 2
    part = np.minimum(ranked(level)[pairs].mean(axis=1) * _PARTS / len(ranks), _PARTS - 1).astype(int)

    def ceiling(places: Places) -> float:
        within = [noise[places[part[places] == each]].mean() for each in np.unique(part[places])]
        return _reached(float(np.mean(within)), ranks)

    random = np.random.default_rng(0)
    again = [ceiling(random.integers(0, len(pairs), len(pairs))) for _ in range(_RESAMPLED)]
    return ceiling(np.arange(len(pairs))), float(np.std(again))


def ceiling_of_groups(measured: Floats, groups: Places) -> float:
    """The highest rank correlation of a predictor that knows no more of a measurement than its group."""
    ranks, count = ranked(measured), np.bincount(groups)
    mean = np.bincount(groups, ranks) / np.maximum(count, 1)
    within = np.bincount(groups, (ranks - mean[groups]) ** 2) / np.maximum(count - 1, 1)
    several = count[groups] > 1
    return _reached(float(within[groups][several].mean()), ranks)


def _reached(noise: float, ranks: Floats) -> float:
    """The root of the share of the ranks' variance that is not noise."""
    return float(np.sqrt(max(1 - noise / ranks.var(), 0.0)))
