"""Planning a diffusion pipeline for a device: steps, widths, depths and schemes of all its parts under one budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import InputError
from compress.planner.parts import Part, read_parts
from compress.planner.plan import KEPT, LIMITS, Choice, Plan, best_by_steps, choices_of, choose, describe, plans_of
from compress.profile.latency import load_latency_model
from compress.targets import load_target
from compress.types import Scheme


@dataclass(frozen=True)
class Wishes:
    """What may be planned with."""

    steps: Sequence[int] = (1, 2, 4, 8, 12, 16, 20, 50)
    widths: Sequence[float] = (1.0, 0.75, 0.5)
    depths: Sequence[float] = (1.0, 0.5)
    decoder_widths: Sequence[float] = (1.0, 0.5)
    schemes: Sequence[Scheme] = ()
    guidance: bool = False
    """Classifier-free guidance: the denoiser is asked twice in every step."""
    tokens: int = 0
    keep: Sequence[str] = KEPT
    known: Mapping[tuple[str, Scheme], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """What a pipeline takes on a device, and what fits."""

    pipeline: str
    target: str
    unit: str
    runtime: str
    limits: Mapping[str, float]
    wishes: Wishes
    choices: tuple[tuple[Choice, ...], ...]
    best: tuple[Plan, ...]
    chosen: Plan
    tried: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON data."""
        return {
            "pipeline": self.pipeline,
            "target": self.target,
            "unit": self.unit,
            "runtime": self.runtime,
            "limits": dict(self.limits),
            "keep": list(self.wishes.keep),
            "guidance": self.wishes.guidance,
            "tried": self.tried,
            "parts": [
                {
                    "name": c.part.name, "kind": c.part.kind, "form": c.form.label, "scheme": c.scheme,
                    "macs": c.form.macs, "weights": c.form.weights, "latency_ms": c.latency.value,
                    "interval_ms": list(c.latency.interval or ()), "origin": c.latency.origin, "n": c.latency.n,
                    "source": c.latency.source,
                }
                for options in self.choices for c in options
            ],
            "plans": [plan.to_dict() for plan in self.best],
            "chosen": self.chosen.to_dict(),
            "notes": list(self.notes),
        }  # fmt: skip


def plan_pipeline(
    folder: str | Path, target: str, unit: str, limits: Mapping[str, float], wishes: Wishes, runtime: str = ""
) -> Planned:
    """Plans for a pipeline folder on one unit of a target.

    Args:
        limits: upper limits by name (`LIMITS`): of a picture's latency, of all weights, of the largest part's memory.

    Raises:
        InputError, DataError: the folder holds no pipeline that is known here; a known latency names no part.
        Infeasible: nothing fits.
    """
    described = load_target(target)
    having = [name for name, each in described.units.items() if each.profile]
    if not unit and len(having) == 1:
        unit = having[0]
    if not unit:
        raise InputError(f"target {described.name}: name one of its units with --unit: {', '.join(having)}")
    model = load_latency_model(described, unit, runtime)
    schemes = wishes.schemes or [scheme for scheme in described.units[unit].schemes if scheme != "w4a8"]
    parts, left_out = read_parts(folder, wishes.widths, wishes.depths, wishes.decoder_widths, wishes.tokens)
    for name, scheme in wishes.known:
        if name not in [part.name for part in parts] or scheme not in schemes:
            raise InputError(
                f"--known {name}:{scheme}: the parts are {', '.join(part.name for part in parts)}, "
                f"the schemes {', '.join(schemes)}"
            )
    options = [choices_of(part, schemes, model, wishes.known) for part in parts]
    plans = list(plans_of(options, wishes.steps, 2 if wishes.guidance else 1))
    chosen = choose(plans, limits, wishes.keep)
    notes = [*left_out, *_notes(options)]
    return Planned(
        str(folder), described.name, unit, runtime or getattr(model, "first_runtime", ""), limits, wishes,
        tuple(map(tuple, options)), tuple(best_by_steps(plans, limits, wishes.keep)), chosen, len(plans), tuple(notes),
    )  # fmt: skip


def _notes(options: Sequence[Sequence[Choice]]) -> list[str]:
    """What stands behind the figures, and what they leave out."""
    sources = sorted({c.latency.source for each in options for c in each if c.latency.origin == "predicted"})
    said = [source for source in sources if "was not measured here" in source]
    return [
        *said,
        "latencies are sums over the parts' calls: what the sampler itself and handing over take is not in them",
        "what a plan costs in quality is not known here: only training its networks tells",
    ]


__all__ = [
    "KEPT", "LIMITS", "Choice", "Part", "Plan", "Planned", "Wishes", "best_by_steps", "choices_of", "choose",
    "describe", "plan_pipeline", "plans_of", "read_parts",
]  # fmt: skip
