"""Peak memory of one artifact, in a fresh process that loads it and runs it once.

The parent calls `peak_memory`; the child is this file as a program. Peak resident memory is the kernel's high-water
mark of the process image (VmHWM), which starts anew with the program: `ru_maxrss` would carry the parent's over.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.types import Number

_STATUS = Path("/proc/self/status")
_SOURCE = (
    "peak resident memory of a fresh process that loads the artifact and runs it once, runtime library included, "
    "less what the process held before"
)


def peak_memory(
    loader: str, arguments: Sequence[str], inputs: Sequence[NDArray[Any]], timeout_seconds: float = 120.0
) -> Number:
    """Peak memory (bytes) of loading by `loader` ("module:function" of string arguments) and running once.

    The value is None where it could not be measured; the source then says why. Nothing is raised: a missing memory
    figure must not cost a finished compression.
    """
    if not _STATUS.exists():
        return _unknown(f"not measured: {sys.platform} has no /proc")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inputs.npz"
        np.savez(file, *inputs)
        command = [sys.executable, "-m", __name__, loader, str(file), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
        except subprocess.TimeoutExpired:
            return _unknown(f"not measured: the process took over {timeout_seconds:.0f} s")
    return _parse(done)


def _parse(done: subprocess.CompletedProcess[str]) -> Number:
    """The child's answer, its last line, as a number."""
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        return Number(float(answer["peak_bytes"] - answer["before_bytes"]), "bytes", "measured", 1, source=_SOURCE)
    except (IndexError, KeyError, TypeError, ValueError):
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        return _unknown(f"not measured: the process ended with {done.returncode}: {lines[-1]}")


def _unknown(why: str) -> Number:
    """A memory figure that is not known, with the reason."""
    return Number(None, "bytes", "measured", source=why)


def _status_bytes(key: str) -> int:
    """One memory line of this process's status (VmRSS, VmHWM) in bytes."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def main(loader: str, file: str, *arguments: str) -> None:
    """Loads and runs the artifact once, and prints memory before and at the peak (bytes) as JSON."""
    module, _, function = loader.partition(":")
    with np.load(file) as stored:
        inputs = [stored[name] for name in stored.files]
    load = getattr(importlib.import_module(module), function)
    before_bytes = _status_bytes("VmRSS")
    load(*arguments).run(*inputs)
    print(json.dumps({"before_bytes": before_bytes, "peak_bytes": _status_bytes("VmHWM")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
