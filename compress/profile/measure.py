"""What an artifact costs on this machine: load, first run, latency, memory. Never presented as a phone's figure.

Latency is wall time around `run`, in this process, one call after another. The runtime is asked for one thread by
whoever loads it; `threads` only says so in the figures' source.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from time import perf_counter, perf_counter_ns
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError
from compress.types import Number

Arrays = Sequence[NDArray[Any]]


class Session(Protocol):
    """A loaded artifact: arrays in, arrays out."""

    def run(self, *arrays: NDArray[Any]) -> list[NDArray[Any]]:
        """The outputs for `arrays`."""
        ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of one artifact. `latency` is the median; latencies and load are ms, memory bytes.

    A figure that was not taken has the value None and says why in its source.
    """

    load: Number
    first_run: Number
    latency: Number
    latency_p90: Number
    latency_p95: Number
    latency_p99: Number
    latency_mean: Number
    latency_min: Number
    peak_memory: Number

    def to_dict(self) -> dict[str, Any]:
        """The measurement as plain JSON data."""
        return {key: Number(**value).to_dict() for key, value in asdict(self).items()}


def measure(
    load: Callable[[], Session],
    inputs: Arrays,
    runs: int = 100,
    warm_up: int = 10,
    max_seconds: float = 30.0,
    label: str = "",
    threads: int = 1,
    memory: Callable[[], Number] | None = None,
) -> Measurement:
    """Loads an artifact with `load` and measures it on `inputs` (one array per model input).

    Stops after `runs` runs or `max_seconds`, whichever is first, but never before one run; `n` says how many it
    were. `memory` measures peak memory (see compress.profile.measure_memory); without it that figure is None.

    Raises:
        DataError: `runs` is below 1.
    """
    _check(runs, "runs")
    source = _source(label, threads)
    start = perf_counter()
    session = load()
    load_ms = (perf_counter() - start) * 1e3
    first_ms = _time_ms(session, inputs)
    end = perf_counter() + max_seconds
    _warm_up(session, inputs, warm_up, perf_counter() + max_seconds / 4)
    times: list[float] = []
    while len(times) < runs and (not times or perf_counter() < end):
        times.append(_time_ms(session, inputs))
    return _measurement(load_ms, first_ms, times, source, memory() if memory else _no_memory())


def measure_alternately(
    sessions: Mapping[str, Session],
    inputs: Arrays | Mapping[str, Arrays],
    rounds: int = 100,
    warm_up: int = 10,
    max_seconds: float = 60.0,
    threads: int = 1,
) -> dict[str, Measurement]:
    """Each session's latency, measured in turns so that a drift of the machine hits all alike.

    Every round runs each session twice and times the second run, so that each starts from its own warm caches; the
    order turns by one each round. `inputs` is for all of them, or per name. Load time and memory are None here.

    Raises:
        DataError: `rounds` is below 1, or `inputs` lacks a name.
    """
    _check(rounds, "rounds")
    names = list(sessions)
    per_name = {name: _inputs_of(inputs, name) for name in names}
    end = perf_counter() + max_seconds
    for name in names:
        _warm_up(sessions[name], per_name[name], warm_up, perf_counter() + max_seconds / (4 * len(names)))
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for offset in range(len(names)):
            name = names[(turn + offset) % len(names)]
            sessions[name].run(*per_name[name])
            times[name].append(_time_ms(sessions[name], per_name[name]))
        if perf_counter() > end:
            break
    why = "not taken: the sessions were already loaded"
    return {
        name: _measurement(None, None, taken, _source(f"{name}, in turns with {len(names) - 1} others", threads),
                           Number(None, "bytes", "measured", source=why), why)
        for name, taken in times.items()
    }  # fmt: skip


def _measurement(
    load_ms: float | None, first_ms: float | None, times_ms: list[float], source: str, memory: Number, why: str = ""
) -> Measurement:
    """The figures as numbers; `why` replaces the source of those that were not taken."""
    median, p90, p95, p99 = (float(value) for value in np.percentile(times_ms, [50, 90, 95, 99]))
    count = len(times_ms)
    return Measurement(
        load=Number(load_ms, "ms", "measured", None if load_ms is None else 1, source=why or source),
        first_run=Number(first_ms, "ms", "measured", None if first_ms is None else 1, source=why or source),
        latency=Number(median, "ms", "measured", count, source=f"median of {count} runs: {source}"),
        latency_p90=Number(p90, "ms", "measured", count, source=f"90th percentile of {count} runs: {source}"),
        latency_p95=Number(p95, "ms", "measured", count, source=f"95th percentile of {count} runs: {source}"),
        latency_p99=Number(p99, "ms", "measured", count, source=f"99th percentile of {count} runs: {source}"),
        latency_mean=Number(fmean(times_ms), "ms", "measured", count, source=f"mean of {count} runs: {source}"),
        latency_min=Number(min(times_ms), "ms", "measured", count, source=f"fastest of {count} runs: {source}"),
        peak_memory=memory,
    )


def _time_ms(session: Session, inputs: Arrays) -> float:
    """Wall time of one run (ms)."""
    start = perf_counter_ns()
    session.run(*inputs)
    return (perf_counter_ns() - start) * 1e-6


def _warm_up(session: Session, inputs: Arrays, runs: int, end: float) -> None:
    """Runs the session until its caches and lazy allocations have settled, or until `end`."""
    for _ in range(runs):
        session.run(*inputs)
        if perf_counter() > end:
            return


def _inputs_of(inputs: Arrays | Mapping[str, Arrays], name: str) -> Arrays:
    """The inputs of the session `name`; raises DataError."""
    if not isinstance(inputs, Mapping):
        return inputs
    if name not in inputs:
        raise DataError(f"no inputs for '{name}'; there are inputs for {sorted(inputs)}")
    return inputs[name]


def _check(count: int, key: str) -> None:
    """Raises DataError unless there is at least one run."""
    if count < 1:
        raise DataError(f"{key} must be at least 1, not {count}")


def _no_memory() -> Number:
    """Peak memory that nobody asked for."""
    return Number(None, "bytes", "measured", source="not taken: no loader for a fresh process was given")


def _source(label: str, threads: int) -> str:
    """One line on what was run where."""
    count = "one thread" if threads == 1 else f"{threads} threads"
    return f"{label + ', ' if label else ''}{count}, this machine ({cpu_name()})"


@cache
def cpu_name() -> str:
    """The name of this machine's CPU as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
