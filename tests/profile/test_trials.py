"""Trials: which costs no fit behind a prediction had seen, and which fits another may be adapted from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compress.profile.adaptable import relative_solver
from compress.profile.fit import UnitFit
from compress.profile.judge import Rows
from compress.profile.regression import Solution
from compress.profile.trials import Fits, Flags, kept_in, part_of, tried
from compress.targets import load_target
from tests.profile.test_adaptable import target_of
from tests.profile.test_tables import layer, op, write_graphs, write_latencies

MACS = 16 * 8 * 9 * 6400


def write(folder: Path, pooling: int = 400) -> None:
    """Six families on a rich and an equal device, one of which alone pools, two of them on a poor one.

    The pooling reads maps of `pooling` pixels a side.
    """
    graphs: dict[tuple[str, str], list[dict[str, object]]] = {}
    latencies: list[dict[str, object]] = []
    for i, family in enumerate("abcdef"):
        macs = MACS * (i + 1)
        graphs[f"{family}net_1", ""] = [layer(macs)] * 3
        if family == "f":
            shape = f"1x16x{pooling}x{pooling}"
            graphs[f"{family}net_1", ""].append(op("max_pool2d_with_indices.default", shape, shape, kernel="3x3"))
        for device in ("rich", "equal", "poor"):
            if device != "poor" or family in "af":
                latencies.append({"model": f"{family}net_1", "device": device, "latency_ms": macs * 3e-7})
    write_graphs(folder / "graph_ops.parquet", graphs)
    write_latencies(folder / "latency.csv", latencies)


def fit_in(fits: Fits, path: Path) -> UnitFit:
    return fits.get(load_target(path), "cpu", "litert", "float32")


def test_a_cost_that_only_the_left_out_family_has_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    rich = target_of(tmp_path, "rich", "rich")
    fits = Fits(tmp_path, [str(rich)])
    found = tried(fits, fit_in(fits, rich))
    assert found.unseen[:5] == ((),) * 5 and "bytes.pool" in found.unseen[5]
    assert all(cost.startswith(("bytes.", "ops.")) for cost in found.unseen[5]), "its convolutions were seen"
    assert found.known.tolist() == [True] * 5 + [False]
    direct = found.fit.trial()
    assert (found.trial.predicted_ms == direct.predicted_ms).all(), "and the trial is the fit's own"


def test_a_cost_that_is_next_to_nothing_of_a_prediction_is_not(tmp_path: Path) -> None:
    write(tmp_path, pooling=2)
    rich = target_of(tmp_path, "rich", "rich")
    fits = Fits(tmp_path, [str(rich)])
    found = tried(fits, fit_in(fits, rich))
    assert found.known.all()


def test_what_the_relative_shows_counts_but_for_what_it_may_not_see(tmp_path: Path) -> None:
    write(tmp_path)
    rich = target_of(tmp_path, "rich", "rich")
    relative = {"target": str(rich), "unit": "cpu", "runtime": "litert", "scheme": "float32"}
    poor = target_of(tmp_path, "poor", "poor", relative)
    fits = Fits(tmp_path, [str(poor)])
    fit = fit_in(fits, poor)
    assert fit.rows.names == ("anet_1", "fnet_1")
    base = fits.relative(fit)
    assert base is not None and base.target == "rich" and fits.relative(base) is None
    everything = np.ones(2, dtype=bool)
    pool = fits.seen(fit, everything) & ~fits.seen(fit, np.array([True, False]))
    assert pool.any(), "without the family that pools, the relative shows no pooling either"
    assert (fits.seen(fit, np.array([False, True])) == fits.seen(fit, everything)).all()
    assert [bool(costs) for costs in tried(fits, fit).unseen] == [False, True]


def test_the_relatives_rows_are_those_that_the_fit_starts_from(tmp_path: Path) -> None:
    write(tmp_path)
    fits = Fits(tmp_path)
    rich, poor = (fit_in(fits, target_of(tmp_path, name, name)) for name in ("rich", "poor"))
    started: list[list[bool]] = []

    def spied(chosen: Flags) -> Solution:
        started.append(chosen.tolist())
        return rich.solver(chosen)

    for fit in (rich, poor):
        for left_out in range(2):
            chosen: Flags = np.arange(len(fit.rows.names)) != left_out
            relative_solver(fit.rows, rich.rows, spied, 0.1)(chosen)
            assert started[-1] == kept_in(rich.rows, fit.rows, chosen).tolist() and not all(started[-1])


def test_a_peer_is_another_target_that_owes_this_one_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    rich, equal = target_of(tmp_path, "rich", "rich"), target_of(tmp_path, "equal", "equal")
    relative = {"target": str(rich), "unit": "cpu", "runtime": "litert", "scheme": "float32"}
    poor = target_of(tmp_path, "poor", "poor", relative)
    fits = Fits(tmp_path, [str(path) for path in (rich, equal, poor)])
    assert [fit.target for fit in fits.wanted()] == ["rich", "equal", "poor"]

    def peers(path: Path, fewest: int) -> list[str]:
        return [peer.target for peer in fits.peers(fit_in(fits, path), fewest)]

    assert peers(rich, 2) == ["equal"], "poor starts from rich; shipped targets have no rows in these tables"
    assert peers(equal, 2) == ["rich", "poor"] and peers(equal, 3) == ["rich"]


def test_a_part_of_rows_keeps_what_belongs_together() -> None:
    rows = Rows(("a", "b", "c"), np.arange(6.0).reshape(3, 2), np.array([1.0, 2.0, 3.0]),
                np.array(["x", "y", "z"]), np.array([7.0, 8.0, 9.0]))  # fmt: skip
    part = part_of(rows, np.array([True, False, True]))
    assert part.names == ("a", "c") and part.design.tolist() == [[0, 1], [4, 5]]
    assert part.measured_ms.tolist() == [1, 3] and part.families.tolist() == ["x", "z"] and part.macs.tolist() == [7, 9]
    assert part_of(rows, np.array([2, 0])).names == ("c", "a")
