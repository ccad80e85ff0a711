"""Cases run in processes of their own: a crash of native code, or one that hangs, costs that one case."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from compress.conformance.run import Result

Task = tuple[str, str, tuple[str, ...]]
"""A case's name, a scheme, and formats: one process does them in turn, for the trace serves all formats."""

PATIENCE_S = 1800.0  # for what waits without computing; what computes for ever is ended by its processor time
_CASES_PER_PROCESS = 240  # the compilers underneath keep what they made; a fresh process gives the memory back
COMMAND = (sys.executable, "-m", "compress.conformance.worker")


@dataclass
class Worker:
    """One process that runs cases, started anew where it died or was told to end."""

    command: Sequence[str] = COMMAND
    patience_s: float = PATIENCE_S
    process: subprocess.Popen[bytes] | None = None
    done: int = 0

    def ask(self, case: str, scheme: str, format: str) -> Result:
        """The result of one case; where the process died or did not answer in time, that is the result."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps([case, scheme, format]).encode() + b"\n")
            process.stdin.flush()
            answers, _, _ = select.select([process.stdout], [], [], self.patience_s)
            line = process.stdout.readline() if answers else b""
        except BrokenPipeError:
            answers, line = [process.stdout], b""
        self.done += 1
        if line:
            return Result.from_dict(json.loads(line))
        reason = self._end() if answers else f"no answer after {self.patience_s:.0f} s"
        self.close()
        return Result(case, scheme, format, "refused", reason)

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.process = None

    def _end(self) -> str:
        """How the process ended, in words."""
        assert self.process is not None
        code = self.process.wait()
        if code == -signal.SIGXCPU:
            return "it took more processor time than any sound case"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"native code crashed the process ({name})"

    def _running(self) -> subprocess.Popen[bytes]:
        if self.done % _CASES_PER_PROCESS == 0:
            self.close()
        if self.process is None:
            self.process = subprocess.Popen(
                list(self.command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=_environment(),
            )
        return self.process


def _environment() -> dict[str, str]:
    """One thread per process, and the package found as this process found it."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def run_all(
    tasks: Iterable[Task], processes: int = 1, make_worker: Callable[[], Worker] = Worker
) -> Iterator[list[Result]]:
    """Yields the results of each task as it is done, in no fixed order, from `processes` processes."""
    idle: SimpleQueue[Worker] = SimpleQueue()
    workers = [make_worker() for _ in range(processes)]
    for worker in workers:
        idle.put(worker)

    def do(task: Task) -> list[Result]:
        case, scheme, formats = task
        worker = idle.get()
        try:
            return [worker.ask(case, scheme, format) for format in formats]
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(processes)
    try:
        for future in as_completed([pool.submit(do, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.close()


def processes_here() -> int:
    """How many processes this machine's CPUs can keep busy, as far as this one may use them; at most 8."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 8)
