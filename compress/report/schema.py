"""The report as data: what `report.json` holds. Pydantic models; nothing here imports torch.

Every measured, predicted or counted number is a `Figure` (value, unit, origin, n, interval, source). Where a field's
unit is in its name (`latency_ms`), a bare float may be given: it becomes a Figure of the unit and origin written here.
Every field but a row's name has a default, so that a run that stopped half-way still makes a report.

Version 1.1 added what was measured on devices: `artifacts[].measured` and `measurements` (in `measured.py`); a report
of version 1.0 reads without them. Version 1.2 added `references`, `samples[].sounds` and `steps[].history[].findings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from compress.errors import RunFolderError
from compress.files import read_json
from compress.report.figure import Figure, Macs, Milliseconds, Params, Part, Plain, Quality, Rows, Texts, bare, plain
from compress.report.measured import BaselineRow, MeasuredRow, MeasurementFile

SCHEMA_VERSION = "1.2"
METRICS = ("quality", "params", "macs", "size_bytes", "latency")
"""What a step's `before` and `after` may hold, in the order they are shown."""
_ALIASES = {"size": "size_bytes", "predicted_latency": "latency", "latency_ms": "latency"}


class Figures(Part):
    """What one model is and costs. `latency` is predicted on the target's unit at `scheme`."""

    quality: Figure | None = None
    params: Params = None
    macs: Macs = None
    size_bytes: Annotated[Figure | None, bare("bytes", "counted")] = None
    peak_activation_bytes: Annotated[Figure | None, bare("bytes", "counted")] = None
    latency: Milliseconds = None
    more_qualities: dict[str, Figure] = Field(default_factory=dict)
    unknown_ops: dict[str, int] = Field(default_factory=dict, description="ops whose MACs are not known: how often")
    scheme: str = "float32"


class ArtifactRow(Part):
    """One exported file. `latency`, `latency_p90`, `load_ms` and `peak_memory_bytes` are this host's, measured."""

    format: str
    path: str = ""
    scheme: str = "float32"
    size_bytes: int | None = None
    sha256: str = ""
    ran_on: str = Field("", description="what ran it for the parity check; empty: not run here")
    max_error: Figure | None = None
    sqnr_db: Annotated[Figure | None, bare("dB", "measured")] = None
    quality: Quality = None
    latency: Annotated[Figure | None, bare("ms", "measured")] = None
    latency_p90: Annotated[Figure | None, bare("ms", "measured")] = None
    load_ms: Annotated[Figure | None, bare("ms", "measured")] = None
    peak_memory_bytes: Annotated[Figure | None, bare("bytes", "measured")] = None
    predicted_latency: Annotated[Figure | None, bare("ms", "predicted")] = Field(None, description="on the target")
    measured: list[MeasuredRow] = Field(default_factory=list, description="on devices, by profile.measured")
    passed: bool | None = Field(None, description="None: not checked")
    reason: str = Field("", description="why it failed, or why it was not run or not written")
    delegate: str = ""
    float_ops: Texts = Field(default_factory=list)
    notes: Texts = Field(default_factory=list)


class ReferenceRow(Part):
    """Something the student is held against beside its teacher: a published model, or doing next to nothing."""

    name: str
    quality: Figure | None = None
    macs: Macs = None
    more_qualities: dict[str, Figure] = Field(default_factory=dict)


class BudgetRow(Part):
    """One limit, what the student has, and whether that is met (None: not decided)."""

    limit: str
    value: float
    unit: str = ""
    actual: Figure | None = None
    met: bool | None = None
    note: str = ""


class CompanionRow(Part):
    """A file of a network that is shipped beside the student as it is, against that network.

    `sqnr_db` is the file's distance from the torch network of the same scheme, `rounding_db` that one's from float.
    """

    name: str
    format: str
    scheme: str
    path: str = ""
    size_bytes: int | None = None
    sqnr_db: Annotated[Figure | None, bare("dB", "measured")] = None
    rounding_db: Annotated[Figure | None, bare("dB", "measured")] = None
    ran_on: str = ""
    passed: bool | None = None
    reason: str = ""


class OtherTargetRow(Part):
    """What the teacher and the student are predicted to take on a further device."""

    target: str
    unit: str
    teacher: Annotated[Figure | None, bare("ms", "predicted")] = None
    student_float32: Annotated[Figure | None, bare("ms", "predicted")] = None
    student: Annotated[Figure | None, bare("ms", "predicted")] = None
    limit_ms: float | None = None


class UseRow(Part):
    """A model in one way of use: how often it is asked for one output, and what all that takes on the target.

    `quality` is the torch model's; `on_front`: no other row is both better and predicted to be as fast.
    """

    model: Literal["teacher", "student"]
    name: str
    scheme: str
    evaluations: int
    quality: Quality = None
    macs: Macs = None
    latency_ms: Milliseconds = None
    on_front: bool = False


class HistoryRow(Part):
    """One epoch of a training; keys that are not named here are loss terms.

    With several players the terms are "player.term", and the learning rate is that of the first.
    """

    epoch: int
    losses: dict[str, float | None] = Field(default_factory=dict)
    quality: float | None = Field(None, description="on the validation split")
    learning_rate: float | None = None
    stats: dict[str, float | None] = Field(default_factory=dict, description="what the guard of the training looks at")
    findings: Texts = Field(default_factory=list, description="what the guard found, and what was done about it")

    @model_validator(mode="before")
    @classmethod
    def _terms(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = plain(data)
        known = {key: data[key] for key in cls.model_fields if key in data and key != "losses"}
        rates = [key for key in data if key.endswith(".learning_rate")]
        known |= {"learning_rate": data[rates[0]]} if rates else {}
        terms = {key: value for key, value in data.items() if key not in (*known, *rates, "losses")}
        return {**known, "losses": {**(data.get("losses") or {}), **terms}}


class StepRow(Part):
    """One step of the recipe: what it was told, what it changed (`before`, `after`: see METRICS), how it learned."""

    index: int
    verb: str
    title: str = ""
    key: str = Field("", description="hash of what the step depends on")
    seconds: float | None = Field(None, description="wall time, measured on this host; of the first run where reused")
    reused: bool = False
    settings: Plain = Field(default_factory=dict)
    summary: str = ""
    before: dict[str, Figure] = Field(default_factory=dict)
    after: dict[str, Figure] = Field(default_factory=dict)
    history: list[HistoryRow] = Field(default_factory=list)
    plan: Rows = Field(default_factory=list)
    warnings: Texts = Field(default_factory=list)

    @field_validator("before", "after", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return {_ALIASES.get(key, key): inner for key, inner in value.items() if inner is not None}


class ParetoPoint(Part):
    """One candidate of the search: `label` says its widths, `quality` is the quick look's, `latency_ms` predicted."""

    number: int
    quality: Quality = None
    latency_ms: Milliseconds = None
    macs: Macs = None
    params: Params = None
    on_front: bool = False
    chosen: bool = False
    label: str = ""


class Pareto(Part):
    """Every candidate of the search; `chosen` is the number of the one that went on."""

    points: list[ParetoPoint] = Field(default_factory=list)
    chosen: int | None = None
    quality_name: str = "quality"
    study: str = Field("", description="path of the study inside the run folder")


class LayerRow(Part):
    """One layer of the teacher and what became of it; None after: the layer is gone (or fused)."""

    name: str
    where: str = ""
    kind: str = ""
    macs_before: Macs = None
    macs_after: Macs = None
    channels_before: int | None = None
    channels_after: int | None = None
    latency_before_ms: Milliseconds = None
    latency_after_ms: Milliseconds = None
    bound: str = Field("", description="what limits it on the target: compute, memory, overhead or unknown")


class SampleRow(Part):
    """One sample: the picture and each model's answer. Pictures are data URIs (`compress.report.png`)."""

    image: str = Field("", pattern=r"^(data:image/[a-z+]+;base64,[A-Za-z0-9+/=]*)?$")
    target: str = ""
    outputs: dict[str, str] = Field(default_factory=dict)
    sounds: dict[str, str] = Field(default_factory=dict, description="each model's sound, a WAV file as a data URI")


class Environment(Part):
    """Where and when the run took place."""

    python: str = ""
    platform: str = ""
    cpu: str = ""
    cores: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    threads: int | None = None
    training_precision: str = Field("", description="32, or bf16 where trainings multiplied in bfloat16")
    seed: int | None = None
    started: str = ""
    finished: str = ""


class Report(Part):
    """A whole run."""

    schema_version: Annotated[str, Field(pattern=r"^\d+\.\d+$")] = SCHEMA_VERSION
    name: str
    command: str = ""
    recipe: Plain = Field(default_factory=dict)
    target: Plain = Field(default_factory=dict, description="name, unit, title, soc, os, notes, sources: what is known")
    quality_name: str = "quality"
    higher_is_better: bool = True
    environment: Environment = Field(default_factory=Environment)
    teacher: Figures = Field(default_factory=Figures)
    student: Figures = Field(default_factory=Figures)
    references: list[ReferenceRow] = Field(default_factory=list, description="what the student is held against")
    artifacts: list[ArtifactRow] = Field(default_factory=list)
    companions: list[CompanionRow] = Field(default_factory=list, description="networks shipped beside the student")
    budget: list[BudgetRow] = Field(default_factory=list)
    also: list[OtherTargetRow] = Field(default_factory=list, description="further devices that the recipe names")
    uses: list[UseRow] = Field(default_factory=list, description="steps x network x scheme, where a model is iterated")
    steps: list[StepRow] = Field(default_factory=list)
    pareto: Pareto | None = None
    layers: list[LayerRow] = Field(default_factory=list)
    baseline: list[BaselineRow] = Field(default_factory=list)
    measurements: list[MeasurementFile] = Field(default_factory=list, description="the files of profile.measured")
    samples: list[SampleRow] = Field(default_factory=list)
    warnings: Texts = Field(default_factory=list)
    exit_code: Literal[0, 1, 2, 3, 4] | None = Field(None, description="of the command; None while it runs")
    verdict: str = Field("", description="one sentence; `write` makes it where it is empty")

    @model_validator(mode="after")
    def _unit_of_quality(self) -> Report:
        """A bare quality in the rows below has the unit of the teacher's quality."""
        unit = self.teacher.quality.unit if self.teacher.quality else ""
        points = [point.quality for point in self.pareto.points] if self.pareto else []
        for figure in (*points, *(row.quality for row in self.artifacts)):
            if figure is not None and not figure.unit:
                figure.unit = unit
        return self

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON data, as `report.json` holds it."""
        return self.model_dump(mode="json")


def report_json_schema() -> dict[str, Any]:
    """The JSON Schema of `report.json`."""
    schema = Report.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "compress report", **schema}


def load_report(path: Path) -> Report:
    """The report in a `report.json` (or in the run folder that holds one).

    Raises:
        RunFolderError: the file is missing, damaged, or of another major version; names the first field at fault.
    """
    path = path / "report.json" if path.is_dir() else path
    record = read_json(path)
    version = str(record.get("schema_version", "")) if isinstance(record, Mapping) else ""
    if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        found = version or "is missing"
        raise RunFolderError(
            f"{path}: schema_version {found}; this release reads {SCHEMA_VERSION}; run again to remake it"
        )
    try:
        return Report.model_validate(record)
    except ValidationError as error:
        raise RunFolderError(f"{path}: {_first(error.errors())}; delete it and run again to remake it") from error


def _first(errors: Sequence[Any]) -> str:
    """The first validation error in words."""
    return f"{'.'.join(str(part) for part in errors[0]['loc'])}: {errors[0]['msg']}"
