"""What a step leaves behind: its plan, its figures before and after, its curves, and the student as it is now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import fx

from compress.checkpoint import Student
from compress.graph.cost import cost_of
from compress.job import Job
from compress.types import Number, Scheme

Figures = dict[str, Number]


@dataclass
class Outcome:
    """The result of one step. `student` is set where the step changed it; `extra` is the verb's own record.

    `files` are files that later steps need beside the student's weights; a damaged one makes the step run again.
    """

    summary: str
    before: Figures = field(default_factory=dict)
    after: Figures = field(default_factory=dict)
    plan: Mapping[str, Any] | None = None
    table: list[Any] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    student: Student | None = None
    files: list[Path] = field(default_factory=list)
    failed: str = ""
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The outcome as plain JSON data (the student lies in its own files)."""
        return {
            "summary": self.summary,
            "before": {name: number.to_dict() for name, number in self.before.items()},
            "after": {name: number.to_dict() for name, number in self.after.items()},
            "table": self.table,
            "history": self.history,
            "warnings": self.warnings,
            "extra": self.extra,
            "failed": self.failed,
            "exit_code": self.exit_code,
        }


StepFunction = Callable[["Job", int, Any, Path, Student], Outcome]


def model_figures(job: Job, model: fx.GraphModule, scheme: Scheme, limit: int | None = None) -> Figures:
    """Quality (validation split), parameters, MACs, expected file size and predicted latency of a float model.

    Steps are compared on the validation split; the test split is looked at once, at the end.
    """
    cost = cost_of(model, job.example_inputs)
    costing = job.cost_model(scheme)
    figures = costing.figures(cost.ops)
    return {
        "quality": job.quality(model, "validation", limit),
        "params": Number(cost.params, "parameters", "counted"),
        "macs": Number(cost.macs, "MACs", "counted"),
        "size_bytes": Number(figures["size_bytes"], "bytes", "predicted", source=f"largest {scheme} artifact"),
        "latency": costing.latency_of(cost.ops),
    }
