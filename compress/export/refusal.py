"""Turning an exporter's crash into one line: which op it refused, where that op stands in the model, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

from compress.errors import CompressError, ToolError, UnsupportedOp
from compress.export.program import calls, op_name, where_of

# How the exporters name the culprit, the surest wording first. The group is a node's name or an op's.
_WORDINGS = (
    r"No ONNX function found for <OpOverload\(op='([\w.:]+)'",
    r"Lowering not found: ([\w.:]+?)(?:\.\w+)?\s",
    r"While executing %(\w+)",
    r"translating node %(\w+)",
    r"fx node (\w+)",
    r"lowering for Torch `(\w+)` op",
    r"torch\._ops\.([\w]+\.\w+)",
    r"EdgeOpOverload: ([\w]+\.\w+)",
    r"torch\.ops\.([\w]+\.\w+)",
    r"\b((?:aten|prims|torchvision|quantized_decomposed)(?:::|\.)\w+)",
)
_REASON_CHARACTERS = 160


def refusal(error: BaseException, program: ExportedProgram, format: str) -> CompressError:
    """The error to raise instead of an exporter's `error`: an UnsupportedOp where the op can be told, else a ToolError.

    An error of this toolchain's own family passes through unchanged.
    """
    if isinstance(error, CompressError):
        return error
    words = " ".join(str(link) for link in _chain(error)) + " "
    culprit = _culprit(words)
    reason = _one_line(error)
    if not culprit:
        return ToolError(f"{format}: the exporter stopped with {type(error).__name__}: {reason}")
    node = find_op(program, culprit)
    if node is None:
        return UnsupportedOp(culprit.replace("::", "."), "", format, reason)
    return UnsupportedOp(op_name(node), where_of(node), format, reason)


def find_op(program: ExportedProgram, name: str) -> Node | None:
    """The first call of the op, or the node, that is called `name` ("aten.median", "median"), else None.

    Exporters decompose before they refuse, so the name is looked up in the program, then in its decompositions. The
    namespace does not count: what is aten.digamma in the program may be prims.digamma to the exporter.
    """
    bare = name.replace("::", ".").rsplit(".", 1)[-1]
    for form in _forms(program):
        for node in form:
            if bare in (node.name, op_name(node).rsplit(".", 1)[-1]):
                return node
    return None


def _forms(program: ExportedProgram) -> Iterator[list[Node]]:
    """Yields the program's calls as it stands, functionalized, and in core ATen ops."""
    yield list(calls(program))
    tables: tuple[dict[Any, Any] | None, ...] = ({}, None)
    for table in tables:
        try:
            yield list(calls(program.run_decompositions(table)))
        except Exception:  # an op that cannot be decomposed; the other forms still answer
            continue


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _culprit(words: str) -> str:
    for wording in _WORDINGS:
        found = re.search(wording, words)
        if found:
            return found.group(1)
    return ""


def _one_line(error: BaseException) -> str:
    """The most telling line of an exporter's message, colour codes and advice left out."""
    links = list(_chain(error))
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(links[-1]) or str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:_REASON_CHARACTERS]
