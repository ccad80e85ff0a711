"""Plans for a whole pipeline: how many steps, in which form and scheme each part, and what fits a budget.

A plan's latency is the sum over its parts, the denoiser as often as the sampler asks it. Which plan is best depends on
quality, which only training tells; until then plans are ordered by how much of the teacher they keep, in the order of
importance that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

from compress.errors import Infeasible, InputError
from compress.planner.parts import Form, Part
from compress.profile.budget import BYTES_PER_WEIGHT
from compress.types import LatencyModel, Number, Scheme

KEPT = ("network", "steps", "bits", "decoder")
"""What a plan may keep of the teacher: shares of the denoiser's MACs, of the steps, of the bits (the parts' mean), and
of the other parts' MACs."""
LIMITS = ("latency_ms", "size_bytes", "memory_bytes")
_BITS: Mapping[str, float] = {"float32": 32, "float16": 24, "w8a16": 16, "w4a8": 6, "w8a8": 8, "w4": 4}


@dataclass(frozen=True)
class Choice:
    """A part in one form and scheme; `latency` is of one call."""

    part: Part
    form: Form
    scheme: Scheme
    latency: Number
    calls: int = 1

    @property
    def latency_ms(self) -> float:
        """Of all its calls for a picture."""
        return self.calls * (self.latency.value or 0.0)

    @property
    def size_bytes(self) -> int:
        """Of its weights."""
        return round(self.form.weights * BYTES_PER_WEIGHT[self.scheme])

    @property
    def memory_bytes(self) -> int:
        """Weights, and the largest op's inputs and outputs: the least that running it takes."""
        value_bytes = {"float32": 4, "w8a8": 1}.get(self.scheme, 2)
        return self.size_bytes + value_bytes * self.form.largest_values

    def figures(self) -> dict[str, float]:
        """What this part alone takes of each limit."""
        return {"latency_ms": self.latency_ms, "size_bytes": self.size_bytes, "memory_bytes": self.memory_bytes}


@dataclass(frozen=True)
class Plan:
    """Steps, and a choice for every part."""

    steps: int
    choices: tuple[Choice, ...]

    @property
    def latency(self) -> Number:
        """Of one picture; the interval's ends are the sums of the parts', as if all were wrong the same way."""
        values = [choice.latency_ms for choice in self.choices]
        ends = [choice.latency.interval or (choice.latency.value or 0.0,) * 2 for choice in self.choices]
        low, high = (sum(c.calls * end[i] for c, end in zip(self.choices, ends, strict=True)) for i in (0, 1))
        origins = {choice.latency.origin for choice in self.choices}
        origin = "predicted" if "predicted" in origins else min(origins)
        return Number(sum(values), "ms", origin, interval=(low, high), source="the sum over the parts' calls")

    @property
    def size_bytes(self) -> int:
        """Of all weights."""
        return sum(choice.size_bytes for choice in self.choices)

    @property
    def memory_bytes(self) -> int:
        """At the largest part: parts are loaded one after another."""
        return max(choice.memory_bytes for choice in self.choices)

    def figures(self) -> dict[str, float]:
        """What a budget may limit."""
        return {
            "latency_ms": self.latency.value or 0.0, "size_bytes": self.size_bytes, "memory_bytes": self.memory_bytes,
        }  # fmt: skip

    def kept(self, most_steps: int) -> dict[str, float]:
        """The shares of the teacher that it keeps, by `KEPT`."""
        inner = [choice for choice in self.choices if choice.part.every_step]
        outer = [choice for choice in self.choices if not choice.part.every_step]
        return {
            "network": prod(c.form.macs / max(1, c.part.whole.macs) for c in inner),
            "steps": self.steps / most_steps,
            "bits": sum(_BITS.get(choice.scheme, 8) for choice in self.choices) / 32 / len(self.choices),
            "decoder": prod(c.form.macs / max(1, c.part.whole.macs) for c in outer),
        }

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON data."""
        return {
            "steps": self.steps,
            "latency_ms": self.latency.value,
            "interval_ms": list(self.latency.interval or ()),
            "origin": self.latency.origin,
            "size_bytes": self.size_bytes,
            "memory_bytes": self.memory_bytes,
            "parts": [
                {
                    "name": c.part.name, "form": c.form.label, "width": c.form.width, "depth": c.form.depth,
                    "scheme": c.scheme, "calls": c.calls, "latency_ms_per_call": c.latency.value,
                    "interval_ms_per_call": list(c.latency.interval or ()), "origin": c.latency.origin,
                    "macs_per_call": c.form.macs, "size_bytes": c.size_bytes,
                }
                for c in self.choices
            ],
        }  # fmt: skip


def choices_of(
    part: Part, schemes: Sequence[Scheme], model: LatencyModel, known: Mapping[tuple[str, Scheme], float] | None = None
) -> list[Choice]:
    """A part in every form and scheme.

    Args:
        known: measured latencies in ms of whole parts by (part, scheme). Where a part has one, all its forms at that
            scheme are predicted as their share of it: an error in the whole's prediction is taken to be theirs too.
    """
    found = []
    for scheme in schemes:
        predicted = [model.predict(form.ops, scheme).latency for form in part.forms]
        measured = (known or {}).get((part.name, scheme))
        for form, latency in zip(part.forms, predicted, strict=True):
            if measured is not None:
                latency = _corrected(latency, measured / (predicted[0].value or measured), form is part.whole)
            found.append(Choice(part, form, scheme, latency))
    return found


def _corrected(latency: Number, factor: float, is_whole: bool) -> Number:
    """A prediction times what the measurement of the whole part says it is wrong by."""
    value = (latency.value or 0.0) * factor
    if is_whole:
        return Number(value, "ms", "measured", n=1, interval=(value, value), source="given by --known")
    low, high = latency.interval or (value, value)
    return replace(latency, value=value, interval=(low * factor, high * factor), source=f"{latency.source}, corrected")


def plans_of(options: Sequence[Sequence[Choice]], steps: Sequence[int], calls_per_step: int = 1) -> Iterator[Plan]:
    """Every plan: each number of steps with each choice of every part."""
    for count in steps:
        for chosen in product(*options):
            yield Plan(
                count,
                tuple(replace(c, calls=count * calls_per_step) if c.part.every_step else c for c in chosen),
            )


def choose(plans: Sequence[Plan], limits: Mapping[str, float], keep: Sequence[str] = KEPT) -> Plan:
    """Of the plans inside the limits the one that keeps most, compared in the order of `keep`; then the fastest.

    Raises:
        InputError: `keep` or `limits` name something unknown.
        Infeasible: none is inside; names the part that is too large by itself, or the closest plan.
    """
    for name, given, known in (("--keep", keep, KEPT), ("limit", [*limits], LIMITS)):
        wrong = [each for each in given if each not in known]
        if wrong:
            raise InputError(f"{name}: '{wrong[0]}' is unknown; known: {', '.join(known)}")
    inside = [plan for plan in plans if all(plan.figures()[name] <= limit for name, limit in limits.items())]
    if not inside:
        raise _infeasible(plans, limits)
    most = max(plan.steps for plan in plans)
    return max(inside, key=lambda plan: (*_order(plan, most, keep), -plan.figures()["latency_ms"]))


def best_by_steps(plans: Sequence[Plan], limits: Mapping[str, float], keep: Sequence[str] = KEPT) -> list[Plan]:
    """For every number of steps the plan that keeps most inside the limits, where there is one; most steps last."""
    counts = sorted({plan.steps for plan in plans})
    found = []
    for count in counts:
        try:
            found.append(choose([plan for plan in plans if plan.steps == count], limits, keep))
        except Infeasible:
            continue
    return found


def _order(plan: Plan, most_steps: int, keep: Sequence[str]) -> tuple[float, ...]:
    kept = plan.kept(most_steps)
    return tuple(kept[name] for name in (*keep, *(name for name in KEPT if name not in keep)))


def _infeasible(plans: Sequence[Plan], limits: Mapping[str, float]) -> Infeasible:
    """What stands in the way of every plan: one part by itself, or their sum."""
    closest = min(plans, key=lambda plan: sum(max(0.0, plan.figures()[n] / v - 1) for n, v in limits.items()))
    for name, limit in limits.items():
        for choice in _smallest(plans, name):
            if choice.figures()[name] > limit:
                return Infeasible(
                    f"{choice.part.name} alone takes {name} {choice.figures()[name]:.4g} in its smallest form "
                    f"({choice.form.label}, {choice.scheme}), and the limit is {limit:.4g}",
                    closest.to_dict(), name,
                )  # fmt: skip
    broken = {name: value for name, value in closest.figures().items() if name in limits and value > limits[name]}
    said = ", ".join(f"{name} {value:.4g} (limit {limits[name]:.4g})" for name, value in broken.items())
    message = f"no plan is inside the budget; the closest ({describe(closest)}) has {said}"
    return Infeasible(message, closest.to_dict(), next(iter(broken), ""))


def _smallest(plans: Sequence[Plan], name: str) -> list[Choice]:
    """Of every part the choice that takes least of a limit."""
    found: dict[str, Choice] = {}
    for choice in (choice for plan in plans for choice in plan.choices):
        best = found.get(choice.part.name)
        if best is None or choice.figures()[name] < best.figures()[name]:
            found[choice.part.name] = choice
    return list(found.values())


def describe(plan: Plan) -> str:
    """A plan in one line."""
    parts = [f"{c.part.name} {c.form.label} {c.scheme}" for c in plan.choices]
    return f"{plan.steps} {'step' if plan.steps == 1 else 'steps'}, {', '.join(parts)}"
