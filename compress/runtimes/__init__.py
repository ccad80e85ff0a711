"""Run a file on this machine: onnxruntime, LiteRT, ExecuTorch, and Core ML where there is a Mac."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from compress.errors import InputError, ToolError, ToolMissing, UnknownName
from compress.runtimes.quiet import quietly
from compress.runtimes.session import Session

# format -> the module that runs it. A module has `open_session(path, threads) -> Session`.
RUNTIMES: dict[str, str] = {
    "onnx": "compress.runtimes.onnxruntime",
    "litert": "compress.runtimes.litert",
    "executorch": "compress.runtimes.executorch",
    "coreml": "compress.runtimes.coreml",
}

# format -> (what must be importable, the extra that brings it)
TOOLS: dict[str, tuple[str, str]] = {
    "onnx": ("onnxruntime", "mobile"),
    "litert": ("ai_edge_litert", "litert"),
    "executorch": ("executorch", "executorch"),
    "coreml": ("coremltools", "coreml"),
}


def _missing(format: str) -> ToolMissing | None:
    if format not in RUNTIMES:
        raise UnknownName("format", format, RUNTIMES)
    tool, extra = TOOLS[format]
    return ToolMissing(tool, extra) if importlib.util.find_spec(tool) is None else None


def available(format: str) -> str | None:
    """None where files of `format` run on this machine, else the reason; imports nothing heavy.

    Raises:
        UnknownName: there is no such format.
    """
    missing = _missing(format)
    if format == "coreml" and sys.platform != "darwin":
        return "Core ML runs on macOS only"
    return str(missing) if missing else None


def load(artifact_path: str | Path, format: str, threads: int = 1) -> Session:
    """The artifact, loaded in its real runtime.

    Args:
        artifact_path: the file, or the `.mlpackage` folder.
        format: a key of RUNTIMES.
        threads: how many CPU threads one inference may use.

    Raises:
        UnknownName: there is no such format.
        ToolMissing, ToolError: the runtime is not installed, or does not exist on this system.
        InputError: there is no such file, or the runtime cannot read it.
    """
    missing = _missing(format)
    reason = available(format)
    if reason is not None:
        raise missing or ToolError(f"{format}: {reason}")
    path = Path(artifact_path)
    if not path.exists():
        raise InputError(f"there is no artifact {path}; export it first")
    try:
        with quietly():
            session: Session = importlib.import_module(RUNTIMES[format]).open_session(path, threads)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path} cannot be loaded by the {format} runtime: {lines[0][:200]}") from error
    return session


__all__ = ["RUNTIMES", "Session", "available", "load"]
