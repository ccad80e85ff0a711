"""Write a model as a file a phone runs: ONNX, LiteRT, ExecuTorch, Core ML, in float and in every scheme they can hold.

What comes in is a `torch.export.ExportedProgram` of static batch 1, in eval mode, with plain ATen ops and, where it
is quantized, the standard ops that quantize values and make stored weights float again: never a class of ours.
Artifacts take and give float32 in the layout of the torch model (NCHW); the int8 border lies inside the file.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any, get_args

from compress.errors import ToolMissing, UnknownName
from compress.export.files import size_bytes_of, write_whole
from compress.files import sha256_of
from compress.runtimes.quiet import quietly
from compress.types import Artifact, Scheme

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


# Schemes that quantize the values between layers, and the stored form that the weights of the others have.
_WITH_VALUES = ("w8a8", "w8a16", "w4a8")
_FORMS = {"float16": "float16", "w4": "int4", "palette4": "palette4", "palette6": "palette6"}


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
        scheme: "float32", "w8a8" and the like: what the program is; it is checked against its ops.
        folder: where the file goes; made where it is missing.
        stem: the file's name without its suffix.

    Raises:
        UnknownName, ToolMissing: no such format; its exporter is not installed.
        UnsupportedOp: the format cannot take an op, or cannot hold a layer at its scheme; carries the op, its place in
            the model and the format.
        ToolError: the exporter stopped for another reason. Nothing is left on disk in either case.
        RunFolderError: the folder cannot be written.
    """
    tool = missing_tool(format)
    if tool is not None:
        raise ToolMissing(tool, TOOLS[format][1])
    from compress.export.holds import refuse
    from compress.export.refusal import refusal

    _check_scheme(program, scheme)
    refuse(program, format)
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
    from compress.export.program import has_ranges, is_quantized
    from compress.export.weights import stored_weights

    if scheme not in get_args(Scheme):
        raise UnknownName("scheme", scheme, get_args(Scheme))
    forms = {weight.form for weight in stored_weights(program)}
    wanted = _FORMS.get(scheme)
    if scheme == "float32" and not is_quantized(program) and forms:
        raise ModelError(f"scheme float32 was asked for, but the program stores weights as {', '.join(sorted(forms))}")
    quantizes = is_quantized(program) if scheme == "float32" else has_ranges(program)
    if quantizes != (scheme in _WITH_VALUES):
        holds = "holds" if quantizes else "holds no"
        raise ModelError(f"scheme {scheme} was asked for, but the program {holds} quantize ops; quantize it first")
    if wanted is not None and not any(form.startswith(wanted) for form in forms):
        raise ModelError(f"scheme {scheme} was asked for, but the program stores no weight as {wanted}")
