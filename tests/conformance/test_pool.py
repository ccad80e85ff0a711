"""Cases run in processes of their own: what dies there costs one case, and the suite goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compress.conformance.pool import Worker, run_all
from compress.conformance.suite import COUNT_HEADERS, count_rows, make_table
from compress.conformance.table import load_table
from compress.errors import UnknownName

# A stand-in for the worker: it dies, hangs or answers, by the name of the scheme.
STAND_IN = """
import json, os, signal, sys, time
for line in sys.stdin:
    case, scheme, format = json.loads(line)
    if (case, scheme) == ("conv2d", "w8a8"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if (case, scheme) == ("conv2d", "w4"):
        time.sleep(60)
    if (case, scheme) == ("conv2d", "w8a16"):
        os._exit(3)
    answer = {"case": case, "scheme": scheme, "format": format, "verdict": "pass", "forms": ["conv2d"]}
    print(json.dumps(answer), flush=True)
"""


def stand_in(patience_s: float = 20.0) -> Worker:
    return Worker((sys.executable, "-c", STAND_IN), patience_s)


def test_a_crash_costs_one_result_and_the_process_comes_back() -> None:
    worker = stand_in()
    try:
        crashed, ended, after = (worker.ask("conv2d", scheme, "onnx") for scheme in ("w8a8", "w8a16", "float32"))
    finally:
        worker.close()
    assert crashed.verdict == ended.verdict == "refused"
    assert "SIGSEGV" in crashed.reason and "exit code 3" in ended.reason
    assert after.verdict == "pass" and after.forms == ("conv2d",)


def test_a_case_that_hangs_is_given_up() -> None:
    worker = stand_in(patience_s=0.5)
    assert "no answer after" in worker.ask("conv2d", "w4", "onnx").reason
    worker.patience_s = 20.0
    assert worker.ask("conv2d", "float32", "onnx").verdict == "pass"
    worker.close()


def test_all_tasks_are_answered_by_several_processes() -> None:
    tasks = [("conv2d", scheme, ("onnx", "litert")) for scheme in ("float32", "w8a8", "float16")]
    results = [result for batch in run_all(tasks, 2, stand_in) for result in batch]
    assert {(r.scheme, r.format, r.verdict) for r in results} == {
        (scheme, format, "refused" if scheme == "w8a8" else "pass")
        for scheme in ("float32", "w8a8", "float16")
        for format in ("onnx", "litert")
    }


def test_the_suite_writes_what_was_asked_and_keeps_the_rest(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    make_table(tmp_path, ["onnx"], ["float32"], "conv2d", lambda done, total, _: told.append((done, total)), stand_in)
    table = make_table(tmp_path, ["onnx", "litert"], ["w8a8"], "conv2d", make_worker=stand_in)
    assert told == [(1, 1)]
    assert set(table.results) == {
        ("conv2d", "float32", "onnx"),
        ("conv2d", "w8a8", "onnx"),
        ("conv2d", "w8a8", "litert"),
    }
    assert load_table(tmp_path / "conformance.json").results == table.results
    assert (tmp_path / "index.html").read_text().count("refused<sup>") == 2
    rows = [dict(zip(COUNT_HEADERS, row, strict=True)) for row in count_rows(table)]
    assert {(row["FORMAT"], row["SCHEME"], row["PASS"], row["REFUSED"]) for row in rows} == {
        ("onnx", "float32", "1", "0"),
        ("onnx", "w8a8", "0", "1"),
        ("litert", "w8a8", "0", "1"),
    }


@pytest.mark.parametrize(
    ("formats", "schemes", "pattern", "near"),
    [(["onx"], ["w8a8"], "*", "onnx"), (["onnx"], ["w8a9"], "*", "w8a8"), (["onnx"], ["w8a8"], "convv2d", "conv2d")],
)
def test_a_wrong_name_is_refused_before_anything_runs(
    tmp_path: Path, formats: list[str], schemes: list[str], pattern: str, near: str
) -> None:
    with pytest.raises(UnknownName, match=near):
        make_table(tmp_path, formats, schemes, pattern, make_worker=stand_in)
    assert list(tmp_path.iterdir()) == []


def test_a_case_that_computes_for_ever_is_ended_by_its_processor_time() -> None:
    code = "from compress.conformance.worker import allow; allow(1); x = 0\nwhile True: x += 1"
    worker = Worker((sys.executable, "-c", code))
    assert "more processor time" in worker.ask("conv2d", "float32", "onnx").reason
    worker.close()
