"""Measures a file on this machine, in its own runtime, on random inputs of the file's own shapes."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from compress import runtimes
from compress.errors import CompressError, InputError
from compress.profile.measure import Measurement, Session, cpu_name, measure
from compress.profile.measure_memory import peak_memory
from compress.profile.rows import HOST
from compress.runtimes.inputs import random_inputs
from compress.types import Number

_LOADER = f"{__name__}:load"
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def load(path: str, format: str, threads: str) -> Session:
    """The file in its runtime, asked for with strings: what the fresh process that watches memory calls."""
    return runtimes.load(path, format, int(threads))


def measure_file(path: Path, format: str, runs: int, warm_up: int, threads: int) -> dict[str, Any]:
    """What a `Row` says of a file and this machine; its model, date and command are the caller's.

    Raises:
        ToolMissing, ToolError: the runtime is not here, or does not say what the file takes.
        InputError: the file cannot be read, or does not run on values that are made up.
    """
    kinds = runtimes.input_kinds(path, format)
    inputs = random_inputs(kinds)
    opened: list[Any] = []

    def open_once() -> Session:
        opened.append(runtimes.load(path, format, threads))
        return opened[-1]

    try:
        done = measure(
            open_once,
            inputs,
            runs=runs,
            warm_up=warm_up,
            label=format,
            threads=threads,
            memory=lambda: peak_memory(_LOADER, [str(path), format, str(threads)], inputs),
        )
        name, version = opened[-1].name, opened[-1].version
    except CompressError:
        raise
    except Exception as error:  # each runtime raises types of its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: the {format} runtime does not run it on made-up values: {lines[0][:200]}") from error
    finally:
        for session in opened:
            session.close()
    assumed = "a size that the file leaves open was taken as 1" if any(kind.assumed for kind in kinds) else ""
    return {
        "device": HOST,
        "soc": cpu_name(),
        "os": platform.platform(),
        "unit": "cpu",
        "runtime": name,
        "runtime_version": version,
        "threads": threads,
        "n": done.latency.n,
        "figures": _figures(done),
        "input": " ".join(map(str, kinds)),
        "governor": _governor(),
        "notes": assumed,
    }


def _figures(done: Measurement) -> dict[str, Number]:
    return {
        "latency_p50_ms": done.latency,
        "latency_p90_ms": done.latency_p90,
        "latency_p95_ms": done.latency_p95,
        "latency_p99_ms": done.latency_p99,
        "latency_mean_ms": done.latency_mean,
        "latency_min_ms": done.latency_min,
        "first_ms": done.first_run,
        "load_ms": done.load,
        "peak_memory_bytes": done.peak_memory,
    }


def _governor() -> str:
    """The governor of this machine's first CPU, "" where the system does not say."""
    try:
        return _GOVERNOR.read_text(encoding="ascii").strip()
    except OSError:
        return ""
