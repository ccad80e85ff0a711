"""Compress a trained PyTorch model into verified files for a phone, inside a budget.

    from compress import compress

    run = compress(model, task, target="host", budget={"latency_ms": 2.0, "size_bytes": 60_000})
    print(run.folder, run.exit_code)

The names below load on first use, so that importing the package imports neither torch nor anything heavy.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.version import __version__

if TYPE_CHECKING:
    from compress.errors import CheckFailed, CompressError, Infeasible, InputError, ToolMissing, UnsupportedOp
    from compress.pipeline import RunResult, run
    from compress.recipe import Recipe, load_recipe
    from compress.tasks import Classification, Task
    from compress.types import Number

__all__ = [
    "CheckFailed",
    "Classification",
    "CompressError",
    "Infeasible",
    "InputError",
    "Number",
    "Recipe",
    "RunResult",
    "Task",
    "ToolMissing",
    "UnsupportedOp",
    "__version__",
    "compress",
    "load_recipe",
    "run",
]

_HOMES = {
    "CheckFailed": "compress.errors",
    "Classification": "compress.tasks",
    "CompressError": "compress.errors",
    "Infeasible": "compress.errors",
    "InputError": "compress.errors",
    "Number": "compress.types",
    "Recipe": "compress.recipe",
    "RunResult": "compress.pipeline",
    "Task": "compress.tasks",
    "ToolMissing": "compress.errors",
    "UnsupportedOp": "compress.errors",
    "load_recipe": "compress.recipe",
    "run": "compress.pipeline",
}


def compress(
    model: Any,
    task: Any,
    target: str = "host",
    unit: str = "cpu",
    budget: Mapping[str, float] | None = None,
    steps: Sequence[Mapping[str, Any] | str] | None = None,
    out: str | Path = "runs/compress",
    seed: int = 0,
    **more: Any,
) -> RunResult:
    """The finished run of a model inside a budget: the same pipeline as `compress run`, for a notebook.

    Args:
        model: the teacher, a `torch.nn.Module` in any mode; it is not changed.
        task: a `compress.Task`: its data, loss, quality and samples.
        target: a name from `compress targets`, or the path of a target file.
        unit: one of the target's compute units.
        budget: the recipe's limits, such as `{"latency_ms": 2.0, "size_bytes": 60_000}`; any may be absent.
        steps: as in a recipe, such as `[{"prune": {"ratio": "auto"}}, "export"]`; None takes the usual ones.
        out: the run folder; the same call again continues what lies there.
        seed: of everything random.
        more: further recipe keys, such as `name` or `train`.

    Raises:
        CompressError: the one of `compress.errors` that says what is wrong.
    """
    from compress.pipeline import compress_objects

    return compress_objects(
        model=model, task=task, target=target, unit=unit, budget=budget, steps=steps, out=Path(out), seed=seed, **more
    )


def __getattr__(name: str) -> Any:
    """A name of the face, loaded from its room on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'compress' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The face's names, loaded or not."""
    return sorted({*globals(), *__all__})
