"""onnxruntime's onnxruntime_perf_test, on inputs that it makes itself."""

from __future__ import annotations

from compress.profile.android.tool import Ask, Report, missing, number_after, unreadable

_SECONDS = {
    "load_ms": r"Session creation time cost:",
    "latency_p50_ms": r"P50 Latency(?:: | is )",
    "latency_p90_ms": r"P90 Latency(?:: | is )",
    "latency_p95_ms": r"P95 Latency(?:: | is )",
    "latency_p99_ms": r"P99 Latency(?:: | is )",
    "latency_min_ms": r"Min Latency(?:: | is )",
}
# Since 2025 the mean of the runs is called their "total"; it is the same number.
_MILLISECONDS = {
    "latency_mean_ms": "Average inference time cost(?: total)?:",
    "first_ms": "First inference time cost:",
}
_WHY = {"first_ms": "onnxruntime_perf_test reports its first inference in whole ms, if at all, and this one took less"}


class OnnxruntimeTool:
    """onnxruntime_perf_test."""

    runtime = "onnxruntime"
    format = "onnx"
    program = "onnxruntime_perf_test"
    where = "build it from github.com/microsoft/onnxruntime (build.sh --android --config Release)"
    log_tag = ""
    units: tuple[str, ...] = ("cpu",)

    def command(self, ask: Ask) -> list[str]:
        """The command line that times the model; its warm-up is always one run."""
        counts = ["-m", "times", "-r", str(ask.runs), "-x", str(ask.threads), "-y", "1"]
        return [ask.program, "-I", "-s", *counts, "-e", "cpu", ask.model]

    def memory_command(self, ask: Ask) -> list[str]:
        """None: timing reports it."""
        return []

    def read(self, output: str, ask: Ask) -> Report:
        """The figures; raises ToolError where there are none."""
        seconds = {name: number_after(label, output) for name, label in _SECONDS.items()}
        figures = {name: value * 1e3 for name, value in seconds.items() if value is not None}
        for name, label in _MILLISECONDS.items():
            value_ms = number_after(label, output)
            figures |= {name: value_ms} if value_ms else {}  # 0 is what is left of less than a whole millisecond
        peak_bytes = number_after("Peak working set size:", output)
        figures |= {} if not peak_bytes else {"peak_memory_bytes": peak_bytes}
        count = number_after("Total inference requests:", output)
        if not count or not figures.get("latency_mean_ms"):
            raise unreadable(self.program, output)
        return Report(int(count), figures, why=missing(figures, _WHY, "onnxruntime_perf_test did not print it"))
