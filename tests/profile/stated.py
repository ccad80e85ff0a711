"""Ops made by hand and a latency model of stated costs, so that predictions are testable to the digit."""

from __future__ import annotations

from math import log

from compress.profile.constants import Costs, HeldOut, Profile, Spread
from compress.profile.features import COSTS, LAYERS, MOVERS, Layout
from compress.profile.latency import UnitLatency
from compress.types import LatencyModel, OpRecord, Scheme

# What is not stated costs nothing: extras that some ops ask for on top, values in and out, costs yet to come.
_STATED = {
    **{f"macs.{key}": 1.0 for key in LAYERS}, **{f"bytes.{key}": 1.0 for key in (*LAYERS, *MOVERS)},
    "macs.depthwise_conv": 2.0, "bytes.unknown": 1.0, "bytes.weights": 1.0,
    "ops.layer": 1000.0, "ops.other": 500.0, "calls": 10_000.0,
}  # fmt: skip
NS_PER = {cost: _STATED.get(cost, 0.0) for cost in COSTS}
UNSEEN = frozenset({"macs.linear", "bytes.unknown", "bytes.gather"})
BLOCKS_OF_4 = Layout(channels=4, window_channels=0)


def conv(
    fan_in: int, fan_out: int, size: int = 8, kernel: int = 3, groups: int = 1, name: str = "c", stride: int = 1
) -> OpRecord:
    weights = fan_in // groups * fan_out * kernel**2
    kind = "conv" if groups == 1 else "depthwise_conv" if groups == fan_in else "grouped_conv"
    shape = (1, fan_in, size * stride, size * stride)
    return OpRecord(name, "conv", kind, name, weights * size**2, weights, (shape,), (1, fan_out, size, size),
                    (fan_in, fan_out), (kernel, kernel), (stride, stride), groups)  # fmt: skip


def linear(fan_in: int, fan_out: int, tokens: int = 1) -> OpRecord:
    weights = fan_in * fan_out
    return OpRecord("l", "linear", "linear", "l", weights * tokens, weights, ((tokens, fan_in),), (tokens, fan_out),
                    (fan_in, fan_out))  # fmt: skip


def attention(heads: int, tokens: int, features: int) -> OpRecord:
    shape = (1, heads, tokens, features)
    macs = 2 * heads * tokens**2 * features
    return OpRecord("a", "attention", "attention", "a", macs, 0, (shape,) * 3, shape, (features, features))


def plain(kind: str, shape: tuple[int, ...] = (1, 8, 8, 8), macs: int | None = 0, name: str = "p") -> OpRecord:
    return OpRecord(name, kind, kind, name, macs, 0, (shape,), shape)


def activation(op: str, shape: tuple[int, ...] = (1, 8, 8, 8)) -> OpRecord:
    return OpRecord("p", op, "activation", "p", 0, 0, (shape,), shape)


def stated(
    layout: Layout = BLOCKS_OF_4,
    spread: Spread | None = None,
    macs_range: tuple[float, float] = (1000, 1e9),
    unseen: frozenset[str] = UNSEEN,
    **ns_per: float,
) -> UnitLatency:
    """A unit of 1 ns per MAC (2 in depthwise layers) and per byte, 1 us per layer, 0.5 us per other op and 10 us per
    call, in blocks of 4 channels, and nothing for anything else; `ns_per` changes costs (macs_conv for macs.conv). The
    interval is 0.8 to 1.25.
    """
    held_out = HeldOut(split="families", n=9, families=3, mape=0.1, within_10_percent=0.5, spearman=0.9)
    changed = {name.replace("_", ".", 1): value for name, value in ns_per.items()}
    assert changed.keys() <= NS_PER.keys() and _STATED.keys() <= NS_PER.keys()
    seen = {cost: 9 * (cost not in unseen) for cost in COSTS}
    spread = spread or Spread(noise=0.1, low=log(1.25) / 0.1, high=log(1.25) / 0.1)
    costs = Costs(layout=layout, ns_per=NS_PER | changed, seen=seen, spread=spread, n=9, macs_range=macs_range,
                  fitted_mape=0.1, held_out=held_out, rows="none")  # fmt: skip
    profile = Profile(target="t", unit="cpu", setting="s", versions={"r": "version 1"}, source="none",
                      runtimes={"r": {"float32": costs}}, fit_command="none", date="2026-01-01")  # fmt: skip
    return UnitLatency("t cpu", layout.channels, {"float32": layout.channels}, profile)


def costs_of(model: UnitLatency, scheme: Scheme = "float32") -> Costs:
    return model.profile.schemes(model.runtime)[scheme]


def latency(model: LatencyModel, ops: list[OpRecord], scheme: Scheme = "float32") -> float:
    value = model.predict(ops, scheme).latency.value
    assert value is not None
    return value
