"""The regression behind a profile: models as flat arrays over ops, and the constants that explain their latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError, ToolMissing
from compress.profile.roofline import COMPUTE_KINDS, op_work
from compress.types import OpRecord

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# What is known before any row is seen, as (kind, relative, log ratio of their rates, weight). The weights are small:
# they decide only what the rows leave open, such as a kind of op that two models have. A kernel that sees one channel
# (depthwise) or few (grouped) at a time reuses little and runs several times slower per MAC.
_TIES = (
    ("pointwise_conv", "conv", 0.0, 0.1),
    ("depthwise_conv", "conv", -1.8, 0.05),
    ("grouped_conv", "depthwise_conv", -0.3, 0.1),
    ("linear", "pointwise_conv", -0.3, 0.1),
    ("matmul", "pointwise_conv", -1.0, 0.1),
    ("attention", "matmul", 0.0, 0.1),
)
# How strongly bandwidth, overhead, invoke time and chain step are pulled to their start, in the same sense.
_PULLS = (0.1, 0.2, 0.2, 0.05)
# Beyond this log ratio of predicted to measured a model counts as an outlier and pulls linearly.
_OUTLIER = 0.15


@dataclass(frozen=True, slots=True)
class Unknowns:
    """What a unit's fit is about: how it works, and what its constants are before any row is seen.

    Kernels work in blocks of `block` channels; `parallel` units have many lanes, so the chain of MACs behind one
    output costs time; `linked_kinds` of ops run inside the kernel before them; `overlap` is the share of the shorter
    of arithmetic and memory time that hides behind the longer.
    """

    block: int
    bytes_per_value: int
    linked_kinds: tuple[str, ...] = ()
    parallel: bool = False
    overlap: float = 1.0
    overhead_ms: float = 0.005
    invoke_ms: float = 0.1
    ns_per_chain_step: float = 20.0


@dataclass(frozen=True, slots=True)
class Design:
    """Models as flat arrays over their ops: `model` and `kind` are indices, -1 for a kind without arithmetic.

    `mmacs`, `mbytes` and `msteps` are in millions, `measured` in ms: so a rate in GMACs/s or GB/s divides straight
    to ms, and ns per step multiply to ms.
    """

    model: Ints
    kind: Ints
    mmacs: Floats
    mbytes: Floats
    msteps: Floats
    measured: Floats
    kinds: tuple[str, ...]

    @classmethod
    def of(cls, models: Sequence[Sequence[OpRecord]], measured_ms: Sequence[float], unknowns: Unknowns) -> Design:
        """The design of `models` (ops each); raises DataError without models."""
        if not models:
            raise DataError("no model has both a graph and a measurement in these tables")
        free = {"reshape", *unknowns.linked_kinds}
        works = [
            (index, op_work(op, unknowns.block))
            for index, ops in enumerate(models)
            for op in ops
            if not op.fused_into and op.kind not in free
        ]
        kinds = tuple(sorted({work.key for _, work in works if work.key in COMPUTE_KINDS}))
        number = {kind: i for i, kind in enumerate(kinds)}
        size = unknowns.bytes_per_value
        return cls(
            model=np.array([index for index, _ in works]),
            kind=np.array([number.get(work.key, -1) for _, work in works]),
            mmacs=np.array([work.macs for _, work in works]) * 1e-6,
            mbytes=np.array([work.activations + work.weights for _, work in works]) * size * 1e-6,
            msteps=np.array([work.chain for _, work in works]) * 1e-6 * unknowns.parallel,
            measured=np.array(measured_ms, dtype=float),
            kinds=kinds,
        )

    def subset(self, chosen: NDArray[np.bool_]) -> Design:
        """The same design with only the chosen models (a mask over them)."""
        keep = chosen[self.model]
        renumber = np.cumsum(chosen) - 1
        return Design(renumber[self.model[keep]], self.kind[keep], self.mmacs[keep], self.mbytes[keep],
                      self.msteps[keep], self.measured[chosen], self.kinds)  # fmt: skip


def predict(design: Design, solution: Floats, overlap: float) -> Floats:
    """Latency (ms) of each model; `solution` holds the logs of the rates, bandwidth, overhead, invoke and step."""
    count = len(design.kinds)
    rates, (bandwidth, overhead, invoke, step) = np.exp(solution[:count]), np.exp(solution[count:])
    compute = np.where(design.kind >= 0, design.mmacs / rates[design.kind] + design.msteps * step, 0.0)
    memory = design.mbytes / bandwidth
    time = np.maximum(compute, memory) + (1 - overlap) * np.minimum(compute, memory) + overhead
    return np.asarray(np.bincount(design.model, time, len(design.measured)) + invoke)


def solve(design: Design, unknowns: Unknowns) -> Floats:
    """The logs of the constants that minimise the log error of each model (soft L1) and of the weak ties."""
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise ToolMissing("scipy (needed by the fit only)", "fit") from error
    start = _start(design, unknowns)
    ties = _tie_matrix(design, start)

    def residuals(solution: Floats) -> Floats:
        errors = np.log(predict(design, solution, unknowns.overlap) / design.measured)
        return np.concatenate([errors, ties @ (solution - start)])

    return np.asarray(least_squares(residuals, start, loss="soft_l1", f_scale=_OUTLIER, max_nfev=300).x)


def _start(design: Design, unknowns: Unknowns) -> Floats:
    """Where the search begins: the rate that explains the median model, ratios between kinds as tied."""
    total = np.bincount(design.model, design.mmacs, len(design.measured))
    logs = {"conv": float(np.log(np.median(total / design.measured) * 1.3))}
    for kind, relative, ratio, _ in _TIES:
        logs[kind] = logs[relative] + ratio
    rates = [logs.get(kind, logs["conv"]) for kind in design.kinds]
    others = np.log([unknowns.overhead_ms, unknowns.invoke_ms, unknowns.ns_per_chain_step])
    return np.array([*rates, logs["conv"] + np.log(0.5), *others])


def _tie_matrix(design: Design, start: Floats) -> Floats:
    """Rows of weights: each tie between two kinds, then the pull of every other constant to its start."""
    number = {kind: i for i, kind in enumerate(design.kinds)}
    rows = []
    for kind, relative, _, weight in _TIES:
        if kind in number and relative in number:
            row = np.zeros(len(start))
            row[number[kind]], row[number[relative]] = weight, -weight
            rows.append(row)
    for i, weight in enumerate(_PULLS):
        row = np.zeros(len(start))
        row[len(design.kinds) + i] = weight
        rows.append(row)
    return np.array(rows)


def constants_of(design: Design, solution: Floats, unknowns: Unknowns) -> dict[str, Any]:
    """The solution as the fields of a profile's constants."""
    count = len(design.kinds)
    bandwidth, overhead, invoke, step = (float(value) for value in np.exp(solution[count:]))
    return {
        "gmacs_per_s": {kind: float(rate) for kind, rate in zip(design.kinds, np.exp(solution[:count]), strict=True)},
        "gbytes_per_s": {"default": bandwidth},
        "overhead_ms": {"default": overhead},
        "invoke_ms": invoke,
        "ns_per_chain_step": step if unknowns.parallel else 0.0,
        "linked_kinds": unknowns.linked_kinds,
        "overlap": unknowns.overlap,
        "activation_bytes": unknowns.bytes_per_value,
        "weight_bytes": unknowns.bytes_per_value,
    }
