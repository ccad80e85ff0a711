"""Load and list device descriptions: what a device allows (its units, runtimes, schemes). Knows no device by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from compress.errors import RecipeError, UnknownName
from compress.resources import data_folder
from compress.types import Scheme

_FROZEN = ConfigDict(frozen=True, extra="forbid")
LayerKind = Literal["conv", "grouped_conv", "depthwise_conv", "conv_transpose", "linear"]
# Where PyYAML was built with its C loader, that reads a target ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SUFFIXES = (".yaml", ".yml")


class Published(BaseModel):
    """A published table of latencies, the source of its models' op tables, and where it was published."""

    model_config = _FROZEN

    table: str
    graphs: str
    source: str


class Like(BaseModel):
    """A fit that another one starts from: that of a relative, with more rows."""

    model_config = _FROZEN

    target: str
    unit: str
    runtime: str
    scheme: Scheme


class Calibration(Published):
    """Which published rows a unit's profile was fitted to: read by the fit, never at run time.

    `rows` are, per runtime and scheme, the values (one, or any of several) that columns of `table` must have; `graphs`
    is the source of the op table; a runtime in `elsewhere` has a table and graphs of its own. `layout` says, per
    scheme, how tensors lie in the unit (the fields of `compress.profile.features.Layout`); "all" stands for every
    scheme, and what a scheme gives on top counts. `versions` says what each runtime is. `like` names, for a runtime and
    scheme with few rows, the fit that theirs starts from.
    """

    setting: str
    versions: dict[str, str]
    rows: dict[str, dict[Scheme, dict[str, str | tuple[str, ...]]]] = Field(min_length=1)
    layout: dict[Scheme | Literal["all"], dict[str, Any]]
    elsewhere: dict[str, Published] = Field(default_factory=dict)
    like: dict[str, dict[Scheme, Like]] = Field(default_factory=dict)


class Cores(BaseModel):
    """Cores of one design; `ghz` is their highest clock, None where no source states it."""

    model_config = _FROZEN

    count: int = Field(ge=1)
    design: str
    ghz: float | None = Field(default=None, gt=0)


class Hardware(BaseModel):
    """What a device is made of, as far as a source states it: also what no latency is known of."""

    model_config = _FROZEN

    cpu: tuple[Cores, ...] = ()
    gpu: str = ""
    npu: str = ""
    memory: str = ""


class Unit(BaseModel):
    """One compute unit of a device: what runs there and how wide its kernels want a layer to be.

    `runtimes` are names of export formats; `channel_multiple` is the block of channels its kernels compute at once,
    one number or one per scheme; `profile` is a file name in `profiles/`, "" where nothing was ever measured.
    `schemes` are those whose latency is known; `layer_schemes` says which schemes a kind of layer may have in a file
    that runs here, for every kind, or is empty where `schemes` is all that is known.
    """

    model_config = _FROZEN

    kind: Literal["cpu", "gpu", "npu"]
    runtimes: tuple[str, ...] = Field(min_length=1)
    schemes: tuple[Scheme, ...] = Field(min_length=1)
    layer_schemes: dict[LayerKind, tuple[Scheme, ...]] = Field(default_factory=dict)
    channel_multiple: int | dict[Scheme, int] = 1
    profile: str = ""
    calibration: Calibration | None = None
    os: str = ""
    notes: str = ""

    @model_validator(mode="after")
    def _check(self) -> Unit:
        """The unit itself; raises ValueError where a multiple is missing or below 1, or the profile is a path."""
        multiples = self.channel_multiple
        if isinstance(multiples, Mapping):
            missing = [scheme for scheme in self.schemes if scheme not in multiples]
            if missing:
                raise ValueError(f"channel_multiple names no number for {', '.join(missing)}")
        values = multiples.values() if isinstance(multiples, Mapping) else [multiples]
        if min(values) < 1:
            raise ValueError("channel_multiple must be at least 1")
        if Path(self.profile).name != self.profile:
            raise ValueError("profile must be a plain file name in profiles/")
        return self

    @field_validator("layer_schemes")
    @classmethod
    def _whole(cls, value: dict[LayerKind, tuple[Scheme, ...]]) -> dict[LayerKind, tuple[Scheme, ...]]:
        """The table itself; raises ValueError where a kind is missing or cannot stay float32."""
        missing = [kind for kind in get_args(LayerKind) if kind not in value]
        if value and missing:
            raise ValueError(f"names no schemes for {', '.join(missing)}")
        stuck = [kind for kind, schemes in value.items() if "float32" not in schemes]
        if stuck:
            raise ValueError(f"{stuck[0]} needs float32 among its schemes: any layer may stay as it is")
        return value

    def allows(self, kind: str, scheme: Scheme) -> bool:
        """Whether a layer of this kind ("conv", "depthwise_conv", ...) may have the scheme in a file that runs here."""
        return scheme in self.layer_schemes.get(kind, self.schemes)  # type: ignore[call-overload, no-any-return]

    def multiple_for(self, scheme: Scheme) -> int:
        """The channel multiple at `scheme`."""
        multiples = self.channel_multiple
        return multiples if isinstance(multiples, int) else multiples[scheme]


class Target(BaseModel):
    """A device we ship to. `sources` says where each fact is from: its key ("soc", "cpu.runtimes", "hardware.gpu").

    `folder` is where a target file of the user's own lies, None for a shipped one.
    """

    model_config = _FROZEN

    name: str = Field(min_length=1)
    title: str = ""
    soc: str
    sources: dict[str, str]
    hardware: Hardware = Hardware()
    units: dict[str, Unit] = Field(min_length=1)
    folder: Path | None = Field(default=None, exclude=True)

    def unit(self, name: str) -> Unit:
        """The compute unit called `name`; raises UnknownName."""
        if name not in self.units:
            raise UnknownName("unit", name, self.units)
        return self.units[name]


def list_targets() -> tuple[str, ...]:
    """The names of all shipped targets, sorted."""
    return tuple(sorted(path.stem for path in data_folder("targets").glob("*.yaml")))


def load_target(name_or_path: str | Path) -> Target:
    """The target of this name in `targets/`, or in the YAML file at this path.

    Raises:
        UnknownName: no shipped target has this name.
        RecipeError: the file is missing, is not YAML, or holds a wrong key or value.
    """
    text = str(name_or_path)
    if text.endswith(_SUFFIXES) or "/" in text or "\\" in text:
        path = Path(text).expanduser()
        return _read(path).model_copy(update={"folder": path.resolve().parent})
    known = list_targets()
    if text not in known:
        raise UnknownName("target", text, known)
    return _read(data_folder("targets") / f"{text}.yaml")


def _read(path: Path) -> Target:
    """The target in the file at `path`; raises RecipeError with file and key."""
    try:
        record: Any = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the target: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(record, dict):
        raise RecipeError(f"{path}: a target is a YAML mapping with the keys name, soc, sources and units")
    if "folder" in record:
        raise RecipeError(f"{path}: key 'folder': Extra inputs are not permitted")
    try:
        return Target.model_validate(record)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_first_fault(error)}") from error


def _first_fault(error: ValidationError) -> str:
    """The first fault of a pydantic error in one line: key and what is wrong with it."""
    faults = error.errors(include_url=False)
    where = ".".join(str(part) for part in faults[0]["loc"]) or "the file"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"key '{where}': {faults[0]['msg']}{more}"
