"""A budget in numbers: what a model would cost on the target, and by how much that is too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compress.errors import InputError
from compress.graph.groups import WidthModel
from compress.types import LatencyModel, Number, OpRecord, Scheme

# What a mobile file holds for each op beside its weights: graph, names, quantization parameters. Fitted on this
# project's own artifacts: float32 and w8a8 on the examples (11 to 20 ops), the other schemes on the nets of
# tests/export/test_schemes.py (3 to 5 ops); the budget is judged again on the real files. A scheme that is not under a
# format cannot be held by it.
BYTES_PER_OP: dict[str, dict[Scheme, int]] = {
    "onnx": {"float32": 160, "float16": 280, "w8a8": 400, "w8a16": 400, "w4a8": 400, "w4": 550},
    "litert": {"float32": 330, "float16": 700, "w8a8": 850, "w8a16": 1_000, "w4a8": 850, "w4": 800},
    "executorch": {"float32": 640, "float16": 900, "w8a8": 1_150, "w4": 1_500},
    "coreml": {
        "float32": 1_150, "float16": 1_450, "w8a8": 2_800, "w4a8": 2_600, "w4": 1_800, "palette4": 1_800,
        "palette6": 1_800,
    },
}  # fmt: skip
# One sixteenth of a byte at w4 is the 16-bit scale of each group of 32 weights.
BYTES_PER_WEIGHT: dict[Scheme, float] = {
    "float32": 4, "float16": 2, "w8a8": 1, "w8a16": 1, "w4a8": 0.5, "w4": 0.5625, "palette4": 0.5, "palette6": 0.75,
}  # fmt: skip
BYTES_PER_QUANTIZED_CHANNEL = 12  # scale, zero point and the 32-bit bias of one output channel
_WITHOUT_SCALES = ("float32", "float16", "palette4", "palette6")
# ExecuTorch's XNNPACK exporter writes the weights of convolutions in float16 programs as float32.
_WIDENED = ("conv", "depthwise_conv", "grouped_conv", "conv_transpose")


@dataclass(frozen=True, slots=True)
class CostModel:
    """Predicts the figures a budget may limit, from a model's ops, for one compute unit, scheme and set of formats."""

    latency: LatencyModel
    scheme: Scheme
    formats: tuple[str, ...] = tuple(BYTES_PER_OP)

    def figures(self, ops: Sequence[OpRecord]) -> dict[str, float]:
        """`latency_ms`, `size_bytes` (of the largest artifact) and `macs` of a model made of `ops`."""
        predicted = self.latency.predict(ops, self.scheme).latency.value
        return {
            "latency_ms": float("inf") if predicted is None else predicted,
            "size_bytes": float(artifact_bytes(ops, self.scheme, self.formats)),
            "macs": float(sum(op.macs or 0 for op in ops)),
        }

    def latency_of(self, ops: Sequence[OpRecord]) -> Number:
        """The predicted latency with its interval and origin."""
        return self.latency.predict(ops, self.scheme).latency


def artifact_bytes(ops: Sequence[OpRecord], scheme: Scheme, formats: Sequence[str] = tuple(BYTES_PER_OP)) -> int:
    """The expected size of the largest artifact of a model made of `ops`: a prediction, good to about a tenth.

    Raises:
        InputError: none of the formats can hold the scheme.
    """
    holding = [format for format in formats if scheme in BYTES_PER_OP[format]]
    if not holding:
        able = [format for format, schemes in BYTES_PER_OP.items() if scheme in schemes]
        raise InputError(f"none of {', '.join(formats)} can hold {scheme}; add {' or '.join(able)} to export.formats")
    return max(_format_bytes(ops, scheme, format) for format in holding)


def _format_bytes(ops: Sequence[OpRecord], scheme: Scheme, format: str) -> int:
    """The expected size of one artifact."""
    kernels = [op for op in ops if not op.fused_into and op.kind != "reshape"]
    held = [op for op in ops if op.kind != "norm" or not op.fused_into]
    channels = sum(op.channels[1] for op in kernels if op.weight_count) if scheme not in _WITHOUT_SCALES else 0
    weights = sum(op.weight_count for op in held) * BYTES_PER_WEIGHT[scheme]
    if (format, scheme) == ("executorch", "float16"):
        weights += sum(op.weight_count for op in held if op.kind in _WIDENED) * 2
    graph = BYTES_PER_OP[format][scheme] * len(kernels)
    return round(graph + weights + channels * BYTES_PER_QUANTIZED_CHANNEL)


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper limits on predicted figures; a figure without a limit is free."""

    values: Mapping[str, float]

    def excess(self, figures: Mapping[str, float]) -> float:
        """By how much the figures break the limits: the sum of relative excesses, 0 where all hold."""
        return sum(max(0.0, figures[name] / limit - 1.0) for name, limit in self.values.items())

    def worst(self, figures: Mapping[str, float]) -> str:
        """The limit broken most, with its figure, in words; "" where all hold."""
        broken = {n: figures[n] / limit for n, limit in self.values.items() if figures[n] > limit}
        if not broken:
            return ""
        name = max(broken, key=lambda n: broken[n])
        return f"{name} {figures[name]:.4g} (limit {self.values[name]:.4g})"


def useful_widths(
    widths: WidthModel, cost: CostModel, min_share: float, limits: Limits | None = None
) -> dict[str, tuple[int, ...]]:
    """For each free group the widths worth having, from narrow to full: multiples that lower what the budget limits.

    A narrower layer is not a faster one by itself: kernels work in blocks of channels, so a width inside a block
    costs what the full block does, and removing channels there only loses quality. Such widths are left out, unless
    the budget limits MACs or size, which fall all the same; slower than the next wider one they never are.
    """
    multiple, found = cost.latency.channel_multiple, {}
    judged = {"latency_ms", *(limits.values if limits is not None else ())}
    full = cost.figures(widths.base.ops)
    for group in widths.free:
        kept, last = [group.width], full
        least = max(1, round(group.width * min_share))
        start = (group.width - 1) // multiple * multiple
        for width in range(start, least - 1, -multiple):
            if width < 1:
                break
            figures = cost.figures(widths.ops({group.layer: group.width - width}))
            falls = any(figures[name] < last[name] * (1 - 1e-9) for name in judged)
            if falls and figures["latency_ms"] <= last["latency_ms"] * (1 + 1e-9):
                kept.append(width)
                last = figures
        found[group.layer] = tuple(reversed(kept))
    return found
