"""What is known of a unit's costs before any row is seen: how arithmetic, memory and launches relate to each other.

A prior is a statement "the logarithm of this cost lies `offset` above that of its relative, give or take `spread`".
It decides what the rows leave open, such as a kind of op that two models have, and how unsure that remains.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.profile.features import COSTS, LAYERS, MOVERS

Kind = Literal["cpu", "gpu", "npu"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prior:
    """`offset` is of natural logarithms, above `relative` (another cost) or, without one, of nanoseconds."""

    cost: str
    relative: str
    offset: float
    spread: float


@dataclass(frozen=True, slots=True)
class _Unit:
    """What differs between kinds of units.

    A convolution takes the `typical` quantile of ns per MAC over the models, `faster` times less; a vector op takes
    `value_ns` for each value read or written. `layers` and `extras` hold, for each cost, the logarithm of its ratio to
    that of a convolution (of nanoseconds for `steps`), and how unsure that is.
    """

    typical: float
    faster: float
    value_ns: float
    far_gbytes_per_s: float
    weight_gbytes_per_s: float
    op_ns: float
    call_ns: float
    pixel_ns: float
    layers: dict[str, tuple[float, float]]
    extras: dict[str, tuple[float, float]]


# A kernel that sees one channel (depthwise) or few (grouped) at a time reuses little of what it loads.
_UNITS: dict[Kind, _Unit] = {
    "cpu": _Unit(
        0.5, 1.3, 0.15, 10.0, 12.0, 4e3, 5e4, 0.3,
        {"pointwise_conv": (0.0, 0.3), "depthwise_conv": (1.5, 0.7), "grouped_conv": (1.5, 1.0),
         "conv_transpose": (0.0, 0.7), "conv3d": (0.5, 0.7), "linear": (0.8, 0.5), "matmul": (0.8, 0.7)},
        {"outputs": (log(12), 1.0), "gathers": (log(3), 1.0), "taps": (log(3), 1.0), "taps.average": (log(3), 1.0),
         "steps.window": (log(200.0), 0.7), "steps.pointwise": (log(100.0), 0.7),
         "macs.wide_depthwise": (0.0, 1.5), "macs.strided_depthwise": (0.0, 1.5), "macs.dilated": (-1.0, 1.5)},
    ),
    "gpu": _Unit(
        0.5, 1.3, 0.06, 20.0, 20.0, 3e4, 5e5, 0.3,
        {"pointwise_conv": (0.0, 0.3), "depthwise_conv": (1.5, 0.7), "grouped_conv": (1.2, 0.7),
         "conv_transpose": (0.3, 0.7), "conv3d": (0.5, 0.7), "linear": (0.8, 0.5), "matmul": (0.8, 0.7)},
        {"outputs": (log(12), 1.0), "gathers": (log(3), 1.0), "taps": (log(3), 1.0), "taps.average": (log(3), 1.0),
         "steps.window": (log(200.0), 0.7), "steps.pointwise": (log(100.0), 0.7),
         "macs.wide_depthwise": (0.0, 1.5), "macs.strided_depthwise": (0.0, 1.5), "macs.dilated": (-1.0, 1.5)},
    ),
    "npu": _Unit(
        0.1, 1.0, 0.0067, 50.0, 60.0, 1.5e3, 5e4, 2.0,
        {"pointwise_conv": (0.0, 0.3), "depthwise_conv": (2.0, 0.7), "grouped_conv": (1.2, 0.7),
         "conv_transpose": (0.5, 0.5), "conv3d": (0.7, 0.7), "linear": (0.0, 0.3), "matmul": (0.7, 0.5)},
        {"outputs": (-5.0, 0.5), "gathers": (-5.0, 0.5), "taps": (-5.0, 0.5), "taps.average": (8.0, 2.0),
         "steps.window": (log(200.0), 0.7), "steps.pointwise": (log(100.0), 0.7),
         "macs.wide_depthwise": (0.0, 1.0), "macs.strided_depthwise": (0.0, 1.0), "macs.dilated": (0.0, 1.5)},
    ),
}  # fmt: skip
# The log error of a prediction that no cost explains: kernels chosen by size, clocks, the repeatability of a job.
NOISE: dict[Kind, float] = {"cpu": 0.08, "gpu": 0.08, "npu": 0.2}
_MEMORY_SPREAD = 0.4
_NOT_RELATIVE = frozenset({"steps.window", "steps.pointwise"})


def priors(kind: Kind, ns_per_mac: Floats, value_bytes: float) -> tuple[Prior, ...]:
    """The priors of a unit; `ns_per_mac` is measured latency over MACs, one figure for each model."""
    unit = _UNITS[kind]
    base = float(np.log(np.quantile(ns_per_mac, unit.typical) / unit.faster))
    value = log(unit.value_ns / value_bytes)
    known = [Prior("macs.conv", "", base, 1.0 if kind != "npu" else 0.5)]
    known += [Prior(f"macs.{key}", "macs.conv", *unit.layers[key]) for key in LAYERS if key != "conv"]
    for cost, (offset, spread) in unit.extras.items():
        relative = "" if cost in _NOT_RELATIVE else "macs.conv"
        known.append(Prior(cost, relative, offset, spread))
    root = "bytes.elementwise"
    known.append(Prior(root, "", value, 1.0))
    others = [f"bytes.{key}" for key in (*LAYERS, *MOVERS) if f"bytes.{key}" != root]
    spread = _MEMORY_SPREAD if kind != "npu" else 0.7
    known += [Prior(cost, root, 0.0, spread) for cost in others]
    known += [Prior("bytes.unknown", root, log(2.0), 1.0), Prior("bytes.in", root, 0.0, 1.0)]
    known += [Prior("bytes.out", "bytes.in", 0.0, 1.0), Prior("pixels.in", "", log(unit.pixel_ns), 1.5)]
    known.append(Prior("bytes.self_gated", "bytes.transcendental", -0.5, 1.0))
    known.append(Prior("bytes.far", "", -log(unit.far_gbytes_per_s), 0.7))
    known.append(Prior("bytes.weights", "", -log(unit.weight_gbytes_per_s), 0.5))
    known += [Prior("ops.layer", "", log(unit.op_ns), 0.7), Prior("ops.other", "", log(unit.op_ns), 0.7)]
    known.append(Prior("calls", "", log(unit.call_ns), 0.7))
    return tuple(known)


def as_matrix(known: tuple[Prior, ...]) -> tuple[Floats, Floats]:
    """The priors as rows A and numbers b of |A x - b|^2, x being the logarithms of all `COSTS`."""
    place = {cost: i for i, cost in enumerate(COSTS)}
    rows, targets = np.zeros((len(known), len(COSTS))), np.zeros(len(known))
    for i, prior in enumerate(known):
        rows[i, place[prior.cost]] = 1 / prior.spread
        if prior.relative:
            rows[i, place[prior.relative]] = -1 / prior.spread
        targets[i] = prior.offset / prior.spread
    return rows, targets
