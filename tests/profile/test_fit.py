"""The fit: it judges itself on families that it never saw, and its intervals hold as often as they say."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.errors import DataError, RecipeError
from compress.profile.constants import read_profile
from compress.profile.features import COSTS, Layout
from compress.profile.fit import fit_all, fit_costs, layout_of, report_line, solver_for
from compress.profile.judge import Rows, Trial, held_out, limits
from compress.profile.latency import UnitLatency
from compress.profile.priors import NOISE
from compress.profile.regression import Solution
from compress.targets import Calibration, load_target
from compress.types import OpRecord
from tests.profile.stated import conv, linear, plain, stated
from tests.profile.test_regression import KNOWN, designs, true_costs
from tests.profile.test_tables import write_tables

LAYOUT = Layout(channels=4)


def networks() -> dict[str, tuple[OpRecord, ...]]:
    """Networks of five families that differ in width, depth and kind of layer."""
    made: dict[str, tuple[OpRecord, ...]] = {}
    for width in (8, 16, 24, 32, 48, 64):
        plain_conv = [conv(width, width, 28), conv(width, 2 * width, 14)]
        pointwise = [conv(width, 4 * width, 28, 1), conv(4 * width, width, 28, 1)]
        depthwise = [conv(width, width, 56, groups=width), conv(width, width, 28, 5, width)]
        made[f"stack_{width}"] = tuple(plain_conv * 3 + [linear(width, 1000)])
        made[f"mobile_{width}"] = tuple((pointwise + depthwise) * 3 + [linear(width, 1000)])
        made[f"mix_{width}"] = tuple(plain_conv + pointwise + depthwise)
        made[f"deep_{width}"] = tuple((plain_conv + pointwise) * 6)
        made[f"wide_{width}"] = tuple([*depthwise, conv(2 * width, 2 * width, 28), plain("pool", (1, width, 56, 56))])
    return made


def true_model() -> UnitLatency:
    """16 GMACs/s, 18 pointwise, 3 depthwise; 10 GB/s; 4 us per op and 50 us per call."""
    given = {"macs_conv": 1 / 16, "macs_pointwise_conv": 1 / 18, "macs_depthwise_conv": 1 / 3, "macs_linear": 1 / 12}
    bytes_ns = {cost.replace(".", "_", 1): 0.1 for cost in COSTS if cost.startswith("bytes.") and cost != "bytes.far"}
    return stated(LAYOUT, **given, **bytes_ns, ops_layer=4e3, ops_other=4e3, calls=5e4)


def measured(noise: float = 0.0) -> dict[str, float]:
    """What the networks take, with some noise."""
    random = np.random.default_rng(0)
    taken = {name: true_model().predict(ops, "float32").latency.value or 0.0 for name, ops in networks().items()}
    return {name: value * exp(noise * random.standard_normal()) for name, value in taken.items()}


def synthetic(families: int, each: int, noise: float, shared: float = 0.0) -> Rows:
    """Models that cost what the costs say, but for noise: their own, and one that a family shares."""
    log_costs, random = true_costs("cpu"), np.random.default_rng(5)
    design = designs(log_costs, families * each, seed=6)
    latency, _ = Solution(log_costs, KNOWN).predict(design)
    own, common = random.standard_normal(families * each), np.repeat(random.standard_normal(families), each)
    names = tuple(f"f{i // each}_{i}" for i in range(families * each))
    return Rows(names, design, latency * np.exp(noise * own + shared * common),
                np.array([name.partition("_")[0] for name in names]), np.full(families * each, 1e8))  # fmt: skip


def trial_of(rows: Rows) -> Trial:
    return held_out(rows, solver_for(rows, "cpu", LAYOUT), NOISE["cpu"])


def test_stated_costs_are_found_again() -> None:
    costs = fit_costs(Rows.of(networks(), measured(), LAYOUT), "cpu", LAYOUT, "made up")
    assert costs.ns_per["macs.conv"] == pytest.approx(1 / 16, rel=0.1)
    assert costs.ns_per["macs.pointwise_conv"] == pytest.approx(1 / 18, rel=0.1)
    assert costs.ns_per["macs.depthwise_conv"] == pytest.approx(1 / 3, rel=0.2)
    assert costs.fitted_mape < 0.02
    assert (costs.held_out.families, costs.held_out.n, costs.n) == (5, 30, 30)
    assert costs.held_out.spearman > 0.99
    assert costs.seen["macs.conv"] == 24 and costs.seen["macs.linear"] == 12 and costs.seen["macs.conv3d"] == 0
    assert costs.macs_range == (
        min(macs := [sum(op.macs or 0 for op in ops) for ops in networks().values()]),
        max(macs),
    )


def test_a_fitted_profile_predicts_with_the_fits_own_deviation() -> None:
    """What the file keeps of the covariance, without its small entries, gives the interval that all of it gives."""
    rows = Rows.of(networks(), measured(0.05), LAYOUT)
    costs = fit_costs(rows, "cpu", LAYOUT, "made up")
    model = stated(LAYOUT)
    model.profile.runtimes["r"]["float32"] = costs
    solution = solver_for(rows, "cpu", LAYOUT)(np.ones(30, dtype=bool))
    predicted, shares = solution.predict(rows.design)
    deviation = solution.deviation(shares, NOISE["cpu"])
    for i, name in enumerate(rows.names):
        number = model.predict(networks()[name], "float32").latency
        assert number.interval is not None and number.value == pytest.approx(predicted[i], rel=2e-3)
        assert np.log(number.interval[1] / predicted[i]) == pytest.approx(costs.spread.high * deviation[i], rel=0.1)
        assert np.log(predicted[i] / number.interval[0]) == pytest.approx(costs.spread.low * deviation[i], rel=0.1)


def test_the_fit_is_deterministic() -> None:
    rows = Rows.of(networks(), measured(0.05), LAYOUT)
    assert fit_costs(rows, "cpu", LAYOUT, "") == fit_costs(rows, "cpu", LAYOUT, "")


def test_errors_are_on_families_that_no_fit_saw() -> None:
    """One family five times slower than its ops say: rows held out singly would hide that, whole families do not."""
    odd = {name: value * (5 if name.startswith("wide") else 1) for name, value in measured().items()}
    by_family = fit_costs(Rows.of(networks(), odd, LAYOUT), "cpu", LAYOUT, "made up")
    by_row = fit_costs(Rows.of(networks(), odd, LAYOUT, {name: name for name in odd}), "cpu", LAYOUT, "made up")
    assert by_family.held_out.mape > by_row.held_out.mape
    spread = by_family.spread
    assert exp(spread.high * spread.noise) > 3, (
        "an unseen family may be five times slower, and the interval must say so"
    )


@pytest.mark.parametrize("times", [1e-3, 1e3])
def test_a_familys_own_latencies_count_nothing_in_its_own_prediction(times: float) -> None:
    rows = Rows.of(networks(), measured(0.05), LAYOUT)
    inside = rows.families == "deep"
    absurd = replace(rows, measured_ms=np.where(inside, times * rows.measured_ms, rows.measured_ms))
    honest, odd = trial_of(rows), trial_of(absurd)
    assert (honest.predicted_ms[inside] == odd.predicted_ms[inside]).all()
    assert (honest.deviation[inside] == odd.deviation[inside]).all()
    assert (honest.predicted_ms[~inside] != odd.predicted_ms[~inside]).any(), "the others' fits do see it"


@pytest.mark.parametrize(("noise", "shared"), [(0.02, 0.0), (0.08, 0.0), (0.2, 0.0), (0.05, 0.2)])
def test_ninety_percent_intervals_hold_nine_tenths_of_unseen_models(noise: float, shared: float) -> None:
    """However large the noise is, and although the fit takes it for 0.08; also where a family errs as one."""
    rows = synthetic(60, 3, noise, shared)
    trial = trial_of(rows)
    assert trial.covered(rows.families).mean() == pytest.approx(0.9, abs=0.06)
    low, high = limits(trial.scores, rows.families)
    width = (high - low) / 2 * np.median(trial.deviation)
    assert width == pytest.approx(1.645 * np.hypot(noise, shared), rel=0.5)


def test_limits_weigh_families_alike() -> None:
    """Each family has three models; whatever is there again changes nothing."""
    random = np.random.default_rng(0)
    families = np.repeat([f"f{i}" for i in range(20)], 3)
    scores = random.standard_normal(60)
    found = limits(scores, families)
    for family in set(families):
        again = np.concatenate([np.arange(60), np.tile(np.flatnonzero(families == family), 9)])
        assert limits(scores[again], families[again]) == pytest.approx(found)
    again = np.concatenate([np.arange(60), np.tile(np.flatnonzero(families == families[scores.argmax()]), 9)])
    as_others = np.concatenate([families, np.array([f"copy{i}" for i in range(27)])])
    assert limits(scores[again], as_others)[1] > found[1], "as families of their own they would count"
    mixed = random.permutation(60)
    assert limits(scores[mixed], families[mixed]) == pytest.approx(found)


def test_limits_are_never_narrower_than_those_of_models_that_count_alike() -> None:
    """Twenty families of one model that err by 1 at most, and one of thirty that errs by 5: it may come back."""
    small, large = np.linspace(-1.0, 1.0, 20), np.linspace(2.0, 5.0, 30)
    scores = np.concatenate([small, large])
    families = np.array([*(f"f{i}" for i in range(20)), *["large"] * 30])
    each: NDArray[np.str_] = np.array([str(i) for i in range(50)])
    found, by_model = limits(scores, families), limits(scores, each)
    assert found[1] == by_model[1] > 4.5
    assert found[0] < by_model[0], "below, where the small families err, they count as families"


def test_limits_hold_nine_tenths_and_always_the_prediction_itself() -> None:
    scores = np.linspace(-1.0, 1.0, 1001)
    each: NDArray[np.str_] = np.array([str(i) for i in range(1001)])
    assert limits(scores, each) == pytest.approx((-0.9, 0.9), abs=0.002)
    assert limits(scores + 5, each)[0] == 0.0 and limits(scores - 5, each)[1] == 0.0


def test_an_interval_is_never_narrower_than_repeated_measurements_differ() -> None:
    spread = fit_costs(Rows.of(networks(), measured(), LAYOUT), "cpu", LAYOUT, "made up").spread
    assert min(spread.low, spread.high) * spread.noise >= 0.07 * (1 - 1e-9)


def test_without_models_there_is_nothing_to_fit() -> None:
    with pytest.raises(DataError, match="no model has both"):
        Rows.of(networks(), {"another": 1.0}, LAYOUT)


def test_a_layout_is_that_of_all_schemes_and_what_a_scheme_gives_on_top() -> None:
    calibration = load_target("pixel-4").unit("cpu").calibration
    assert calibration is not None
    given = {"all": {"channels": 8, "rows": 2, "linked": ["norm"]}, "w8a8": {"channels": 16, "value_bytes": 1}}
    changed = Calibration.model_validate(calibration.model_dump() | {"layout": given})
    assert layout_of(changed, "float32") == Layout(channels=8, rows=2, linked=("norm",))
    assert layout_of(changed, "w8a8") == Layout(channels=16, rows=2, linked=("norm",), value_bytes=1)
    wrong = Calibration.model_validate(calibration.model_dump() | {"layout": {"all": {"chanels": 8}}})
    with pytest.raises(RecipeError, match=r"calibration\.layout: .*chanels"):
        layout_of(wrong, "float32")


def test_a_fit_writes_a_profile_that_can_be_read(tmp_path: Path) -> None:
    import yaml

    write_tables(tmp_path)
    target = load_target("pixel-4").model_dump(mode="json")
    calibration = target["units"]["cpu"]["calibration"] | {"table": "latency.csv", "graphs": "ours"}
    calibration["rows"] = {"litert": {"float32": {"device": "a"}}}
    target["units"] = {"cpu": target["units"]["cpu"] | {"calibration": calibration, "profile": "mine.json"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(target), encoding="utf-8")
    lines: list[str] = []
    assert fit_all(tmp_path, [str(tmp_path / "mine.yaml")], tmp_path, lines.append) == [tmp_path / "mine.json"]
    profile = read_profile(tmp_path / "mine.json")
    costs = profile.schemes("litert")["float32"]
    assert (profile.target, costs.n, costs.held_out.coverage is None) == ("pixel-4", 6, False)
    assert "device=a" in costs.rows and costs.layout.channels == 8
    assert len(lines) == 1 and lines[0].startswith("pixel-4 cpu litert float32: n=6 in 6 families")


def test_a_report_line_leaves_out_what_was_not_taken_down() -> None:
    costs = fit_costs(Rows.of(networks(), measured(), LAYOUT), "cpu", LAYOUT, "made up")
    assert "90 % intervals hold" in report_line("t", costs)
    without = costs.model_copy(update={"held_out": costs.held_out.model_copy(update={"coverage": None})})
    assert "intervals" not in report_line("t", without)
