"""The noise ceiling: repeats are told from copies, from other models, and from jobs of other tools."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.profile.ceiling import FEWEST_PAIRS, ceiling_of, repeats_in
from compress.profile.fit import fit_of
from compress.targets import load_target
from tests.profile.test_adaptable import tables, target_of
from tests.profile.test_tables import write_latencies


def job(model: str, day: int, latency_ms: float, **given: Any) -> dict[str, Any]:
    """A job of the only component of a model, compiled with version 1."""
    record = {"model_id": model, "component": "net", "component_precision": "", "layers_total": 10,
              "date": f"2026-01-{day:02}", "job_id": f"{model}-{day}", "latency_ms": latency_ms,
              "qairt": "1", "tflite_ver": float("nan"), "onnx_runtime_ver": None}  # fmt: skip
    return record | given


def jobs(count: int = 6) -> list[dict[str, Any]]:
    """Models measured twice: 1, 2, ... ms first, 5 % more a day later, but for the last, which takes half."""
    names = [f"net{i}" for i in range(count)]
    first = [job(name, 1, 1.0 + i) for i, name in enumerate(names)]
    return first + [job(name, 2, (1.0 + i) * (0.5 if i == count - 1 else 1.05)) for i, name in enumerate(names)]


NAMES = [f"net{i}" for i in range(6)]


def test_the_earlier_job_is_judged_as_a_prediction_of_the_later() -> None:
    same, other = repeats_in(jobs(), NAMES)
    assert other is None and same is not None and (same.pairs, same.models) == (6, 6)
    assert same.median == pytest.approx(1 - 1 / 1.05) and same.within_10_percent == pytest.approx(5 / 6)
    assert same.mape == pytest.approx((5 * (1 - 1 / 1.05) + 1.0) / 6)
    assert 0 < same.spearman < 1, "the last model fell from the highest place"


def test_jobs_of_other_versions_are_pairs_of_their_own_and_unknown_versions_none() -> None:
    of_two = [each | ({"qairt": "2"} if each["date"].endswith("02") else {}) for each in jobs()]
    same, other = repeats_in(of_two, NAMES)
    assert same is None and other is not None and other.pairs == 6
    unknown = [each | {"qairt": float("nan")} for each in jobs()]
    assert repeats_in(unknown, NAMES) == (None, None)


def test_only_the_job_before_counts_and_not_all_pairs() -> None:
    """Four jobs a day apart, each 4 % slower than the one before: 3 pairs within 10 %, of 6 in all 5 would be."""
    slowing = [job(name, day, 1.04**day) for name in NAMES for day in range(1, 5)]
    same, _ = repeats_in(slowing, NAMES)
    assert same is not None and same.pairs == 18 and same.within_10_percent == 1.0


def test_a_job_that_devices_share_counts_once() -> None:
    shared = [each | {"device": device} for each in jobs() for device in ("one", "two")]
    assert repeats_in(shared, NAMES) == repeats_in(jobs(), NAMES)
    apart = [each | {"job_id": each["job_id"] + each["device"]} for each in shared]
    same, _ = repeats_in(apart, NAMES)
    assert same is not None and same.pairs == 18, "jobs of their own would have been pairs"


@pytest.mark.parametrize("changed", [{"layers_total": 11}, {"component": "head"}, {"component_precision": "w8a8"}])
def test_what_is_another_model_is_no_repeat(changed: dict[str, Any]) -> None:
    later = [each | (changed if each["date"].endswith("02") else {}) for each in jobs()]
    assert repeats_in(later, NAMES) == (None, None)


def test_only_the_models_of_the_fit_count_by_either_name() -> None:
    assert repeats_in(jobs(), NAMES[: FEWEST_PAIRS - 1]) == (None, None), "four pairs say nothing"
    five, _ = repeats_in(jobs(), [*NAMES[:4], "net4/net"])
    assert five is not None and five.pairs == 5 and five.within_10_percent == 1.0


def test_a_table_without_jobs_has_no_repeats_and_one_with_a_history_has_them_there(tmp_path: Path) -> None:
    tables(tmp_path)
    target = load_target(target_of(tmp_path, "rich", "rich"))
    fit = fit_of(tmp_path, target, "cpu", "litert", "float32")
    calibration = target.unit("cpu").calibration
    assert calibration is not None
    none = ceiling_of(tmp_path, calibration, fit)
    assert none.same_versions is None and none.source == "no repeats: latency.csv has one figure for each model"
    history = [each | {"device": device} for each in jobs() for device in ("rich", "poor")]
    for each in history:
        each["latency_ms"] *= 1.0 if each["device"] == "rich" or each["date"].endswith("01") else 2.0
        each["job_id"] += each["device"]
    write_latencies(tmp_path / "speed_history.csv", history)
    write_latencies(tmp_path / "speed_latest.csv", history[:2])
    newest = calibration.model_copy(update={"table": "speed_latest.csv"})
    found = ceiling_of(tmp_path, newest, replace(fit, rows=replace(fit.rows, names=tuple(NAMES))))
    assert found.source == "speed_history.csv" and found.same_versions is not None
    assert found.same_versions.pairs == 6 and found.same_versions.within_10_percent == pytest.approx(5 / 6)
