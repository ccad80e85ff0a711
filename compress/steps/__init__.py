"""One file per verb: what the pipeline does at that step of a recipe."""

from compress.steps import distill, export, profile, prune, quantize, rewrite, search, solver, teacher, verify
from compress.steps.outcome import Outcome, StepFunction

RUN: dict[str, StepFunction] = {
    "teacher": teacher.run,  # type: ignore[dict-item]
    "search": search.run,
    "rewrite": rewrite.run,
    "prune": prune.run,
    "distill": distill.run,
    "quantize": quantize.run,
    "solver": solver.run,
    "export": export.run,
    "verify": verify.run,
    "profile": profile.run,
}

__all__ = ["RUN", "Outcome", "StepFunction"]
