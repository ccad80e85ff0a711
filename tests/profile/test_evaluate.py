"""The evaluation: baselines on the same folds, a page that shows what the record says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from compress.profile.evaluate import BASELINES, Judged, write
from compress.profile.features import COSTS, Layout
from compress.profile.fit import Rows, errors_of
from tests.profile.stated import conv


def rows() -> Rows:
    """Nets of one to six convolutions whose latency is a power of their MACs."""
    graphs, measured = {}, {}
    for family in ("alpha", "beta", "gamma"):
        for depth in range(1, 7):
            ops = tuple(conv(16, 16, 8 * depth, name=str(i)) for i in range(depth))
            graphs[f"{family}_{depth}"] = ops
            measured[f"{family}_{depth}"] = 1e-6 * sum(op.macs or 0 for op in ops) ** 0.8
    return Rows.of(graphs, measured, Layout())


def test_the_line_through_macs_is_exact_where_macs_are_all_that_counts() -> None:
    these = rows()
    predicted = BASELINES["MACs alone"](these.design[:6], these.measured_ms[:6], these.design[6:])
    assert predicted == pytest.approx(these.measured_ms[6:], rel=1e-6)


def test_boosting_knows_what_it_has_seen_and_no_more() -> None:
    pytest.importorskip("sklearn", reason="the baseline is scikit-learn's")
    these = rows()
    boosting = BASELINES["gradient boosting"]
    assert boosting(these.design, these.measured_ms, these.design) == pytest.approx(these.measured_ms, rel=0.05)
    wider = these.design.copy()
    wider[:, COSTS.index("macs.conv")] *= 100
    assert boosting(these.design, these.measured_ms, wider).max() <= these.measured_ms.max() * 1.01, (
        "it does not extend"
    )


def judged() -> Judged:
    these = rows()
    predicted = these.measured_ms * np.where(np.arange(len(these.names)) % 2, 1.05, 0.8)
    errors = errors_of(predicted, these, 0.9)
    predictions = tuple(
        {"model": name, "family": str(family), "measured_ms": float(m), "predicted_ms": float(p), "inside": place > 0}
        for place, (name, family, m, p) in enumerate(
            zip(these.names, these.families, these.measured_ms, predicted, strict=True)
        )
    )
    return Judged("phone", "cpu", "litert", "float32", errors, {"MACs alone": errors}, predictions)


def test_the_page_and_the_record_say_the_same(tmp_path: Path) -> None:
    found = judged()
    assert found.model.mape == pytest.approx(0.125) and found.model.within_10_percent == 0.5
    write([found], tmp_path)
    (record,) = json.loads((tmp_path / "evaluation.json").read_text())["fits"]
    page = (tmp_path / "evaluation.html").read_text()
    assert record["model"]["mape"] == pytest.approx(0.125) and len(record["predictions"]) == 18
    assert "<td>12.5 %</td>" in page and "<td>90 %</td>" in page
    assert page.count("<circle") == 18 and page.count('<circle class="out"') == 1
    for prediction in record["predictions"]:
        assert f"{prediction['model']}: measured {prediction['measured_ms']:.3g} ms" in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
