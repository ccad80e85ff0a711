"""The profile file: the fitted constants of one compute unit, with where they come from. Pydantic, no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compress.errors import RecipeError
from compress.types import Scheme

_FROZEN = ConfigDict(frozen=True, extra="forbid")
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class HeldOut(BaseModel):
    """How well the fit predicts what it has not seen: model families left out one at a time, never single rows.

    `ratio_p05` and `ratio_p95` are quantiles of measured/predicted over all held-out models.
    """

    model_config = _FROZEN

    split: str
    n: int
    families: int
    mape: NonNegative
    within_10_percent: NonNegative
    spearman: float
    ratio_p05: Positive
    ratio_p95: Positive


class SchemeConstants(BaseModel):
    """The constants of one unit at one scheme.

    An op takes max(c, m) + (1 - `overlap`) min(c, m) + `overhead_ms`[kind], where c is its MACs / `gmacs_per_s`[kind]
    plus the MACs behind one output times `ns_per_chain_step`, and m its bytes / `gbytes_per_s`[kind]; a whole
    inference takes `invoke_ms` more. Ops of `linked_kinds` cost nothing: the runtime runs them inside the kernel
    before. `interval` holds the two factors that turn a prediction into its 90 % interval; they hold inside
    `macs_range`, the span of the models behind the fit.
    """

    model_config = _FROZEN

    gmacs_per_s: dict[str, Positive]
    gbytes_per_s: dict[str, Positive]
    overhead_ms: dict[str, NonNegative]
    invoke_ms: NonNegative
    ns_per_chain_step: NonNegative = 0.0
    linked_kinds: tuple[str, ...] = ()
    overlap: Annotated[float, Field(ge=0, le=1)] = 1.0
    activation_bytes: Positive
    weight_bytes: Positive
    interval: tuple[Positive, Positive]
    macs_range: tuple[NonNegative, NonNegative]
    n: int = Field(ge=1)
    fitted_mape: NonNegative
    held_out: HeldOut
    rows: str
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> SchemeConstants:
        """The constants themselves; raises ValueError where a table lacks its default or the interval its width."""
        for table in ("gbytes_per_s", "overhead_ms"):
            if "default" not in getattr(self, table):
                raise ValueError(f"{table} needs the key 'default'")
        low, high = self.interval
        if not low < 1 < high:
            raise ValueError("interval must be two factors around 1")
        return self


class Profile(BaseModel):
    """One file of `profiles/`: what a compute unit costs, per scheme, and how that was found out.

    `channel_block` is how many channels the unit's kernels compute at once, as the fit assumed it.
    """

    model_config = _FROZEN

    schema_version: int = 1
    target: str
    unit: str
    runtime: str
    setting: str
    channel_block: dict[Scheme, int]
    schemes: dict[Scheme, SchemeConstants] = Field(min_length=1)
    source: str
    fit_command: str
    date: str
    notes: tuple[str, ...] = ()


def read_profile(path: Path) -> Profile:
    """The profile in the JSON file at `path`; raises RecipeError naming file and key."""
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        return Profile.model_validate(record)
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the profile: {error.strerror or error}") from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"]) or "the file"
        raise RecipeError(f"{path}: key '{where}': {fault['msg']}") from error
    except ValueError as error:
        raise RecipeError(f"{path}: not a JSON file: {error}") from error


def write_profile(profile: Profile, path: Path) -> None:
    """Writes the profile as JSON with numbers of six significant digits, through a temporary file."""
    text = json.dumps(_rounded(profile.model_dump(mode="json")), indent=1) + "\n"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _rounded(value: Any) -> Any:
    """The same JSON data with every float cut to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list) else value
