"""Measuring on this machine: what is run, how often, and what is said about it. No test asserts a duration."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from compress.errors import DataError
from compress.profile import measure as module
from compress.profile.measure import measure, measure_alternately
from compress.profile.measure_memory import peak_memory
from compress.types import Number
from tests.fakes import FakeSession

INPUTS = [np.zeros((1, 3, 8, 8), np.float32), np.ones((1, 2), np.float32)]


class Clock:
    """A clock that a session moves on by hand, so that latencies are known to the digit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        monkeypatch.setattr(module, "perf_counter_ns", lambda: self.now_ns)
        monkeypatch.setattr(module, "perf_counter", lambda: self.now_ns * 1e-9)

    def session(self, *durations_ms: float) -> FakeSession:
        """A session whose runs take these times, the last for ever."""
        left = list(durations_ms)

        def run(*_: np.ndarray) -> list[np.ndarray]:
            self.now_ns += round((left.pop(0) if len(left) > 1 else left[0]) * 1e6)
            return []

        return FakeSession(function=run)


def test_the_session_runs_once_then_warms_up_then_counts() -> None:
    session = FakeSession()
    measured = measure(lambda: session, INPUTS, runs=7, warm_up=3)
    assert session.calls == [((1, 3, 8, 8), (1, 2))] * (1 + 3 + 7)
    assert measured.latency.n == measured.latency_p90.n == 7
    assert measured.load.n == measured.first_run.n == 1


def test_figures_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    session = clock.session(50.0, 9.0, *[float(i) for i in range(1, 12)])

    def load() -> FakeSession:
        clock.now_ns += 4_000_000
        return session

    measured = measure(load, INPUTS, runs=11, warm_up=1)
    values = (measured.load.value, measured.first_run.value, measured.latency.value, measured.latency_p90.value)
    assert values == pytest.approx((4.0, 50.0, 6.0, 10.0))


def test_it_stops_at_the_time_limit_but_never_before_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    session = clock.session(1000.0)
    measured = measure(lambda: session, INPUTS, runs=100, warm_up=10, max_seconds=8.0)
    assert len(session.calls) < 15 and measured.latency.n is not None and 1 <= measured.latency.n < 10
    assert measure(lambda: clock.session(60_000.0), INPUTS, max_seconds=1.0).latency.n == 1


def test_every_figure_is_measured_and_says_threads_and_machine() -> None:
    measured = measure(lambda: FakeSession(), INPUTS, runs=2, label="onnx float32")
    for number in (measured.load, measured.first_run, measured.latency, measured.latency_p90):
        assert number.origin == "measured" and number.unit == "ms"
        assert "onnx float32, one thread, this machine" in number.source
    assert "4 threads" in measure(lambda: FakeSession(), INPUTS, runs=1, threads=4).latency.source
    assert measured.peak_memory.value is None and "not taken" in measured.peak_memory.source
    assert Number.from_dict(measured.to_dict()["latency"]) == measured.latency


def test_memory_is_taken_where_asked_for() -> None:
    stated = Number(123.0, "bytes", "measured", 1)
    assert measure(lambda: FakeSession(), INPUTS, runs=1, memory=lambda: stated).peak_memory == stated


def test_no_runs_are_refused() -> None:
    with pytest.raises(DataError, match="runs must be at least 1, not 0"):
        measure(lambda: FakeSession(), INPUTS, runs=0)
    with pytest.raises(DataError, match="rounds must be at least 1"):
        measure_alternately({"a": FakeSession()}, INPUTS, rounds=0)


def test_sessions_take_turns_so_that_drift_hits_all_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def session(name: str) -> FakeSession:
        return FakeSession(function=lambda *_: order.append(name) or [])  # type: ignore[func-returns-value]

    measured = measure_alternately({name: session(name) for name in "abc"}, INPUTS, rounds=3, warm_up=0)
    assert "".join(order) == "aabbcc" + "bbccaa" + "ccaabb"
    assert [measured[name].latency.n for name in "abc"] == [3, 3, 3]
    clock = Clock(monkeypatch)
    drifting = {name: clock.session(*[float(i) for i in range(1, 200)]) for name in "ab"}
    drifted = measure_alternately(drifting, INPUTS, rounds=20, warm_up=0)
    assert drifted["a"].latency.value == pytest.approx(drifted["b"].latency.value)


def test_each_session_gets_its_own_inputs() -> None:
    sessions = {"a": FakeSession(), "b": FakeSession()}
    measure_alternately(sessions, {"a": INPUTS[:1], "b": INPUTS[1:]}, rounds=1, warm_up=0)
    assert sessions["a"].calls[0] == ((1, 3, 8, 8),) and sessions["b"].calls[0] == ((1, 2),)
    with pytest.raises(DataError, match="no inputs for 'b'"):
        measure_alternately(sessions, {"a": INPUTS}, rounds=1)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_peak_memory_is_that_of_a_fresh_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = tmp_path / "greedy.py"
    loader.write_text(
        "import numpy as np\n"
        "class Session:\n"
        "    def __init__(self, mebibytes): self.size = int(mebibytes) << 20\n"
        "    def run(self, x):\n"
        "        assert x.shape == (1, 3, 8, 8)\n"
        "        return [np.ones(self.size, np.uint8)[:1]]\n"
        "def broken(*_): raise RuntimeError('no such artifact')\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    ballast = np.ones(200 << 20, np.uint8)  # the parent's own memory must not count
    small, large = (peak_memory("greedy:Session", [size], INPUTS[:1]) for size in ("8", "40"))
    assert ballast.nbytes and small.value is not None and large.value is not None
    assert 7 << 20 <= small.value < 30 << 20  # resident pages, so not to the byte
    assert large.value - small.value == pytest.approx(32 << 20, rel=0.25)
    assert "fresh process" in large.source and large.unit == "bytes"
    broken = peak_memory("greedy:broken", [], INPUTS[:1])
    assert broken.value is None and "no such artifact" in broken.source
    slow = peak_memory("time:sleep", ["1"], INPUTS[:1], timeout_seconds=0.01)
    assert slow.value is None and "took over" in slow.source


def test_the_clock_of_the_tests_is_undone() -> None:
    assert vars(module)["perf_counter_ns"] is time.perf_counter_ns
