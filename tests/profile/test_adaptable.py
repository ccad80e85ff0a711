"""Fits to few rows: they start from a relative's costs, are judged without what was left out, and claim no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from compress.errors import DataError, RecipeError
from compress.profile.adaptable import Solver, relative_solver
from compress.profile.evaluate import evaluate
from compress.profile.features import COSTS
from compress.profile.fit import fit_all, fit_costs, fit_of, solver_for
from compress.profile.judge import SPLIT, SPLIT_ROWS, Rows, limits
from compress.profile.priors import NOISE
from compress.profile.regression import Floats
from compress.targets import load_target
from tests.profile.test_fit import LAYOUT, synthetic
from tests.profile.test_tables import layer, write_graphs, write_latencies

NINE = np.arange(60) % 7 == 0


def few_of(rows: Rows, times: float = 1.0) -> Rows:
    """Nine of the rows, measured on a unit that is slower by `times`."""
    return Rows(tuple(np.array(rows.names)[NINE]), rows.design[NINE], rows.measured_ms[NINE] * times,
                rows.families[NINE], rows.macs[NINE])  # fmt: skip


def like(rows: Rows, base: Rows) -> Solver:
    return relative_solver(rows, base, solver_for(base, "cpu", LAYOUT), NOISE["cpu"])


def error(solver: Solver, rows: Rows, unseen: Rows) -> float:
    """The mean error of the fit to all rows on models that it has not seen."""
    predicted, _ = solver(np.ones(len(rows.names), dtype=bool)).predict(unseen.design)
    return float(np.abs(predicted / unseen.measured_ms - 1).mean())


def test_nine_rows_of_a_slower_device_give_its_speed_and_without_the_relative_they_do_not() -> None:
    """The rest of the models run three times slower too, which nine rows can tell and sixty costs cannot."""
    base = synthetic(60, 1, 0.02)
    few, unseen = few_of(base, 3.0), replace(base, measured_ms=3 * base.measured_ms)
    adapted, alone = error(like(few, base), few, unseen), error(solver_for(few, "cpu", LAYOUT), few, unseen)
    assert adapted < 0.06
    assert alone > 2 * adapted


def test_what_is_left_out_is_left_out_of_the_relative_too() -> None:
    """Were the same model's figure on the relative kept, its error here would be that of a model measured elsewhere."""
    base = synthetic(60, 1, 0.02)
    few = few_of(base)
    seen: list[Floats] = []
    solver = solver_for(base, "cpu", LAYOUT)

    def noted(chosen: Any) -> Any:
        seen.append(chosen)
        return solver(chosen)

    chosen = np.arange(9) != 4
    relative_solver(few, base, noted, NOISE["cpu"])(chosen)
    (kept,) = seen
    assert not kept[base.names.index(few.names[4])] and kept.sum() == 59
    families = replace(few, families=np.repeat(["a", "b", "c", "d", "e"], 2)[:9])
    relatives = replace(base, families=np.where(np.arange(60) < 30, "c", "z"))
    relative_solver(families, relatives, noted, NOISE["cpu"])(families.families != "c")
    assert not seen[1][:30].any(), "with families enough, the whole family"


def test_few_families_are_left_out_model_by_model_and_the_profile_says_so() -> None:
    rows = synthetic(4, 3, 0.05)
    assert rows.split == SPLIT_ROWS and list(rows.folds) == list(rows.names)
    assert fit_costs(rows, "cpu", LAYOUT, "").held_out.split == SPLIT_ROWS
    more = synthetic(5, 2, 0.05)
    assert more.split == SPLIT and list(more.folds) == list(more.families)


def test_few_families_promise_no_narrow_interval() -> None:
    """The limits of two models of one family are Student's, six times the scale; those of many families the scores'."""
    scores, each = np.array([0.5, -0.5]), np.array(["a", "b"])
    one = np.array(["yolo", "yolo"])
    assert limits(scores, each, one) == pytest.approx((-6.314 * 0.5, 6.314 * 0.5))
    assert limits(scores, each) == pytest.approx((-1.645, 1.645), abs=0.2), "never less than a normal error's"
    many = np.array([f"f{i}" for i in range(40)])
    narrow = np.linspace(-0.5, 0.5, 40)
    assert limits(narrow, many)[1] < 0.5
    assert limits(narrow[::5], many[::5])[1] == pytest.approx(1.645)


@pytest.mark.parametrize("count", [3, 5, 8])
def test_limits_from_few_normal_scores_hold_nine_tenths(count: int) -> None:
    random = np.random.default_rng(1)
    names: Any = np.array([f"f{i}" for i in range(count)])
    inside = []
    for _ in range(2000):
        low, high = limits(2.0 * random.standard_normal(count), names)
        inside.append(low <= 2.0 * random.standard_normal() <= high)
    assert np.mean(inside) == pytest.approx(0.9, abs=0.03)


def target_of(folder: Path, name: str, device: str, relative: dict[str, Any] | None = None) -> Path:
    """A target file whose CPU was measured in latency.csv under this device."""
    record = load_target("pixel-4").model_dump(mode="json")
    unit = record["units"]["cpu"]
    calibration = unit["calibration"] | {"table": "latency.csv", "graphs": "ours", "versions": {"litert": "1"}}
    calibration |= {"rows": {"litert": {"float32": {"device": device}}}, "elsewhere": {}, "like": {}}
    if relative:
        calibration["like"] = {"litert": {"float32": relative}}
    units = {"cpu": unit | {"calibration": calibration, "profile": f"{name}-cpu.json"}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(record | {"name": name, "units": units}), encoding="utf-8")
    return path


def tables(folder: Path) -> None:
    """Ten families on a rich device, three of their models on a poor one that is four times slower."""
    graphs: dict[tuple[str, str], list[dict[str, object]]] = {}
    latencies: list[dict[str, object]] = []
    for i in range(10):
        macs = 16 * 8 * 9 * 6400 * (i + 1)
        graphs[f"{chr(97 + i)}net_1", ""] = [layer(macs)] * 3
        latencies.append({"model": f"{chr(97 + i)}net_1", "device": "rich", "latency_ms": 3 * macs * 1e-7})
        if i % 4 == 0:
            latencies.append({"model": f"{chr(97 + i)}net_1", "device": "poor", "latency_ms": 12 * macs * 1e-7})
    latencies.append({"model": "unheard_of", "device": "lone", "latency_ms": 1.0})
    latencies.append({"model": "anet_1", "device": "lone", "latency_ms": 1.0})
    write_graphs(folder / "graph_ops.parquet", graphs)
    write_latencies(folder / "latency.csv", latencies)


def test_a_target_names_the_fit_that_its_own_starts_from(tmp_path: Path) -> None:
    tables(tmp_path)
    rich = target_of(tmp_path, "rich", "rich")
    relative = {"target": str(rich), "unit": "cpu", "runtime": "litert", "scheme": "float32"}
    poor = target_of(tmp_path, "poor", "poor", relative)
    lines: list[str] = []
    fit_all(tmp_path, [str(poor)], tmp_path, lines.append)
    assert len(lines) == 1 and lines[0].startswith("poor cpu litert float32: n=3 in 3 families")
    fit = fit_of(tmp_path, load_target(poor), "cpu", "litert", "float32")
    costs = fit.costs()
    assert "starting from" in costs.rows and costs.n == 3 and costs.held_out.split == SPLIT_ROWS
    assert costs.seen["macs.conv"] == 10, "what the relative has shown is covered"
    assert costs.held_out.mape < 0.1
    (judged,) = evaluate(tmp_path, [str(poor)]).fits
    assert judged.model.mape == costs.held_out.mape and set(judged.baselines) == {"MACs alone", "gradient boosting"}
    other = fit_of(tmp_path, load_target(rich), "cpu", "litert", "float32")
    chosen = np.ones(10, dtype=bool)
    ratio = np.exp(fit.solver(chosen[:3]).log_costs - other.solver(chosen).log_costs)
    assert ratio[COSTS.index("macs.conv")] == pytest.approx(4, rel=0.2)


def test_a_fit_that_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    tables(tmp_path)
    lone = load_target(target_of(tmp_path, "lone", "lone"))
    with pytest.raises(DataError, match="only anet_1 has a graph; a fit takes at least two"):
        fit_of(tmp_path, lone, "cpu", "litert", "float32")
    with pytest.raises(RecipeError, match="unit cpu was not measured with litert at w8a8"):
        fit_of(tmp_path, lone, "cpu", "litert", "w8a8")
