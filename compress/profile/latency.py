"""Latency from a model's ops: the amounts each op asks of a unit, times what the unit takes for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, lcm, log2, sqrt

from compress.errors import RecipeError, UnknownName
from compress.profile.constants import MOST_LOWERED, Costs, Profile, read_profile
from compress.profile.features import amounts, around
from compress.resources import data_folder
from compress.targets import Target
from compress.types import Bound, LatencyModel, LatencyPrediction, Number, OpCost, OpRecord, Scheme

# Outside the span of the fit, the interval (its logarithm) grows by this share per halving or doubling of MACs.
_WIDER_PER_OCTAVE = 0.25
# An uncovered op may cost several times what is charged: the upper end grows by this many times its share.
_UNCOVERED_UPPER = 4.0
_UNCOVERED_WIDER = 1.25
# What a scheme that was never measured is predicted as: weights that are made float again compute as float32 does,
# 4-bit weights between 8-bit values as 8-bit ones. 16-bit values have no XNNPACK kernel and are nowhere near 8-bit
# speed, so float32 is the safer guess. The source of a prediction says what was done.
STAND_INS: dict[Scheme, Scheme] = {
    "float16": "float32",
    "w8a16": "float32",
    "w4a8": "w8a8",
    "w4": "float32",
    "palette4": "float32",
    "palette6": "float32",
}
# How others call the runtimes of this project's formats.
ALIASES = {"tflite": "litert", "qnn": "qnn_dlc", "ort": "onnx", "onnxruntime": "onnx"}


# A search changes few ops of a model at a time: what the others ask for is known. Nobody may change what this returns.
_amounts = lru_cache(maxsize=1 << 16)(amounts)


@dataclass(slots=True)
class UnitLatency:
    """The latency model of one compute unit and runtime, from its profile. Pure Python, about 10 us per op.

    `channel_multiple` is what the target asks widths to be a multiple of, for all its schemes; `blocks` are the
    channels that count as one at each scheme: that multiple and the block of the profile's own kernels.
    """

    name: str
    channel_multiple: int
    blocks: dict[Scheme, int]
    profile: Profile
    runtime: str = ""

    @property
    def first_runtime(self) -> str:
        """The runtime that is predicted for."""
        return self.runtime or next(iter(self.profile.runtimes))

    def predict(self, ops: Sequence[OpRecord], scheme: Scheme) -> LatencyPrediction:
        """The predicted latency (ms, with its 90 % interval) of a model made of `ops` at `scheme`.

        Raises:
            UnknownName: the unit was never fitted at this scheme, nor at the one that stands in for it.
        """
        known = self._known(scheme)
        costs = self.profile.schemes(self.runtime)[known]
        asked = [_amounts(op, costs.layout) for op in ops]
        call = around(ops, costs.layout)
        unsure = _variance([*asked, call], costs)
        # A figure that rests on unsure costs is lower than their sum: see `Spread`.
        felt = {name: ns * 1e-6 * exp(-min(unsure, MOST_LOWERED)) for name, ns in costs.ns_per.items()}
        by_op: list[OpCost] = []
        uncovered: list[str] = []
        unsure_ms = 0.0
        for op, wanted in zip(ops, asked, strict=True):
            cost, covered = _charge(op, wanted, felt, costs.seen)
            by_op.append(cost)
            if not covered:
                uncovered.append(op.name)
                unsure_ms += cost.latency_ms
        for name, amount in call.items():
            if amount * felt[name] > 0:
                by_op.append(OpCost(f"({name.replace('.', ' ')})", "other", "", amount * felt[name], "overhead"))
        total_ms = sum([cost.latency_ms for cost in by_op])
        wider = 1.0 + _WIDER_PER_OCTAVE * _octaves_outside(sum([op.macs or 0 for op in ops]), costs.macs_range)
        wider *= _UNCOVERED_WIDER if uncovered else 1.0
        low, high = _interval(unsure, costs)
        interval = (total_ms * low**wider, total_ms * high**wider + _UNCOVERED_UPPER * unsure_ms)
        latency = Number(total_ms, "ms", "predicted", costs.n, interval, self._source(costs, scheme, known))
        return LatencyPrediction(latency, tuple(by_op), tuple(uncovered))

    def _known(self, scheme: Scheme) -> Scheme:
        """The scheme to predict by: the one asked for, or what stands in for it; raises UnknownName."""
        schemes = self.profile.schemes(self.runtime)
        known = scheme if scheme in schemes else STAND_INS.get(scheme, scheme)
        if known not in schemes:
            raise UnknownName(f"scheme of {self.name}", scheme, schemes)
        return known

    def _source(self, costs: Costs, scheme: Scheme, known: Scheme) -> str:
        """One line on what stands behind a prediction."""
        if known != scheme:
            return f"{scheme} was not measured here and is predicted as {known}; {self._source(costs, known, known)}"
        return (
            f"{self.name}: op costs for {self.profile.versions[self.first_runtime]}, {self.profile.setting}; fitted on "
            f"{costs.n} models, {costs.held_out.mape:.0%} mean error on held-out {costs.held_out.split}"
        )


def load_latency_model(target: Target, unit: str, runtime: str = "") -> LatencyModel:
    """The latency model of one compute unit of `target`, from its file in `profiles/`.

    `runtime` names one of the profile's ("" for its first); other names of the same one are understood. A target that
    was read from a file of the user's own may have its profile beside it.

    Raises:
        UnknownName: the target has no such unit, or the profile no such runtime.
        RecipeError: the unit has no profile, or the profile is missing or wrong.
    """
    described = target.unit(unit)
    if not described.profile:
        having = [name for name, other in target.units.items() if other.profile]
        raise RecipeError(f"target {target.name}: unit '{unit}' has no latency profile; units that have: {having}")
    beside = target.folder / described.profile if target.folder else None
    shipped = data_folder("profiles") / described.profile
    profile = read_profile(beside if beside is not None and beside.is_file() else shipped)
    runtime = ALIASES.get(runtime, runtime)
    if runtime and runtime not in profile.runtimes:
        raise UnknownName(f"runtime of {target.name} {unit}", runtime, profile.runtimes)
    multiples = {scheme: described.multiple_for(scheme) for scheme in described.schemes}
    blocks = {
        scheme: lcm(multiples.get(scheme, 1), costs.layout.channels)
        for scheme, costs in profile.schemes(runtime).items()
    }
    return UnitLatency(f"{target.name} {unit}", lcm(*multiples.values()), blocks, profile, runtime)


def _variance(asked: Sequence[Mapping[str, float]], costs: Costs) -> float:
    """How unsure the costs make the sum of what is asked for: the variance of its logarithm."""
    spent: dict[str, float] = {}
    for amounts_of_one in asked:
        for name, amount in amounts_of_one.items():
            spent[name] = spent.get(name, 0.0) + amount * costs.ns_per[name]
    total = sum(spent.values())
    if total <= 0:
        return 0.0
    variance = 0.0
    for direction in costs.spread.directions:
        variance += sum([time / total * direction[name] for name, time in spent.items() if name in direction]) ** 2
    return variance


def _charge(
    op: OpRecord, asked: Mapping[str, float], felt: Mapping[str, float], seen: Mapping[str, int]
) -> tuple[OpCost, bool]:
    """What one op takes, and whether the fit has seen all it asks for."""
    if not asked:
        return OpCost(op.name, op.kind, op.where, 0.0, "overhead"), True
    # Another op of no known kind says nothing about this one.
    covered = op.macs is not None and "bytes.unknown" not in asked
    compute = memory = overhead = 0.0
    for name, amount in asked.items():
        time_ms = amount * felt[name]
        covered = covered and seen.get(name, 0) > 0
        if name.startswith("bytes."):
            memory += time_ms
        elif name.startswith("ops."):
            overhead += time_ms
        else:
            compute += time_ms
    bound: Bound = "overhead" if overhead > max(compute, memory) else "compute" if compute >= memory else "memory"
    return OpCost(op.name, op.kind, op.where, compute + memory + overhead, bound if covered else "unknown"), covered


def _interval(unsure: float, costs: Costs) -> tuple[float, float]:
    """The two factors of the 90 % interval of a latency whose costs have this variance."""
    deviation = sqrt(costs.spread.noise**2 + unsure)
    return exp(-costs.spread.low * deviation), exp(costs.spread.high * deviation)


def _octaves_outside(macs: int, macs_range: tuple[float, float]) -> float:
    """How many halvings or doublings `macs` lies outside the range; 0 inside. Models below 1 kMAC count as 1 kMAC."""
    low, high = macs_range
    macs = max(macs, 1000)
    if low > 0 and macs < low:
        return log2(low / macs)
    return log2(macs / high) if high > 0 and macs > high else 0.0
