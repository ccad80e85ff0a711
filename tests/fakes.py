"""Stand-ins with stated behaviour, so that search, prune, profile and report are testable to the digit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.types import LatencyPrediction, Number, OpCost, OpRecord, Scheme

Arrays = list[NDArray[Any]]


@dataclass
class FakeLatencyModel:
    """A latency model of stated cost: `overhead_ms` per op that runs, `ms_per_mmac` per million padded MACs.

    Widths count as the next multiple of `channel_multiple`; ops that are fused or only reshape cost nothing; w8a8
    takes `int8_ratio` of the float time. The interval is 10 % to either side.
    """

    ms_per_mmac: float = 0.01
    overhead_ms: float = 0.001
    channel_multiple: int = 8
    int8_ratio: float = 0.5
    name: str = "fake"
    asked: int = 0

    def predict(self, ops: Sequence[OpRecord], scheme: Scheme) -> LatencyPrediction:
        """The stated latency (ms) of a model made of `ops` at `scheme`."""
        self.asked += 1
        ratio = self.int8_ratio if scheme == "w8a8" else 1.0
        costs = tuple(OpCost(op.name, op.kind, op.where, self._cost(op) * ratio, "compute") for op in ops)
        total = sum(cost.latency_ms for cost in costs)
        latency = Number(total, "ms", "predicted", 1, (0.9 * total, 1.1 * total), f"{self.name}: stated cost per op")
        return LatencyPrediction(latency, costs, tuple(op.name for op in ops if op.macs is None))

    def _cost(self, op: OpRecord) -> float:
        """The float time (ms) of one op."""
        if op.fused_into or op.kind == "reshape":
            return 0.0
        return self.overhead_ms + self.ms_per_mmac * self._padded_macs(op) * 1e-6

    def _padded_macs(self, op: OpRecord) -> float:
        """The op's MACs at its padded widths."""
        macs: float = op.macs or 0
        sides = op.channels[1:] if op.kind == "depthwise_conv" else op.channels
        for channels in sides:
            if channels:
                macs *= -(-channels // self.channel_multiple) * self.channel_multiple / channels
        return macs


@dataclass
class FakeSession:
    """A loaded artifact that answers at once: with `outputs`, or with what `function` makes of the inputs.

    `calls` keeps the shapes of every call's inputs.
    """

    outputs: Arrays = field(default_factory=lambda: [np.zeros((1, 10), np.float32)])
    function: Callable[..., Arrays] | None = None
    calls: list[tuple[tuple[int, ...], ...]] = field(default_factory=list)

    def run(self, *arrays: NDArray[Any]) -> Arrays:
        """The stated outputs; remembers the call."""
        self.calls.append(tuple(array.shape for array in arrays))
        return self.function(*arrays) if self.function else [output.copy() for output in self.outputs]
