"""The quantization plan: every range and every scale as data, independent of any runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from compress.errors import ModelError

Activation = tuple[float, int, int, int]
Weight = tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class QuantPlan:
    """How a folded model is quantized.

    Attributes:
        scheme: "w8a8" and the like.
        activations: node name -> (scale, zero_point, qmin, qmax) of that node's output, where
            value = (q - zero_point) * scale.
        weights: layer path -> (axis, scales), one scale per index of that weight axis; symmetric, zero point 0. Axis -1
            means one scale for the whole weight.
        float_ops: node name -> why that op computes in float.

    Every scale is a float32 number, so that JSON, which writes floats exactly, loses nothing.
    """

    scheme: str
    activations: Mapping[str, Activation]
    weights: Mapping[str, Weight]
    float_ops: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON data."""
        return {
            "scheme": self.scheme,
            "activations": {name: list(values) for name, values in self.activations.items()},
            "weights": {path: [axis, list(scales)] for path, (axis, scales) in self.weights.items()},
            "float_ops": dict(self.float_ops),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The plan back from plain JSON data; raises ModelError where the data is no such plan."""
        try:
            activations = {name: _activation(values) for name, values in record["activations"].items()}
            weights = {
                path: (int(axis), tuple(map(float, scales))) for path, (axis, scales) in record["weights"].items()
            }
            return cls(str(record["scheme"]), activations, weights, dict(record.get("float_ops", {})))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"this is no quantization plan ({type(error).__name__}: {error}); make it again with the quantize step"
            ) from error

    def table(self) -> list[dict[str, str]]:
        """One row per value, weight and float op: `what`, `name`, `granularity`, `scale`, `zero_point`, `note`."""
        rows = [
            _row("activation", name, "tensor", f"{scale:.6g}", str(zero), _span(scale, zero, qmin, qmax))
            for name, (scale, zero, qmin, qmax) in self.activations.items()
        ]
        for path, (axis, scales) in self.weights.items():
            granularity = "tensor" if axis < 0 else f"axis {axis}, {len(scales)} channels"
            span = f"{min(scales):.6g}" if len(set(scales)) == 1 else f"{min(scales):.6g} to {max(scales):.6g}"
            rows.append(_row("weight", path, granularity, span, "0", ""))
        rows += [_row("float", name, "", "", "", reason) for name, reason in self.float_ops.items()]
        return rows


def _activation(values: Any) -> Activation:
    scale, zero_point, qmin, qmax = values
    return float(scale), int(zero_point), int(qmin), int(qmax)


def _span(scale: float, zero_point: int, qmin: int, qmax: int) -> str:
    return f"{(qmin - zero_point) * scale:.4g} to {(qmax - zero_point) * scale:.4g}"


def _row(what: str, name: str, granularity: str, scale: str, zero_point: str, note: str) -> dict[str, str]:
    return {
        "what": what,
        "name": name,
        "granularity": granularity,
        "scale": scale,
        "zero_point": zero_point,
        "note": note,
    }
