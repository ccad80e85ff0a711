"""The quantization plan: every range, scale and codebook as data, independent of any runtime.

One scheme for the network, another for single layers (mixed precision), in plain mappings:

    scheme        of every layer that `schemes` does not name, and of the ops between the layers
    schemes       layer path -> its own scheme, where that is not `scheme`: "float32", "float16", "w8a16", ...
    activations   value (node name) -> its grid (scale, zero_point, qmin, qmax); qmin and qmax tell 8 bits from 16
    reads         reader (node name) -> value -> the other grid on which this reader takes that value: an 8-bit layer
                  behind a 16-bit one, or the reverse. Everyone else reads the grid in `activations`
    weights       layer path -> (axis, scales): one scale per index of that axis of the weight; axis -1: one for all
    groups        layer path -> group size: `scales` then holds one scale for each run of that many weights along
                  `axis`, in row-major order of the weight's shape with that axis divided by the group size
    codebooks     layer path -> (axis, tables): the weight's values are those of a table, ascending; axis -1: one table,
                  else as many tables as divide that axis evenly. Such a layer has no entry in `weights`
    float_ops     node name -> why that op computes in float

A layer stands in `weights` (integers), in `codebooks` (a palette) or in neither (float32, or float16 by its scheme).
The plan holds no codes: `apply` rounds the float weight to the nearest integer or table entry, so whoever wants another
rounding (AdaRound, a learned codebook) moves the float weight onto the wanted point first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from compress.errors import ModelError

Activation = tuple[float, int, int, int]
Weight = tuple[int, tuple[float, ...]]
Codebook = tuple[int, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True)
class QuantPlan:
    """How a folded model is quantized; the module's docstring says what each mapping holds.

    A quantized value is (q - zero_point) * scale; weights are symmetric, zero point 0. Every scale and table entry is a
    float32 number, so that JSON, which writes floats exactly, loses nothing.
    """

    scheme: str
    activations: Mapping[str, Activation]
    weights: Mapping[str, Weight]
    float_ops: Mapping[str, str] = field(default_factory=dict)
    schemes: Mapping[str, str] = field(default_factory=dict)
    reads: Mapping[str, Mapping[str, Activation]] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    codebooks: Mapping[str, Codebook] = field(default_factory=dict)

    def scheme_of(self, path: str) -> str:
        """The scheme of one layer."""
        return self.schemes.get(path, self.scheme)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON data; mappings that only some schemes need are left out where they are empty."""
        record: dict[str, Any] = {
            "scheme": self.scheme,
            "activations": {name: list(values) for name, values in self.activations.items()},
            "weights": {path: [axis, list(scales)] for path, (axis, scales) in self.weights.items()},
            "float_ops": dict(self.float_ops),
        }
        extra: dict[str, Any] = {
            "schemes": dict(self.schemes),
            "reads": {reader: {name: list(v) for name, v in values.items()} for reader, values in self.reads.items()},
            "groups": dict(self.groups),
            "codebooks": {path: [axis, [list(t) for t in tables]] for path, (axis, tables) in self.codebooks.items()},
        }
        return record | {key: value for key, value in extra.items() if value}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The plan back from plain JSON data; raises ModelError where the data is no such plan."""
        try:
            return cls(
                scheme=str(record["scheme"]),
                activations=_activations(record["activations"]),
                weights={path: (int(axis), _floats(scales)) for path, (axis, scales) in record["weights"].items()},
                float_ops=dict(record.get("float_ops", {})),
                schemes={path: str(scheme) for path, scheme in record.get("schemes", {}).items()},
                reads={reader: _activations(values) for reader, values in record.get("reads", {}).items()},
                groups={path: int(size) for path, size in record.get("groups", {}).items()},
                codebooks={
                    path: (int(axis), tuple(_floats(table) for table in tables))
                    for path, (axis, tables) in record.get("codebooks", {}).items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"this is no quantization plan ({type(error).__name__}: {error}); make it again with the quantize step"
            ) from error

    def table(self) -> list[dict[str, str]]:
        """One row per value, weight and float op: `what`, `name`, `granularity`, `scale`, `zero_point`, `note`."""
        rows = [_value_row("activation", name, grid) for name, grid in self.activations.items()]
        for reader, values in self.reads.items():
            rows += [_value_row("read", f"{name} by {reader}", grid) for name, grid in values.items()]
        for path, (axis, scales) in self.weights.items():
            rows.append(
                _row("weight", path, self._granularity(path, axis, scales), _spread(scales), "0", self._note(path))
            )
        for path, (axis, tables) in self.codebooks.items():
            count = f"{len(tables)} tables along axis {axis}" if len(tables) > 1 else "tensor"
            entries = [value for table in tables for value in table]
            rows.append(
                _row("codebook", path, count, f"{min(entries):.4g} to {max(entries):.4g}", "", self._note(path))
            )
        rows += [_row("scheme", p, "", "", "", s) for p, s in self.schemes.items() if not self._is_listed(p)]
        rows += [_row("float", name, "", "", "", reason) for name, reason in self.float_ops.items()]
        return rows

    def _granularity(self, path: str, axis: int, scales: tuple[float, ...]) -> str:
        if path in self.groups:
            return f"groups of {self.groups[path]} along axis {axis}, {len(scales)} scales"
        return "tensor" if axis < 0 else f"axis {axis}, {len(scales)} channels"

    def _note(self, path: str) -> str:
        return self.schemes.get(path, "")

    def _is_listed(self, path: str) -> bool:
        return path in self.weights or path in self.codebooks


def _activations(record: Any) -> dict[str, Activation]:
    return {name: _activation(values) for name, values in record.items()}


def _activation(values: Any) -> Activation:
    scale, zero_point, qmin, qmax = values
    return float(scale), int(zero_point), int(qmin), int(qmax)


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(map(float, values))


def _spread(scales: tuple[float, ...]) -> str:
    return f"{min(scales):.6g}" if len(set(scales)) == 1 else f"{min(scales):.6g} to {max(scales):.6g}"


def _value_row(what: str, name: str, grid: Activation) -> dict[str, str]:
    scale, zero_point, qmin, qmax = grid
    span = f"{(qmin - zero_point) * scale:.4g} to {(qmax - zero_point) * scale:.4g}"
    return _row(what, name, "tensor", f"{scale:.6g}", str(zero_point), span)


def _row(what: str, name: str, granularity: str, scale: str, zero_point: str, note: str) -> dict[str, str]:
    return {
        "what": what,
        "name": name,
        "granularity": granularity,
        "scale": scale,
        "zero_point": zero_point,
        "note": note,
    }
