"""ExecuTorch's executor_runner, which writes to the phone's log where it was built for Android.

Since 2026 it logs the load time and every iteration; before, only their number and their sum.
"""

from __future__ import annotations

import re

from compress.profile.android.tool import Ask, Report, missing, unreadable
from compress.profile.rows import of_times

_ITERATION = re.compile(r"Iteration (\d+) of (\d+): ([0-9.]+) ms")
_SUM = re.compile(r"Model executed successfully (\d+) time\(s\) in ([0-9.]+) ms")
_LOADED = re.compile(r"Model loaded in ([0-9.]+) ms")
_WHY = {
    "load_ms": "this executor_runner does not log its load time: one built since April 2026 does",
    "first_ms": "this executor_runner logs only the sum of its runs",
    "peak_memory_bytes": "executor_runner does not report memory",
}
_LOST = "the phone's log had lost its first lines when it was read"


class ExecutorchTool:
    """executor_runner."""

    runtime = "ExecuTorch"
    format = "executorch"
    program = "executor_runner"
    where = "build it from github.com/pytorch/executorch (cmake --preset android-arm64-v8a, target executor_runner)"
    log_tag = "ExecuTorch"
    units: tuple[str, ...] = ("cpu", "gpu", "npu")  # the unit is compiled into the file

    def command(self, ask: Ask) -> list[str]:
        """The command line that times the model; the warm-up is the first runs, which `read` leaves out."""
        total = ask.warm_up + ask.runs
        return [ask.program, f"--model_path={ask.model}", f"--num_executions={total}", f"--cpu_threads={ask.threads}"]

    def memory_command(self, ask: Ask) -> list[str]:
        """None: it does not watch memory."""
        return []

    def read(self, output: str, ask: Ask) -> Report:
        """The figures; raises ToolError where there are none."""
        # By their numbers, not by their places: a long log loses its oldest lines.
        times_ms = {int(number): float(time) for number, _, time in _ITERATION.findall(output)}
        kept = [time for number, time in times_ms.items() if number > ask.warm_up]
        loaded = _LOADED.search(output)
        figures = {} if loaded is None else {"load_ms": float(loaded.group(1))}
        if kept:
            figures |= {"first_ms": times_ms[1]} if 1 in times_ms else {}
            figures |= of_times(kept)
            why = dict.fromkeys(("first_ms", "load_ms"), _LOST) if 1 not in times_ms else {}
            return Report(len(kept), figures, tuple(kept), missing(figures, _WHY | why, ""))
        summed = _SUM.search(output)
        if summed is None or float(summed.group(2)) <= 0:
            raise unreadable(self.program, output)
        count = int(summed.group(1))
        figures["latency_mean_ms"] = float(summed.group(2)) / count
        return Report(count, figures, why=missing(figures, _WHY, f"{_WHY['first_ms']}, {count} with the warm-up"))
