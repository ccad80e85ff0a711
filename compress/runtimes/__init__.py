"""Run a file on this machine: onnxruntime, LiteRT, ExecuTorch, and Core ML where there is a Mac."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CompressError, InputError, ToolError, ToolMissing, UnknownName
from compress.runtimes.quiet import quietly
from compress.runtimes.session import Session

if TYPE_CHECKING:
    from compress.runtimes.inputs import InputKind
    from compress.runtimes.intermediate import Intermediate

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


def input_kinds(artifact_path: str | Path, format: str) -> list[InputKind]:
    """Shape and type of each of the artifact's inputs, as its runtime sees them.

    Raises:
        As `load`; and ToolError: the runtime of this format does not say.
    """
    load(artifact_path, format).close()  # every way in which a file can be bad is refused there
    with quietly():
        read = getattr(importlib.import_module(RUNTIMES[format]), "input_kinds", None)
        if read is not None:
            try:
                kinds: list[InputKind] = read(Path(artifact_path))
            except Exception as error:  # an input that is no tensor, which each runtime refuses in its own way
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise InputError(f"{artifact_path}: what it takes cannot be read ({lines[0][:200]})") from error
            return kinds
    raise ToolError(f"{format}: its runtime does not say what a file takes")


def load_to_check(artifact_path: str | Path, format: str, threads: int = 1) -> Session:
    """As `load`, but away from a Mac a Core ML package is computed by the reference evaluator: for numbers, not times.

    Raises:
        As `load`; and ToolError: the evaluator does not know all of the package's operations; the message lists them.
        CheckFailed: the package's program contradicts itself.
    """
    path = Path(artifact_path)
    missing = _missing(format)
    if format != "coreml" or missing is not None or available(format) is None or not path.exists():
        return load(path, format, threads)
    try:
        with quietly():
            session: Session = importlib.import_module(RUNTIMES[format]).open_reference(path, threads)
    except CompressError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path} cannot be read by the Core ML reference evaluator: {lines[0][:200]}") from error
    return session


def intermediates(artifact_path: str | Path, format: str, inputs: Sequence[Any]) -> list[Intermediate]:
    """The tensors inside an artifact for one set of inputs (float32 arrays, batch 1), in execution order.

    A format's module has `intermediates(path, inputs)`; Core ML's need not run here to be looked into.

    Raises:
        ToolError: the runtime is not here, or cannot show what is inside a file.
        InputError: the file cannot be read or run.
    """
    reason = available(format)
    if reason is not None and format != "coreml":
        raise _missing(format) or ToolError(f"{format}: {reason}")
    with quietly():
        read = getattr(importlib.import_module(RUNTIMES[format]), "intermediates", None)
    if read is None:
        raise ToolError(f"{format}: {reason or 'its runtime cannot show what is inside a file'}")
    try:
        with quietly():
            return list(read(Path(artifact_path), list(inputs)))
    except CompressError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{artifact_path}: its intermediate tensors cannot be read ({lines[0][:200]})") from error


__all__ = ["RUNTIMES", "Session", "available", "input_kinds", "intermediates", "load", "load_to_check"]
