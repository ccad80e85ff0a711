"""The error family: every refusal this toolchain makes, with the exit code the command line gives it.

    CompressError                     1
    ├── CheckFailed                   1   a verification, a training or a run-time check said no
    │   └── TrainingDiverged          1   a loss became NaN or infinite
    ├── InputError                    2   what the user handed over cannot be used
    │   ├── RecipeError               2   a key, a value or an order of steps
    │   ├── UnknownName               2   a name that is not in a table (carries the nearest legal ones)
    │   ├── ModelError                2   a model that cannot be loaded, traced or edited
    │   │   └── WeightsError          2   weights that do not fit, are not finite, or are not plain tensors
    │   ├── DataError                 2   data that yields nothing, or the wrong shape
    │   └── RunFolderError            2   an output folder that is read-only, full, in use or of another recipe
    ├── Infeasible                    3   no plan meets the budget (carries the closest one and what limits it)
    └── ToolError                     4
        ├── ToolMissing               4   an optional tool is not installed (carries the pip line)
        ├── UnsupportedOp             4   a format cannot take an op (carries op, place and format)
        └── DeviceLost                4   a phone that was being measured is gone; what was measured is kept

Each message is one line that names the key or file at fault and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class CompressError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns for it."""

    exit_code = 1


class CheckFailed(CompressError):
    """A check on the result failed: the artifact, the sliced model or the training is not what it should be."""


class TrainingDiverged(CheckFailed):
    """A loss became NaN or infinite; the message carries the step and the last good checkpoint."""


class InputError(CompressError):
    """What the user handed over cannot be used."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe key, value or order of steps is wrong."""


class UnknownName(InputError):
    """A name that is in no table."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
        super().__init__(f"unknown {kind} '{name}'; {hint}")
        self.kind, self.name, self.nearest = kind, name, near


class ModelError(InputError):
    """A model that cannot be loaded, traced or edited."""


class WeightsError(ModelError):
    """Weights that do not fit the model, are not finite, or are not plain tensors."""


class DataError(InputError):
    """Data that yields nothing, or the wrong shape."""


class RunFolderError(InputError):
    """An output folder that is read-only, full, in use, or belongs to another recipe."""


class Infeasible(CompressError):
    """No plan meets the budget; `closest` is the best plan found (as data), `limit` names what is in the way."""

    exit_code = 3

    def __init__(self, message: str, closest: dict[str, Any] | None = None, limit: str = "") -> None:
        super().__init__(message)
        self.closest = closest or {}
        self.limit = limit


class ToolError(CompressError):
    """A tool this step needs is missing or refuses the model."""

    exit_code = 4


class ToolMissing(ToolError):
    """An optional tool is not installed."""

    def __init__(self, tool: str, extra: str, reason: str = "is not installed") -> None:
        super().__init__(f"{tool} {reason}: pip install -e '.[{extra}]' in the checkout brings it")
        self.tool, self.extra = tool, extra


class UnsupportedOp(ToolError):
    """A format cannot take an op: which op, where in the model it stands, and the format."""

    def __init__(self, op: str, where: str, format: str, reason: str = "") -> None:
        detail = f" ({reason})" if reason else ""
        super().__init__(f"{format} cannot take the op {op} at {where or 'an unnamed place'}{detail}")
        self.op, self.where, self.format = op, where, format


class DeviceLost(ToolError):
    """A device that answered before does not any more; nothing more can be measured on it."""
