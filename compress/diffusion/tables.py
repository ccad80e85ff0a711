"""A sampler as a table of constants, the form in which it is shipped: no sampler code runs on the device.

Every deterministic sampler here, and every one of diffusers', moves by sums of earlier samples and network outputs
with factors that depend on the noise levels alone. Unrolled, the sample before evaluation i is

    x_i = start_i z + sum_{j < i} outputs_ij F_j + sum_{j < i} noises_ij e_j

with z the first noise, F_j the raw outputs and e_j fresh noises, and the network is given (scale_i x_i, time_i). The
last row, without a time, is the picture. So a runner needs ten lines in any language.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from compress.errors import InputError


@dataclass(frozen=True)
class Row:
    """One sample on the way; `time`, `scale` and `level` are None in the last row, which is the picture.

    `level` is the sample's noise level; runners do not need it. `until` is the time that a flow map is asked to go
    to, for networks that take one.
    """

    start: float
    outputs: tuple[float, ...] = ()
    noises: tuple[float, ...] = ()
    time: float | None = None
    scale: float | None = None
    level: float | None = None
    until: float | None = None


@dataclass(frozen=True)
class SamplerTable:
    """The constants of a sampler; `name` says which, in words."""

    name: str
    rows: tuple[Row, ...]

    @property
    def evaluations(self) -> int:
        """How often the network is asked."""
        return len(self.rows) - 1

    @property
    def levels(self) -> list[float]:
        """The noise levels at which the network is asked."""
        return [row.level for row in self.rows if row.level is not None]

    @property
    def fresh_noises(self) -> int:
        """How many noises are drawn on the way, beside the first."""
        return max(len(row.noises) for row in self.rows)

    def run(
        self,
        network: Callable[..., Tensor],
        first: Tensor,
        *condition: Any,
        fresh: Callable[[int], Tensor] | None = None,
    ) -> Tensor:
        """The pictures (N, ...) that a network makes of the first noise, standard normal (N, ...).

        Args:
            network: scaled samples, times (N,), conditions to raw outputs.
            fresh: the noise (N, ...) of a number, for tables that draw some on the way.
        """
        outputs: list[Tensor] = []
        noises = [self._noise(fresh, number, first) for number in range(self.fresh_noises)]
        for row in self.rows[:-1]:
            x = _mix(row, first, outputs, noises)
            assert row.time is not None and row.scale is not None
            times = [torch.full((len(first),), float(t), dtype=first.dtype, device=first.device) for t in _times(row)]
            outputs.append(network(row.scale * x, *times, *condition).to(first.dtype))
        return _mix(self.rows[-1], first, outputs, noises)

    def _noise(self, fresh: Callable[[int], Tensor] | None, number: int, first: Tensor) -> Tensor:
        if fresh is None:
            raise InputError(f"the sampler '{self.name}' draws noise on the way; hand it `fresh`")
        return fresh(number).to(first.dtype)

    def inputs_along(
        self, network: Callable[..., Tensor], first: Tensor, fresh: Callable[[int], Tensor] | None, *condition: Any
    ) -> list[tuple[Tensor, ...]]:
        """What the network is given at each evaluation on the way: one tuple of inputs per row."""
        seen: list[tuple[Tensor, ...]] = []

        def listening(*inputs: Tensor) -> Tensor:
            seen.append(inputs)
            return network(*inputs)

        self.run(listening, first, *condition, fresh=fresh)
        return seen

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without what is not set."""
        rows = [{k: v for k, v in asdict(row).items() if v is not None and v != ()} for row in self.rows]
        return {"name": self.name, "rows": rows}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SamplerTable:
        """The table of plain data.

        Raises:
            InputError: this is no sampler table.
        """
        try:
            rows = tuple(_row(row) for row in data["rows"])
            table = cls(str(data["name"]), rows)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"no sampler table: {error}") from error
        last = len(table.rows) - 1
        for number, row in enumerate(table.rows):
            if (
                len(row.outputs) > number
                or (row.time is None) != (number == last)
                or (row.scale is None) != (row.time is None)
            ):
                raise InputError(f"no sampler table: row {number} of {len(table.rows)} does not fit")
        return table


def _row(data: Mapping[str, Any]) -> Row:
    outputs, noises = (tuple(map(float, data.get(key, ()))) for key in ("outputs", "noises"))
    others = (None if data.get(key) is None else float(data[key]) for key in ("time", "scale", "level", "until"))
    return Row(float(data["start"]), outputs, noises, *others)


def _times(row: Row) -> list[float]:
    return [t for t in (row.time, row.until) if t is not None]


def _mix(row: Row, first: Tensor, outputs: Sequence[Tensor], noises: Sequence[Tensor]) -> Tensor:
    x = row.start * first
    for factor, output in zip(row.outputs, outputs, strict=False):
        if factor:
            x = x + factor * output
    for factor, noise in zip(row.noises, noises, strict=False):
        if factor:
            x = x + factor * noise
    return x
