"""Measures a Core ML package where a Mac is at hand, with coremltools' own benchmark of the installed Core ML.

Xcode's performance report is a document of Xcode's whose format Apple does not publish, so it is not read: a figure
taken from a guessed field would be no measurement.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import platform
import sys
from pathlib import Path
from typing import Any

from compress.errors import InputError, ToolError, ToolMissing, UnknownName
from compress.profile.rows import MAC, figures_of, of_times

REPORT = ".mlperf"
# Our units -> Core ML's sets of compute units; each may fall back to the CPU, and Core ML does not say when.
UNITS = {"": "ALL", "cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "npu": "CPU_AND_NE"}


def refuse_report(path: Path) -> InputError:
    """The error for a performance report of Xcode's."""
    return InputError(
        f"{path}: Apple does not publish the format of Xcode's performance reports; measure the .mlpackage on the Mac "
        "itself (compress profile MODEL.mlpackage --measure), or write the report's median into a CSV file with the "
        "columns model, latency_ms"
    )


def measure_package(path: Path, unit: str, runs: int, warm_up: int) -> dict[str, Any]:
    """What a `Row` says of a package and this Mac; its model, date and command are the caller's.

    Raises:
        ToolError: this is no Mac, or Core ML refuses the package. ToolMissing: coremltools is not installed.
        UnknownName: Core ML has no such unit.
    """
    if unit not in UNITS:
        raise UnknownName("unit", unit, UNITS)
    if sys.platform != "darwin":
        raise ToolError(f"{path}: Core ML runs on macOS only: measure it on a Mac, or let it be predicted (--target)")
    if importlib.util.find_spec("coremltools") is None:
        raise ToolMissing("coremltools", "coreml")
    try:
        load_ms, times_ms = asyncio.run(_benchmark(path, UNITS[unit], runs, warm_up))
    except Exception as error:  # Core ML's own errors come in many types
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ToolError(f"{path}: Core ML cannot run it: {lines[0][:200]}") from error
    known = {name: (value, f"of {runs} runs in Core ML") for name, value in of_times(times_ms[warm_up:]).items()}
    known |= {
        "first_ms": (times_ms[0], "the first prediction after loading"),
        "load_ms": (load_ms, "one load"),
        "peak_memory_bytes": (None, "coremltools' benchmark does not report memory"),
    }
    return {
        "device": MAC,
        "soc": platform.processor() or platform.machine(),
        "os": f"macOS {platform.mac_ver()[0]}",
        "unit": unit or "any",
        "runtime": "Core ML",
        "runtime_version": f"of the system, by coremltools {importlib.metadata.version('coremltools')}",
        "threads": None,
        "n": runs,
        "figures": figures_of(known, runs),
        "notes": f"compute units {UNITS[unit]}: Core ML chooses among them and does not say which it took",
    }


async def _benchmark(path: Path, units: str, runs: int, warm_up: int) -> tuple[float, list[float]]:
    """The load time and the time of every prediction (ms), warm-up first, on random inputs."""
    import coremltools as ct
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

    model = ct.models.MLModel(str(path), compute_units=getattr(ct.ComputeUnit, units))
    benchmarker = MLModelBenchmarker(model)
    loaded = await benchmarker.benchmark_load(iterations=1)
    predicted = await benchmarker.benchmark_predict(iterations=warm_up + runs, warmup=False)
    return float(loaded.samples[0]), [float(sample) for sample in predicted.samples]
