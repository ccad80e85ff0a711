"""What runs inside the emulated system: one artifact on all samples, in the very sessions the host uses.

Called as `python -m compress.runtimes.arm64.inside FORMAT FILE FOLDER`. FOLDER holds `inputs.npz`; what comes of it is
left there as `outputs.npz` and `about.json`. Without FILE ("-") the runtime is only started. Only numpy and the
runtimes exist there, so this file and all it imports need nothing else.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

import numpy as np

from compress.errors import CompressError
from compress.runtimes import Session, load
from compress.runtimes.arm64.samples import read_samples, write_samples

# format -> what has to import for its runtime to be there, and the distribution that carries its version
STARTS = {
    "onnx": ("onnxruntime", "onnxruntime"),
    "litert": ("ai_edge_litert.interpreter", "ai-edge-litert"),
    "executorch": ("executorch.runtime", "executorch"),
}


def main(format: str, artifact: str, folder: str) -> int:
    """Run or start one runtime; the exit code is 1 where it refuses, with the reason in about.json."""
    place = Path(folder)
    try:
        if format == "executorch":
            _fit_executorch()
        about = _start(format) if artifact == "-" else _run(format, Path(artifact), place)
    except (CompressError, ImportError, RuntimeError, ValueError) as error:
        about = {"error": " ".join(str(error).split())[:300] or type(error).__name__}
    (place / "about.json").write_text(json.dumps(about), encoding="utf-8")
    return int("error" in about)


def _start(format: str) -> dict[str, str]:
    """The version of a runtime that could be imported."""
    from importlib.metadata import version

    module, distribution = STARTS[format]
    importlib.import_module(module)
    return {"name": distribution, "version": version(distribution)}


def _run(format: str, artifact: Path, place: Path) -> dict[str, str]:
    """Write the outputs of all samples and give the runtime's name and version."""
    session = load(artifact, format)
    outputs = [_copied(session, sample) for sample in read_samples(place / "inputs.npz")]
    write_samples(place / "outputs.npz", outputs)
    return {"name": session.name, "version": session.version}


def _copied(session: Session, sample: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(value) for value in session.run(*sample))


def _fit_executorch() -> None:
    """Fit ExecuTorch's Python side to what is in the emulated system.

    Its runtime imports one warning class from the exporter, and with it the whole exporter, which needs a dozen
    packages that are not there and minutes to import under emulation: an empty module stands in. And its binding had
    another name in the release that is there, see `wheels.txt`.
    """
    exporter, warnings = types.ModuleType("executorch.exir"), types.ModuleType("executorch.exir._warnings")
    warnings.ExperimentalWarning = type("ExperimentalWarning", (Warning,), {})  # type: ignore[attr-defined]
    exporter._warnings = warnings  # type: ignore[attr-defined]
    sys.modules |= {"executorch.exir": exporter, "executorch.exir._warnings": warnings}
    importlib.import_module("torch")  # the binding finds torch's libraries only once they are loaded
    binding = importlib.import_module("executorch.extension.pybindings._portable_lib")
    sys.modules["executorch.extension.pybindings._C"] = binding


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
