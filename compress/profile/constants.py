"""The profile file: what a compute unit takes for each amount an op asks of it, and where that comes from. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compress.errors import RecipeError
from compress.profile.features import COSTS, Layout
from compress.types import Scheme

_FROZEN = ConfigDict(frozen=True, extra="forbid")
# By how much at most the variance of its costs lowers a prediction (its logarithm): how unsure a cost is that no
# measurement has shown is a guess itself.
MOST_LOWERED = 0.2
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class HeldOut(BaseModel):
    """How well the fit predicts what it has not seen: model families left out one at a time, never single rows.

    `coverage` is the share of held-out models whose measured latency lies inside the 90 % interval; the interval's
    width is set on the other families each time, so that this figure is one of unseen families too. None where a
    fit did not take it down.
    """

    model_config = _FROZEN

    split: str
    n: int
    families: int
    mape: NonNegative
    within_10_percent: NonNegative
    spearman: float
    median: NonNegative | None = None
    within_20_percent: NonNegative | None = None
    coverage: NonNegative | None = None


class Spread(BaseModel):
    """How far a measured latency may lie from the predicted one, as the standard deviation of its logarithm.

    `noise` is what no model explains; `directions` is how unsure the costs themselves are: the square root of their
    (log) covariance as a short list of vectors over the names of the costs. A prediction's variance is noise^2 plus
    the sum s^2 of (direction . shares)^2, where `shares` say which cost makes up how much of it; so it is unsure where
    it rests on costs that few models have shown. What is predicted is the sum of the costs times exp(-s^2), s^2 being
    at most `MOST_LOWERED`, which has the smallest expected relative error; the 90 % interval is `low` and `high` of
    these deviations around it.
    """

    model_config = _FROZEN

    noise: Positive
    low: Positive
    high: Positive
    directions: tuple[dict[str, float], ...] = ()


class Costs(BaseModel):
    """The costs of one unit, runtime and scheme: nanoseconds for each amount of `features.amounts`.

    A model takes the sum over its ops of amount times `ns_per[name]`, less what `Spread` says of costs that are unsure.
    `seen` counts the models behind each cost; one that no model showed rests on its prior alone, and the ops that need
    it are reported as uncovered. `macs_range` is the span of the models behind the fit.
    """

    model_config = _FROZEN

    layout: Layout
    ns_per: dict[str, NonNegative]
    seen: dict[str, int]
    spread: Spread
    macs_range: tuple[NonNegative, NonNegative]
    n: int = Field(ge=1)
    fitted_mape: NonNegative
    held_out: HeldOut
    rows: str
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Costs:
        """The costs themselves; raises ValueError where one is missing or unknown, or a block or power is below 1."""
        missing = [name for name in COSTS if name not in self.ns_per]
        if missing:
            raise ValueError(f"ns_per needs the keys {', '.join(missing)}")
        strange = sorted(set(self.ns_per) - set(COSTS))
        if strange:
            raise ValueError(f"there is no cost {', '.join(strange)}")
        if min(self.layout.channels, self.layout.rows, self.layout.columns) < 1:
            raise ValueError("layout needs blocks of at least 1")
        return self


class Profile(BaseModel):
    """One file of `profiles/`: what a compute unit costs, per runtime and scheme, and how that was found out.

    The first of `runtimes` is the one that is meant where none is named; `versions` says what each of them is.
    """

    model_config = _FROZEN

    schema_version: int = 2
    target: str
    unit: str
    setting: str
    versions: dict[str, str]
    runtimes: dict[str, dict[Scheme, Costs]] = Field(min_length=1)
    source: str
    fit_command: str
    date: str
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Profile:
        """The profile itself; raises ValueError where a runtime has no scheme."""
        empty = [name for name, schemes in self.runtimes.items() if not schemes]
        if empty:
            raise ValueError(f"runtime {empty[0]} has no scheme")
        return self

    def schemes(self, runtime: str = "") -> dict[Scheme, Costs]:
        """The costs of one runtime, of the first one where none is named."""
        return self.runtimes[runtime or next(iter(self.runtimes))]


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
    text = json.dumps(rounded(profile.model_dump(mode="json")), indent=1) + "\n"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def rounded(value: Any) -> Any:
    """The same JSON data with every float cut to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items() if entry is not None}
    return [rounded(entry) for entry in value] if isinstance(value, list) else value
