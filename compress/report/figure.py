"""One number of the report, and what plain JSON data is: the ground that the schema stands on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from compress.types import Number, Origin


def plain(value: Any) -> Any:
    """`value` as plain JSON data: tuples to lists, array scalars to numbers, NaN and infinity to None, rest to text."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if not isinstance(value, (bool, int, float, str, type(None))):
        value = _item(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _item(value: Any) -> Any:
    """The Python number inside an array scalar or a one-element tensor; anything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "size", None) in (1, None) else value


Plain = Annotated[dict[str, Any], BeforeValidator(plain)]
Rows = Annotated[list[dict[str, Any]], BeforeValidator(plain)]
Texts = Annotated[list[str], BeforeValidator(lambda value: [str(v) for v in value])]


class Part(BaseModel):
    """A part of the report; unknown keys are refused, so a misspelt field is caught where it is written."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Figure(Part):
    """One number with its unit and origin: the pydantic twin of `compress.types.Number`, taken wherever one is asked.

    An infinite or undefined value is stored as None and `source` says which; so is an open end of the interval.
    """

    value: int | float | None = None
    unit: str = ""
    origin: Origin = "counted"
    n: int | None = None
    interval: tuple[float | None, float | None] | None = None
    source: str = ""

    @model_validator(mode="before")
    @classmethod
    def _take(cls, data: Any) -> Any:
        if isinstance(data, Number):
            data = data.to_dict()
        if not isinstance(data, Mapping):
            return data
        data, value = dict(data), _item(data.get("value"))
        if isinstance(value, float) and not math.isfinite(value):
            word = "not a number" if math.isnan(value) else "infinite"
            data["source"], value = f"{word}; {data.get('source', '')}".rstrip("; "), None
        return {**data, "value": value, "interval": plain(data.get("interval"))}

    @classmethod
    def of(cls, number: Number) -> Figure:
        """The figure of a `Number`."""
        return cls.model_validate(number)

    def to_number(self) -> Number:
        """The figure as a `Number` (an open end of the interval becomes infinite)."""
        low, high = self.interval or (None, None)
        closed = (-math.inf if low is None else low, math.inf if high is None else high) if self.interval else None
        return Number(self.value, self.unit, self.origin, self.n, closed, self.source)


def bare(unit: str, origin: Origin) -> BeforeValidator:
    """Takes a bare number as a Figure of the given unit and origin."""

    def wrap(value: Any) -> Any:
        value = _item(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return Figure(value=value, unit=unit, origin=origin)
        return value

    return BeforeValidator(wrap)


Milliseconds = Annotated[Figure | None, bare("ms", "predicted")]
Macs = Annotated[Figure | None, bare("MACs", "counted")]
Params = Annotated[Figure | None, bare("parameters", "counted")]
Quality = Annotated[Figure | None, bare("", "measured")]
