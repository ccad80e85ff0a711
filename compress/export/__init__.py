"""Write a model as a file a phone runs: ONNX, LiteRT, ExecuTorch, Core ML, each in float and in int8.

What comes in is a `torch.export.ExportedProgram` of static batch 1, in eval mode, with plain ATen ops and, where it
is quantized, the standard `quantized_decomposed` quantize and dequantize ops: never a class of ours. Artifacts take
and give float32 in the layout of the torch model (NCHW); the int8 border lies inside the file.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any

from compress.errors import ToolMissing, UnknownName
from compress.export.files import size_bytes_of, write_whole
from compress.files import sha256_of
from compress.runtimes.quiet import quietly
from compress.types import Artifact

# format -> the module that writes it. A module has `SUFFIX` and `write(program, scheme, path) -> dict`: the fields
# of the Artifact that only the format knows.
EXPORTERS: dict[str, str] = {
    "onnx": "compress.export.onnx",
    "litert": "compress.export.litert",
    "executorch": "compress.export.executorch",
    "coreml": "compress.export.coreml",
}

# format -> (what must be importable, the extra that brings it)
TOOLS: dict[str, tuple[tuple[str, ...], str]] = {
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "mobile"),
    "litert": (("litert_torch", "ai_edge_quantizer", "ai_edge_litert"), "litert"),
    "executorch": (("executorch",), "executorch"),
    "coreml": (("coremltools",), "coreml"),
}


def missing_tool(format: str) -> str | None:
    """The first module that writing `format` needs and that is not installed, or None; imports nothing heavy.

    Raises:
        UnknownName: there is no such format.
    """
    if format not in EXPORTERS:
        raise UnknownName("format", format, EXPORTERS)
    return next((tool for tool in TOOLS[format][0] if importlib.util.find_spec(tool) is None), None)


def available(format: str) -> str | None:
    """None where `format` can be written on this machine, else the reason and what to install."""
    tool = missing_tool(format)
    return None if tool is None else str(ToolMissing(tool, TOOLS[format][1]))


def export(program: Any, format: str, scheme: str, folder: str | Path, stem: str) -> Artifact:
    """Writes `folder/stem.<suffix>` and returns its description; `path` is the file name alone.

    Args:
        program: a `torch.export.ExportedProgram`, static, batch 1, eval mode.
        format: a key of EXPORTERS.
        scheme: "float32" or "w8a8": what the program is; it is checked against its ops.
        folder: where the file goes; made where it is missing.
        stem: the file's name without its suffix.

    Raises:
        UnknownName, ToolMissing: no such format; its exporter is not installed.
        UnsupportedOp: the format cannot take an op; carries the op, its place in the model and the format.
        ToolError: the exporter stopped for another reason. Nothing is left on disk in either case.
        RunFolderError: the folder cannot be written.
    """
    tool = missing_tool(format)
    if tool is not None:
        raise ToolMissing(tool, TOOLS[format][1])
    from compress.export.refusal import refusal

    _check_scheme(program, scheme)
    with quietly():
        writer = importlib.import_module(EXPORTERS[format])
    target = Path(folder) / f"{stem}{writer.SUFFIX}"
    found: dict[str, Any] = {}

    def write(path: Path) -> None:
        try:
            with quietly(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecations inside the exporters: nothing a user can act on
                found.update(writer.write(program, scheme, path))
        except OSError:
            raise  # the disk, not the model: write_whole says so
        except Exception as error:
            raise refusal(error, program, format) from error

    write_whole(target, write)
    return Artifact(
        format=format, path=target.name, scheme=scheme,
        size_bytes=size_bytes_of(target), sha256=sha256_of(target), **found,
    )  # fmt: skip


def _check_scheme(program: Any, scheme: str) -> None:
    """Refuses a scheme that the program's ops contradict."""
    from compress.errors import ModelError
    from compress.export.program import is_quantized

    if scheme not in ("float32", "w8a8"):
        raise UnknownName("scheme", scheme, ("float32", "w8a8"))
    if is_quantized(program) != (scheme == "w8a8"):
        holds = "holds" if is_quantized(program) else "holds no"
        raise ModelError(f"scheme {scheme} was asked for, but the program {holds} quantize ops; quantize it first")
