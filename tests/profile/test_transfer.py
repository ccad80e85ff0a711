"""A device left out: ten measurements bring another device's costs to it, and no judged family is seen anywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress.profile import transfer as module
from compress.profile.calibrate import Calibration, calibrate
from compress.profile.constants import Costs
from compress.profile.features import COSTS, Layout
from compress.profile.fit import UnitFit, solver_for
from compress.profile.judge import Rows
from compress.profile.regression import Solution
from compress.profile.transfer import MEASUREMENTS, Transfer, groups_of, spread_over_latency, transfer, transfers
from compress.profile.trials import Flags, tried
from tests.profile.stated import conv, plain
from tests.profile.test_ratios import Alone

LAYOUT = Layout(channels=4)


def device(name: str, macs_factor: float = 1.0, bytes_factor: float = 1.0, narrow: float = 1.0) -> UnitFit:
    """Ten families of four nets on a device whose arithmetic and memory take so many times as long as usual.

    A depthwise MAC takes `narrow` times as long as any other.
    """
    graphs, measured, families = {}, {}, {}
    for family in range(10):
        for depth in range(1, 5):
            width = 8 + 4 * family
            narrow_ops = [conv(width, width, 30, groups=width, kernel=5)] * (1 + family % 4)
            ops = [conv(width, width, 6 * depth), plain("elementwise", (1, 8 * depth, 40, 40)), *narrow_ops]
            macs = sum((op.macs or 0) * (narrow if op.groups > 1 else 1) for op in ops)
            moved = 1e5 * depth
            model = f"{family}_{depth}"
            graphs[model], families[model] = tuple(ops), str(family)
            measured[model] = (macs * macs_factor + moved * bytes_factor) * 1e-6 + 0.05
    rows = Rows.of(graphs, measured, LAYOUT, families)
    return UnitFit(name, "cpu", "litert", "float32", "cpu", LAYOUT, rows, solver_for(rows, "cpu", LAYOUT), "none",
                   np.zeros(len(COSTS)))  # fmt: skip


def left_out(fit: UnitFit, *peers: UnitFit) -> Transfer:
    """The device as if it had never been in the tables."""
    return transfer(fit, tried(Alone(), fit).trial.predicted_ms, peers)


def test_ten_measurements_bring_a_device_that_is_only_slower_to_its_own_fit() -> None:
    found = left_out(device("mine", 3.0, 3.0), device("like", 1.0, 1.0))
    assert found.mape_before > 0.4, "as it is, the other device is three times too fast"
    assert found.mape < 0.05 and found.measurements == MEASUREMENTS
    assert found.ratio < 1.3 or found.mape < 0.02
    assert found.ratio == pytest.approx(found.mape / found.own_mape) and found.n == 40


def test_what_ten_measurements_may_not_move_shows_in_the_ratio() -> None:
    """Whole groups of costs may move far, one cost against the rest of its group only little."""
    mine = device("mine", narrow=20.0)
    near, far = left_out(mine, device("like", narrow=20.0)), left_out(mine, device("unlike"))
    assert near.ratio < 1.5 < 3 < far.ratio and far.mape > 3 * near.mape
    assert near.own_mape == far.own_mape


def test_the_device_that_does_best_on_the_ten_is_started_from() -> None:
    others = (device("odd", narrow=30.0), device("like", 1.0, 2.0), device("odder", narrow=0.02))
    found = left_out(device("mine", 2.0, 4.0), *others)
    assert found.bases == {"like": module.GROUPS}


def test_no_judged_family_is_among_the_ten_or_in_the_other_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    other = device("like")
    in_base: list[set[str]] = []
    in_ten: list[set[str]] = []

    def spied(chosen: Flags) -> Solution:
        in_base.append(set(other.rows.families[chosen]))
        return other.solver(chosen)

    def measured(base: Costs, rows: Rows, source: str) -> Calibration:
        in_ten.append(set(rows.families))
        assert len(rows.names) == MEASUREMENTS
        return calibrate(base, rows, source)

    monkeypatch.setattr(module, "calibrate", measured)
    mine = device("mine", 2.0)
    left_out(mine, replace(other, solver=spied))
    groups = [set(group) for group in groups_of(mine.rows.families)]
    assert len(in_base) == len(in_ten) == len(groups) == 5
    for judged, base, ten in zip(groups, in_base, in_ten, strict=True):
        assert base == set(mine.rows.families) - judged and ten and not ten & judged
    assert set().union(*groups) == set(mine.rows.families), "and every family is judged once"


class Known(Alone):
    """No tables: these fits are each other's peers."""

    def __init__(self, *known: UnitFit) -> None:
        super().__init__()
        self.known = known

    def peers(self, fit: UnitFit, fewest: int) -> list[UnitFit]:
        return [other for other in self.known if other.target != fit.target]


def test_a_fit_that_nothing_else_can_be_adapted_to_is_named() -> None:
    mine = device("mine", 2.0)
    each = tried(Alone(), mine)
    found, alone = transfers(Known(device("like"), mine), [each])
    assert [transfer_.target for transfer_ in found] == ["mine"] and alone == []
    assert transfers(Known(mine), [each]) == ([], ["mine cpu litert float32"])


def test_groups_hold_about_as_many_models_each() -> None:
    families = np.array(["big"] * 6 + ["b"] * 3 + ["c"] * 3 + ["d"] * 2 + ["e"] * 2 + ["f"] * 2)
    assert groups_of(families, 3) == [["big"], ["b", "d", "f"], ["c", "e"]]
    assert groups_of(np.array(["a", "b"]), 5) == [["a"], ["b"]]


def test_measurements_are_spread_from_the_fastest_to_the_slowest() -> None:
    latency_ms = np.array([5.0, 1.0, 9.0, 3.0, 7.0, 100.0])
    allowed = np.array([0, 1, 2, 3, 4])
    assert spread_over_latency(allowed, latency_ms, 3).tolist() == [1, 0, 2]
    assert spread_over_latency(allowed, latency_ms, 9).tolist() == [1, 3, 0, 4, 2]
