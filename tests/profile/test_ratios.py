"""Ratios to float: judged on models measured in both, from fits that had seen nothing of a family in either."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress.profile.features import COSTS, Layout
from compress.profile.fit import UnitFit, solver_for
from compress.profile.judge import SPLIT, SPLIT_ROWS, Rows, Trial
from compress.profile.ratios import median_of_others, pooled, ratio_errors, ratios
from compress.profile.regression import Floats, Solution
from compress.profile.trials import Fits, Flags, Tried
from compress.types import Scheme
from tests.profile.stated import conv


def rows_of(latencies_ms: dict[str, float]) -> Rows:
    """Models of one convolution with these latencies; a name is FAMILY_NUMBER."""
    graphs = {name: (conv(16, 16, 4 * int(name.split("_")[1])),) for name in latencies_ms}
    return Rows.of(graphs, latencies_ms, Layout(), {name: name.split("_")[0] for name in latencies_ms})


def tried_of(scheme: Scheme, latencies_ms: dict[str, float], predicted_ms: Floats) -> Tried:
    """A fit and what it is to have said."""
    rows = rows_of(latencies_ms)
    layout = Layout()
    fit = UnitFit("phone", "cpu", "litert", scheme, "cpu", layout, rows, solver_for(rows, "cpu", layout), "none",
                  np.zeros(len(COSTS)))  # fmt: skip
    predicted = np.asarray(predicted_ms)
    return Tried(fit, Trial(predicted, predicted, np.log(rows.measured_ms / predicted)), ((),) * len(rows.names))


class Alone(Fits):
    """No tables: fits that start from nothing, or from a given one."""

    def __init__(self, base: UnitFit | None = None) -> None:
        self.base = base

    def relative(self, fit: UnitFit) -> UnitFit | None:
        return self.base if fit.scheme != "float32" else None


FAMILIES = ("a", "b", "c", "d", "e")
FLOAT = {f"{family}_{i}": 10.0 * i for family in FAMILIES for i in (1, 2)}
# Half the time in w8a8, but for a family that takes half as much again.
INT8 = {name: value * (1.5 if name.startswith("e") else 0.5) for name, value in FLOAT.items()}


def test_errors_and_flags_of_known_ratios() -> None:
    measured = np.array([0.5, 0.5, 1.5, 2.0, 0.9])
    predicted = np.array([0.5, 1.1, 1.2, 0.8, 0.9])
    found = ratio_errors(predicted, measured)
    assert (found.flagged, found.false_alarms) == (1, 1)
    assert found.mean_abs_log == pytest.approx((np.log(2.2) + np.log(1.25) + np.log(2.5)) / 5)
    assert found.median_abs_log == pytest.approx(np.log(1.25))


def test_a_scheme_over_float_is_judged_on_the_models_of_both() -> None:
    more = FLOAT | {"f_9": 1.0}
    base = tried_of("float32", more, rows_of(more).measured_ms * 2)
    other = tried_of("w8a8", INT8, rows_of(INT8).measured_ms * 2)
    (found,) = ratios(Alone(), [base, other])
    assert (found.n, found.families, found.split, found.slower) == (10, 5, SPLIT, 2)
    assert found.model.mean_abs_log == pytest.approx(0, abs=1e-12), "both are off twofold, their ratio is not"
    assert (found.model.flagged, found.model.false_alarms) == (2, 0)
    assert found.median_of_others is not None and found.median_of_others.flagged == 0
    assert found.median_of_others.mean_abs_log == pytest.approx(2 * np.log(3) / 10)
    assert [pair["model"] for pair in found.pairs] == sorted(INT8)
    wrong = tried_of("w8a8", INT8, rows_of(FLOAT).measured_ms * 0.5)
    (blind,) = ratios(Alone(), [base, wrong])
    assert blind.model.flagged == 0, "a prediction that is off shows: half of what it should be, or a sixth"
    assert blind.model.mean_abs_log == pytest.approx((8 * np.log(2) + 2 * np.log(6)) / 10)


def test_the_median_of_others_never_sees_the_own_family() -> None:
    folds = np.array(["a", "a", "a", "b", "c"])
    measured = np.array([9.0, 9.0, 9.0, 1.0, 2.0])
    assert median_of_others(measured, folds) == pytest.approx([1.5, 1.5, 1.5, 9.0, 9.0])
    assert median_of_others(measured, np.array(["a"] * 5)) is None


def test_pooling_weighs_models_alike() -> None:
    base = tried_of("float32", FLOAT, rows_of(FLOAT).measured_ms)
    exact, double = (tried_of("w8a8", INT8, rows_of(INT8).measured_ms * factor) for factor in (1.0, 2.0))
    found = [ratios(Alone(), [base, each])[0] for each in (exact, double)]
    (whole,) = pooled(found)
    assert (whole.target, whole.n, whole.slower) == ("all", 20, 4)
    assert whole.model.mean_abs_log == pytest.approx(np.log(2) / 2) and whole.model.flagged == 4


def test_few_families_are_left_out_as_models_only_where_float_has_few_too() -> None:
    """Two families in w8a8 would be left out model by model, and its relative would show the rest of the family."""
    few = {name: value for name, value in INT8.items() if name in ("a_1", "b_1")}
    base = tried_of("float32", FLOAT, rows_of(FLOAT).measured_ms)
    asked: list[set[str]] = []

    def spied(chosen: Flags) -> Solution:
        asked.append(set(base.fit.rows.families[chosen]))
        return base.fit.solver(chosen)

    other = tried_of("w8a8", few, rows_of(few).measured_ms)
    (found,) = ratios(Alone(replace(base.fit, solver=spied)), [base, other])
    assert found.split == SPLIT and found.families == 2
    assert asked == [set("bcde"), set("acde")], "each time without the whole family, in the relative too"
    short = {name: value for name, value in FLOAT.items() if name[0] in "ab"}
    assert "a_2" in short and "a_2" not in few, "float has models of the family that w8a8 lacks"
    (rows,) = ratios(Alone(), [tried_of("float32", short, rows_of(short).measured_ms), other])
    assert rows.split == SPLIT_ROWS and rows.model.mean_abs_log == pytest.approx(0, abs=1e-12)


def test_there_is_no_ratio_without_float_or_a_model_of_both() -> None:
    other = tried_of("w8a8", INT8, rows_of(INT8).measured_ms)
    assert ratios(Alone(), [other]) == []
    apart = {"z_1": 1.0, "y_2": 2.0}
    assert ratios(Alone(), [tried_of("float32", apart, rows_of(apart).measured_ms), other]) == []
