"""LiteRT's benchmark_model: the interpreter's and the compiled model's, which print differently.

The interpreter's (tflite/tools/benchmark) prints microseconds: one line of statistics for the warm-up and one for the
timed runs, with p5, median and p95 since 2024, then "Inference timings in us". The compiled model's (litert/tools)
prints a block of milliseconds, without a median.
"""

from __future__ import annotations

import re

from compress.profile.android.tool import Ask, Report, missing, number_after, unreadable

_MB = 2**20
_COUNTED = re.compile(r"count=(\d+)(.*)")
_PART = re.compile(r"(\w+)=([0-9.e+-]+)")
_FIELDS = {"median": "latency_p50_ms", "p95": "latency_p95_ms", "avg": "latency_mean_ms", "min": "latency_min_ms"}
_SUMMARY = "benchmark_model prints a summary of its runs, not the runs: {} is not in it"


class LitertTool:
    """benchmark_model, of either kind."""

    runtime = "LiteRT"
    format = "litert"
    program = "benchmark_model"
    where = "https://www.tensorflow.org/lite/performance/measurement (native benchmark binary, android_aarch64)"
    log_tag = ""
    units: tuple[str, ...] = ("cpu", "gpu")

    def command(self, ask: Ask) -> list[str]:
        """The command line that times the model."""
        return [*self._common(ask), f"--num_runs={ask.runs}", f"--warmup_runs={ask.warm_up}"]

    def memory_command(self, ask: Ask) -> list[str]:
        """One short run with the thread that watches memory, which would disturb the timing of the others."""
        return [
            *self._common(ask),
            "--num_runs=1",
            "--warmup_runs=1",
            "--min_secs=0",
            "--report_peak_memory_footprint=true",
        ]

    def _common(self, ask: Ask) -> list[str]:
        gpu = ["--use_gpu=true"] if ask.unit == "gpu" else []
        return [ask.program, f"--graph={ask.model}", f"--num_threads={ask.threads}", *gpu]

    def read(self, output: str, ask: Ask) -> Report:
        """The figures of either kind; raises ToolError where there are none."""
        found = _compiled(output) if "BENCHMARK RESULTS" in output else _interpreter(output)
        if found is None:
            raise unreadable(self.program, output)
        n, figures = found
        peak_mb = number_after(r"(?:via periodic monitoring:|Peak memory:)", output)
        if peak_mb is not None:
            figures["peak_memory_bytes"] = peak_mb * _MB
        why = {name: _SUMMARY.format(name.split("_")[1]) for name in ("latency_p90_ms", "latency_p99_ms")}
        why["latency_p50_ms"] = "this benchmark_model prints no median: a newer one of the interpreter's kind does"
        why["latency_p95_ms"] = "this benchmark_model prints no percentiles"
        return Report(n, figures, why=missing(figures, why, "benchmark_model did not print it"))


def _interpreter(output: str) -> tuple[int, dict[str, float]] | None:
    """How many runs, and their figures, of the interpreter's benchmark_model."""
    blocks = _COUNTED.findall(output)
    if len(blocks) < 2 or "Inference timings in us" not in output:
        return None
    count, rest = blocks[-1]
    parts = {name: float(value) / 1e3 for name, value in _PART.findall(rest)}
    figures = {_FIELDS[name]: value for name, value in parts.items() if name in _FIELDS}
    if "(all same)" in rest or "avg" not in parts:  # then it prints only the newest
        figures |= dict.fromkeys(("latency_p50_ms", "latency_mean_ms", "latency_min_ms"), parts.get("curr", 0.0))
    for name, label in (("load_ms", "Init:"), ("first_ms", "First inference:")):
        value_us = number_after(label, output)
        figures |= {} if value_us is None else {name: value_us / 1e3}
    return (int(count), figures) if figures.get("latency_mean_ms") else None


def _compiled(output: str) -> tuple[int, dict[str, float]] | None:
    """How many runs, and their figures, of the compiled model's benchmark_model."""
    runs = re.search(r"Inference \(avg\):\s*([0-9.]+) ms \((\d+) runs\)", output)
    if runs is None:
        return None
    figures = {"latency_mean_ms": float(runs.group(1))}
    labels = {
        "latency_min_ms": r"Inference \(min\):",
        "load_ms": "Model initialization:",
        "first_ms": r"Warmup \(first\):",
    }
    for name, label in labels.items():
        value_ms = number_after(label, output)
        figures |= {} if value_ms is None else {name: value_ms}
    return int(runs.group(2)), figures
