"""The evaluation: baselines on the same folds, ops no fit had seen, a page that shows what the record says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from compress.cli.evaluation import print_evaluation
from compress.profile.baselines import BASELINES
from compress.profile.ceiling import Ceiling, Repeats
from compress.profile.evaluate import Evaluation, Judged, evaluate, known_errors, ranked
from compress.profile.features import COSTS, Layout
from compress.profile.judge import Rows, errors_of
from compress.profile.page import along, glances, number, percent, write
from compress.profile.ranking import Ranked, Score
from compress.profile.ratios import JudgedRatio, RatioErrors
from compress.profile.transfer import Transfer
from tests.profile.stated import conv
from tests.profile.test_adaptable import tables, target_of


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
    predicted = BASELINES["MACs alone"].predict(these.design[:6], these.measured_ms[:6], these.design[6:])
    assert predicted == pytest.approx(these.measured_ms[6:], rel=1e-6)


def test_boosting_knows_what_it_has_seen_and_no_more() -> None:
    pytest.importorskip("sklearn", reason="the baseline is scikit-learn's")
    these = rows()
    boosting = BASELINES["gradient boosting"].predict
    assert boosting(these.design, these.measured_ms, these.design) == pytest.approx(these.measured_ms, rel=0.05)
    wider = these.design.copy()
    wider[:, COSTS.index("macs.conv")] *= 100
    assert boosting(these.design, these.measured_ms, wider).max() <= these.measured_ms.max() * 1.01, (
        "it does not extend"
    )


def test_baselines_are_held_out_by_the_folds_of_the_fit() -> None:
    these = rows()
    seen: list[tuple[int, int]] = []

    def counting(design: np.ndarray, measured_ms: np.ndarray, asked: np.ndarray) -> np.ndarray:
        seen.append((len(design), len(asked)))
        return np.full(len(asked), measured_ms.mean())

    type(BASELINES["MACs alone"])(counting, 2).held_out(these)
    assert seen == [(17, 1)] * 18, "three families are too few: models are left out"


def judged(few: bool = False) -> Judged:
    """A fit off by 5 % and 20 % in turns; one model lies outside its interval, and one asks for something new."""
    these = rows()
    predicted = these.measured_ms * np.where(np.arange(len(these.names)) % 2, 1.05, 0.8)
    inside, known = np.arange(18) > 0, np.arange(18) < 17
    predictions = tuple(
        {"model": name, "family": str(family), "measured_ms": float(m), "predicted_ms": float(p),
         "inside": bool(inside[place]), "not_covered": [] if known[place] else ["macs.conv3d"]}
        for place, (name, family, m, p) in enumerate(
            zip(these.names, these.families, these.measured_ms, predicted, strict=True)
        )
    )  # fmt: skip
    errors = errors_of(predicted, these, 0.9)
    if few:
        errors = errors.model_copy(update={"n": 4})
    repeats = Repeats(7, 6, 0.02, 0.01, 0.97, 1.0, 0.999)
    return Judged("phone", "cpu", "litert", "float32", errors, known_errors(predicted, these, inside, known),
                  {"MACs alone": errors, "gradient boosting": None}, Ceiling(repeats, None, "history.csv"),
                  predictions)  # fmt: skip


def evaluation() -> Evaluation:
    """One fit of each sort, a ratio and a device left out."""
    errors = RatioErrors(0.21, 0.11, 1, 2)
    ratio = JudgedRatio("phone", "cpu", "litert", "w8a8", "families", 18, 3, 4, errors, None,
                        ({"model": "a", "measured": 1.2, "predicted": 0.8},))  # fmt: skip
    transfer = Transfer("phone", "cpu", "litert", "float32", 30, 10, {"other": 5}, 0.9, 0.15, 0.1, 0.12, 0.08)
    random = (None, (0.88, 0.02), (0.89, 0.01))
    calibrated, profiles, devices = (
        Score("other cpu", "written", ("net",), rho, 0.81, 0.07, 0.9, drawn)
        for rho, drawn in zip((0.911, 0.931, 0.942), random, strict=True)
    )
    ranked_ = Ranked("a", "A phone", 90, 10, calibrated, profiles, devices, 0.961, 0.003, 0.955, 0.1, {"1000": 0.94})
    return Evaluation((judged(),), (ratio,), (transfer,), ("lone npu onnx w8a16",), (ranked_,))


def test_the_page_and_the_record_say_the_same(tmp_path: Path) -> None:
    found = judged()
    assert found.model.mape == pytest.approx(0.125) and found.model.within_10_percent == 0.5
    write(evaluation(), tmp_path)
    whole = json.loads((tmp_path / "evaluation.json").read_text())
    (record,) = whole["fits"]
    page = (tmp_path / "evaluation.html").read_text()
    assert record["model"]["mape"] == pytest.approx(0.125) and len(record["predictions"]) == 18
    assert record["ceiling"]["same_versions"]["pairs"] == 7 and record["not_covered"] == 1
    assert record["baselines"]["gradient boosting"] == {"left_out": "takes at least 10 models"}
    assert whole["ranking"][0]["from_devices"]["spearman"] == 0.942
    assert whole["ratios"][0]["model"]["flagged"] == 1 and whole["transfers"][0]["ratio"] == pytest.approx(1.5)
    for figure in ("<strong>12.5 %</strong>", "<td>90 %</td>", "<td>97.0 %</td>", "<strong>.21</strong>",
                   "<td>1 of 4</td>", "<strong>15.0 %</strong>", "<strong>1.50</strong>", "above 1.3",
                   "theirs: lone npu onnx w8a16.",
                   "<strong>.931</strong>", "<td>.88 ± .02</td>", '<td class="first">.961 ± .003</td>'):  # fmt: skip
        assert figure in page, figure
    # One of the marks is the legend's, and one the fit's on the axis of errors.
    assert page.count('<circle class="in') == 17 and page.count('<path class="out"') == 1
    assert page.count('class="in new"') == 1 and "not covered: macs.conv3d" in page
    for prediction in record["predictions"]:
        assert f"{prediction['model']}: measured {prediction['measured_ms']:.3g} ms" in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_what_is_printed_is_what_was_judged(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(evaluation())
    fits, ratios, transfers, ranking = capsys.readouterr().out.split("\n\n")
    assert "not judged: lone npu onnx w8a16 (" in transfers
    assert "BOOSTING" in fits and fits.splitlines()[1].split()[4:] == [
        "18", "3", "12.5%", "50%", "100%", f"{judged().model.spearman:.3f}", "90%", "1", "12.9%", "12%", "–", "97%",
    ]  # fmt: skip
    assert ratios.splitlines()[2].split()[4:] == ["18", "0.21", "0.11", "4", "1", "2", "–"]
    assert transfers.splitlines()[2].split()[4:] == ["30", "15.0%", "10.0%", "1.50"]
    assert ranking.splitlines()[2].split() == ["A", "phone", "90", "0.911", "0.931", "0.942", "0.961"]


def test_a_rank_of_a_handful_is_not_shown() -> None:
    few, many = judged(few=True), judged()
    assert ranked(few.model) is None and ranked(many.model) == many.model.spearman and ranked(None) is None
    assert few.to_dict()["model"]["spearman"] is None
    assert (number(None), percent(None), number(0.95), number(-0.5, 1), percent(0.123, 1)) == (
        "–", "–", ".950", "-.5", "12.3 %",
    )  # fmt: skip
    assert glances([few]) == [], "nor does a small fit count at a glance"


def test_the_axis_of_errors_is_logarithmic_and_ends() -> None:
    one, ten, hundred = (along(share) for share in (0.01, 0.1, 1.0))
    assert one == 0 and hundred == pytest.approx(2 * ten) and along(10.0) == along(99.0) == pytest.approx(3 * ten)
    assert along(0.0) == 0


def test_the_errors_of_covered_models_leave_the_others_out() -> None:
    these = rows()
    known = np.arange(18) < 12
    predicted = np.where(known, 1.1, 3.0) * these.measured_ms
    covered = known_errors(predicted, these, known, known)
    assert covered is not None and covered.n == 12 and covered.mape == pytest.approx(0.1) and covered.coverage == 1.0
    assert covered.families == 2
    assert known_errors(predicted, these, known, np.arange(18) < 1) is None


def test_tables_of_few_models_are_judged_without_nonsense(tmp_path: Path) -> None:
    tables(tmp_path)
    rich, poor = target_of(tmp_path, "rich", "rich"), target_of(tmp_path, "poor", "poor")
    found = evaluate(tmp_path, [str(rich), str(poor)])
    of_rich, of_poor = found.fits
    assert of_rich.baselines["gradient boosting"] is not None and of_poor.baselines["gradient boosting"] is None
    assert of_poor.to_dict()["model"]["spearman"] is None
    assert of_rich.ceiling.source.startswith("no repeats") and not found.ratios and not found.transfers
    assert found.without_peers == (), "too few models to be asked"
