"""Runs one artifact in the emulated system: the command, its environment, and what comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.errors import CheckFailed, ToolError
from compress.runtimes.arm64.root import ARCH, CPU, FORMATS, Root
from compress.runtimes.arm64.samples import read_samples, write_samples

INSIDE = "compress.runtimes.arm64.inside"
START_ONLY = "-"  # in the artifact's place: start the runtime, run nothing
TIME_LIMIT_S = 3600.0  # a hang ends here; emulation is 20 to 100 times slower than the machine it runs on


@dataclass(frozen=True, slots=True)
class EmulatedRun:
    """The outputs of every sample, and what they ran on: "LiteRT 2.3.0 on arm64 (qemu-user 10.0.13, ... emulated)"."""

    outputs: list[tuple[np.ndarray, ...]]
    ran_on: str


def command(root: Root, format: str, artifact: Path | str, folder: Path) -> list[str]:
    """The command line that runs `artifact` on the inputs in `folder`.

    No chroot: the emulator looks for every absolute path below the root's system first, so no rights are needed.
    `-S` keeps Python from looking for packages anywhere but where the environment says.
    """
    emulated = [str(root.python), "-S", "-m", INSIDE, format, str(artifact), str(folder)]
    return [str(root.emulator), "-cpu", CPU, "-L", str(root.system), *emulated]


def environment(root: Root, folder: Path) -> dict[str, str]:
    """The variables the emulated Python sees: none of this machine's libraries or packages, one thread.

    `folder` holds a link to this package, so that its sessions can be imported there without the packages (of the
    wrong machine) that lie beside it.
    """
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(root.wheels), str(folder)]),
    }


def run_artifact(root: Root, path: Path, format: str, samples: Sequence[tuple[np.ndarray, ...]]) -> EmulatedRun:
    """Runs an artifact on all samples in one emulated process.

    Args:
        root: a root that `find_root` gave.
        path: the artifact.
        format: one of FORMATS.
        samples: one tuple of float32 arrays, batch 1, per sample.

    Raises:
        ToolError: the runtime or the emulator crashed, refused the file or hung; the message says which.
        CheckFailed: it ran but left other than one set of outputs per sample.
    """
    with tempfile.TemporaryDirectory(prefix="compress-arm64-") as scratch:
        folder = Path(scratch)
        write_samples(folder / "inputs.npz", samples)
        about = _emulate(root, format, path.resolve(), folder)
        try:
            outputs = read_samples(folder / "outputs.npz")
        except (OSError, ValueError) as error:
            raise CheckFailed(f"the emulated {format} runtime left no readable outputs ({error})") from error
    if len(outputs) != len(samples):
        raise CheckFailed(f"the emulated {format} runtime gave {len(outputs)} outputs for {len(samples)} samples")
    return EmulatedRun(outputs, f"{about['name']} {about['version']} on {root.describe()}")


def start_runtime(root: Root, format: str) -> str:
    """The name and version of a format's runtime, once it has started in the emulated system.

    Raises:
        ToolError: it does not start there.
    """
    with tempfile.TemporaryDirectory(prefix="compress-arm64-") as scratch:
        about = _emulate(root, format, START_ONLY, Path(scratch))
    return f"{about['name']} {about['version']}"


def _emulate(root: Root, format: str, artifact: Path | str, folder: Path) -> dict[str, str]:
    """What the emulated process says about itself; its files are in `folder`."""
    if format not in FORMATS:
        raise ToolError(f"{format} has no runtime on {ARCH}; there are {', '.join(FORMATS)}")
    (folder / "compress").symlink_to(Path(__file__).resolve().parents[2], target_is_directory=True)
    line, variables = command(root, format, artifact, folder), environment(root, folder)
    try:
        done = subprocess.run(line, env=variables, cwd=folder, capture_output=True, timeout=TIME_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"the emulated {format} runtime did not end within {TIME_LIMIT_S:.0f} s") from error
    except OSError as error:
        raise ToolError(f"the emulator {root.emulator} cannot be started ({error.strerror})") from error
    about = folder / "about.json"
    if not about.is_file():
        raise ToolError(_crash(format, done.returncode, done.stderr.decode(errors="replace")))
    said: dict[str, str] = json.loads(about.read_text(encoding="utf-8"))
    if "error" in said:
        raise ToolError(f"the emulated {format} runtime refused: {said['error']}")
    if done.returncode != 0:  # it wrote its results and crashed on its way out: results from a broken process
        raise ToolError(_crash(format, done.returncode, done.stderr.decode(errors="replace")))
    return said


def _crash(format: str, code: int, errors: str) -> str:
    """One line on a process that died: its signal or exit code, and the last thing it said."""
    number = -code if code < 0 else code - 128  # the emulator dies of the same signal, a shell would add 128
    names = {entry.value: entry.name for entry in signal.Signals}
    how = names.get(number, f"exit code {code}")
    lines = [line for line in errors.splitlines() if line.strip()]
    return f"the emulated {format} runtime crashed ({how}): {lines[-1].strip()[:200] if lines else 'it said nothing'}"
