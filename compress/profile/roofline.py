"""Latency from a model's ops: each op is bound by arithmetic or by memory, and costs something to start.

An op takes max(compute, memory) + overhead (roofline: Williams, Waterman & Patterson 2009), with one arithmetic rate
per kind of op; where a unit cannot hide memory time behind arithmetic, the shorter of the two counts as well, by the
share `1 - overlap`. A unit of many lanes computes all outputs at once but each output one step after another: such
a unit also takes some time per step of that chain. Kernels work in blocks of channels, so widths count as the next
full block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm, log2, prod
from typing import Literal, NamedTuple

from compress.errors import RecipeError, UnknownName
from compress.profile.constants import Profile, SchemeConstants, read_profile
from compress.resources import data_folder
from compress.targets import Target
from compress.types import LatencyModel, LatencyPrediction, Number, OpCost, OpRecord, Scheme

# A kind the fit never saw borrows the arithmetic rate of its nearest relative, and is reported as uncovered.
_RELATIVES = {
    "pointwise_conv": "conv",
    "conv3d": "conv",
    "grouped_conv": "depthwise_conv",
    "conv_transpose": "conv",
    "linear": "pointwise_conv",
    "matmul": "linear",
    "attention": "matmul",
}
COMPUTE_KINDS = frozenset({"conv", "depthwise_conv", *_RELATIVES})
MEMORY_KINDS = frozenset({"norm", "activation", "elementwise", "pool", "resize", "concat", "pad"})

# Outside the span of the fit, the interval (its logarithm) grows by this share per halving or doubling of MACs.
_WIDER_PER_OCTAVE = 0.25
# An uncovered op may cost several times its memory time: the upper end grows by this many times its share.
_UNCOVERED_UPPER = 4.0
_UNCOVERED_WIDER = 1.25

Bound = Literal["compute", "memory", "overhead", "unknown"]


class OpWork(NamedTuple):
    """What one op asks of a unit once its widths are full blocks: `key` picks the constants.

    `chain` counts the MACs behind one output value; they run one after another.
    """

    key: str
    macs: float
    chain: float
    activations: float
    weights: float
    known: bool


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


@dataclass(slots=True)
class Roofline:
    """The latency model of one compute unit, from its profile. Predicts in pure Python, about 5 us per op.

    `channel_multiple` is what the target asks widths to be a multiple of, for all its schemes; `blocks` are the
    channels that count as one at each scheme: that multiple and the profile's own block.
    """

    name: str
    channel_multiple: int
    blocks: dict[Scheme, int]
    profile: Profile

    def predict(self, ops: Sequence[OpRecord], scheme: Scheme) -> LatencyPrediction:
        """The predicted latency (ms, with its 90 % interval) of a model made of `ops` at `scheme`.

        Raises:
            UnknownName: the unit was never fitted at this scheme, nor at the one that stands in for it.
        """
        known = self._known(scheme)
        constants, block = self.profile.schemes[known], self.blocks.get(known, 1)
        costs: list[OpCost] = []
        uncovered: list[str] = []
        unsure_ms = 0.0
        for op in ops:
            if op.fused_into or op.kind == "reshape" or op.kind in constants.linked_kinds:
                costs.append(OpCost(op.name, op.kind, op.where, 0.0, "overhead"))
                continue
            work = op_work(op, block)
            latency_ms, bound, covered = _op_time(work, constants)
            if not covered:
                uncovered.append(op.name)
                unsure_ms += latency_ms
            costs.append(OpCost(op.name, op.kind, op.where, latency_ms, bound))
        if constants.invoke_ms > 0:
            costs.append(OpCost("(invoke)", "other", "", constants.invoke_ms, "overhead"))
        total_ms = sum(cost.latency_ms for cost in costs)
        total_macs = sum(op.macs or 0 for op in ops)
        interval = _interval(total_ms, total_macs, unsure_ms, bool(uncovered), constants)
        latency = Number(total_ms, "ms", "predicted", constants.n, interval, self._source(constants, scheme, known))
        return LatencyPrediction(latency, tuple(costs), tuple(uncovered))

    def _known(self, scheme: Scheme) -> Scheme:
        """The scheme to predict by: the one asked for, or what stands in for it; raises UnknownName."""
        known = scheme if scheme in self.profile.schemes else STAND_INS.get(scheme, scheme)
        if known not in self.profile.schemes:
            raise UnknownName(f"scheme of {self.name}", scheme, self.profile.schemes)
        return known

    def _source(self, constants: SchemeConstants, scheme: Scheme, known: Scheme) -> str:
        """One line on what stands behind a prediction."""
        if known != scheme:
            return (
                f"{scheme} was not measured here and is predicted as {known}; {self._source(constants, known, known)}"
            )
        held_out = constants.held_out
        return (
            f"{self.name}: roofline for {self.profile.runtime}, {self.profile.setting}; fitted on {constants.n} "
            f"models, {held_out.mape:.0%} mean error on held-out {held_out.split}"
        )


def load_latency_model(target: Target, unit: str) -> LatencyModel:
    """The latency model of one compute unit of `target`, from its file in `profiles/`.

    Raises:
        UnknownName: the target has no such unit.
        RecipeError: the unit has no profile, or the profile is missing or wrong.
    """
    described = target.unit(unit)
    if not described.profile:
        having = [name for name, other in target.units.items() if other.profile]
        raise RecipeError(f"target {target.name}: unit '{unit}' has no latency profile; units that have: {having}")
    profile = read_profile(data_folder("profiles") / described.profile)
    multiples = {scheme: described.multiple_for(scheme) for scheme in described.schemes}
    blocks = {scheme: lcm(multiple, profile.channel_block.get(scheme, 1)) for scheme, multiple in multiples.items()}
    return Roofline(f"{target.name} {unit}", lcm(*multiples.values()), blocks, profile)


def padded(channels: int, block: int) -> int:
    """`channels` rounded up to the next full block."""
    return -(-channels // block) * block


def op_work(op: OpRecord, block: int) -> OpWork:
    """What `op` asks of a unit whose kernels work in blocks of `block` channels.

    MACs, activations and weights are those of the op at its padded widths, so a ragged width never costs less
    than the full block, and more channels never cost less.
    """
    fan_in, fan_out = op.channels
    inputs = sum([prod(shape) for shape in op.input_shapes])
    output, macs = prod(op.output_shape), op.macs or 0
    known = op.macs is not None
    if fan_in > 0 and fan_out > 0:
        groups = 1 if op.kind == "depthwise_conv" else max(op.groups, 1)
        full_in = padded(-(-fan_in // groups), block) * groups
        full_out = padded(-(-fan_out // groups), block) * groups
        grown, of = (full_out, fan_out) if op.kind == "depthwise_conv" else (full_in * full_out, fan_in * fan_out)
        # One division of whole numbers each: equal work gives equal floats, so that no width beats another by 1e-16.
        activations = inputs * full_in / fan_in + output * full_out / fan_out
        chain = macs * grown * fan_out / (max(output, 1) * of * full_out)
        return OpWork(_key(op), macs * grown / of, chain, activations, op.weight_count * grown / of, known)
    width = _width(op.output_shape) if op.output_shape else 0
    activations = (inputs + output) * padded(width, block) / width if width else float(inputs + output)
    return OpWork(_key(op), macs, macs / max(output, 1), activations, op.weight_count, known)


def _width(shape: tuple[int, ...]) -> int:
    """The channel axis of an activation: the second of an image (NCHW), else the last."""
    return shape[1] if len(shape) >= 4 else shape[-1]


def _key(op: OpRecord) -> str:
    """The entry of the constants' tables for `op`: its kind, convolutions with a 1x1 or a 3-D kernel apart."""
    if len(op.kernel) > 2:
        return "conv3d"
    return "pointwise_conv" if op.kind == "conv" and op.kernel and max(op.kernel) == 1 else op.kind


def _op_time(work: OpWork, constants: SchemeConstants) -> tuple[float, Bound, bool]:
    """The time of one op (ms), what bounds it, and whether the constants cover it."""
    key = work.key
    bytes_moved = work.activations * constants.activation_bytes + work.weights * constants.weight_bytes
    rates = constants.gbytes_per_s
    memory_ms = bytes_moved / (rates.get(key) or rates["default"]) * 1e-6
    overhead_ms = constants.overhead_ms.get(key, constants.overhead_ms["default"])
    if not work.known or key not in COMPUTE_KINDS:
        covered = work.known and key in MEMORY_KINDS
        bound: Bound = "memory" if memory_ms > overhead_ms else "overhead"
        return memory_ms + overhead_ms, bound if covered else "unknown", covered
    rate = _rate(key, constants)
    compute_ms = (work.macs / rate if rate else 0.0) * 1e-6 + work.chain * constants.ns_per_chain_step * 1e-6
    slowest = max(compute_ms, memory_ms) + (1.0 - constants.overlap) * min(compute_ms, memory_ms)
    bound = "overhead" if overhead_ms > slowest else "compute" if compute_ms >= memory_ms else "memory"
    return slowest + overhead_ms, bound, key in constants.gmacs_per_s


def _rate(key: str, constants: SchemeConstants) -> float | None:
    """The arithmetic rate (GMACs/s) of `key`, or of its nearest fitted relative; None where there is none."""
    rates = constants.gmacs_per_s
    while key not in rates and key in _RELATIVES:
        key = _RELATIVES[key]
    return rates.get(key)


def _interval(
    total_ms: float, macs: int, unsure_ms: float, uncovered: bool, constants: SchemeConstants
) -> tuple[float, float]:
    """The 90 % interval (ms) around `total_ms`: that of the fit, wider outside its range and for uncovered ops."""
    low, high = constants.interval
    wider = 1.0 + _WIDER_PER_OCTAVE * _octaves_outside(macs, constants.macs_range)
    if uncovered:
        wider *= _UNCOVERED_WIDER
    upper = total_ms * high**wider + _UNCOVERED_UPPER * unsure_ms
    return total_ms * low**wider, upper


def _octaves_outside(macs: int, macs_range: tuple[float, float]) -> float:
    """How many halvings or doublings `macs` lies outside the range; 0 inside. Models below 1 kMAC count as 1 kMAC."""
    low, high = macs_range
    macs = max(macs, 1000)
    if low > 0 and macs < low:
        return log2(low / macs)
    return log2(macs / high) if high > 0 and macs > high else 0.0
