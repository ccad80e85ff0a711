"""A recipe: what to compress, for which target, inside which budget, in which steps. Checked once, at birth.

Every model here is frozen and refuses unknown keys. `load_recipe` reads YAML, applies `--set` overrides and reports
errors as file, line, key and the nearest legal name. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from compress.errors import RecipeError
from compress.types import Scheme

Format = Literal["onnx", "litert", "executorch", "coreml"]
FORMATS: tuple[Format, ...] = ("onnx", "litert", "executorch", "coreml")


class Section(BaseModel):
    """A frozen part of a recipe that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Training(Section):
    """How a network learns; every step that trains has these."""

    epochs: int = Field(10, ge=0, description="passes over the training split")
    learning_rate: float = Field(0.05, gt=0, description="peak of the schedule")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = Field(5e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    warm_up: float = Field(0.05, ge=0, lt=1, description="share of the training in which the rate rises")
    clip_norm: float = Field(5.0, ge=0, description="largest gradient norm; 0 switches clipping off")
    batch_size: int | None = Field(None, ge=1, description="default: the task's own")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of averaged weights; 0 switches averaging off")
    keep: Literal["best", "last"] = Field("last", description="the weights of the best epoch (validation) or the last")
    evaluate_every: int = Field(1, ge=1, description="epochs between looks at the validation split")
    checkpoint_every_s: float = Field(30.0, ge=0, description="seconds between checkpoints inside a training")


class Teacher(Section):
    """The model to compress: an entry point, with weights from a file or trained here by the task's own loss."""

    entry: str = Field(description="package.module:attribute, path/to/file.py:attribute or timm:NAME")
    weights: str | None = Field(None, description=".safetensors, or .pth/.pt read without unpickling code")
    key: str | None = Field(None, description="where the state dict lies inside the file, e.g. state_dict")
    train: Training | None = Field(None, description="train the teacher first (used where weights is not given)")


class Entry(Section):
    """A named object in the user's code."""

    entry: str


class Budget(Section):
    """Limits the student must keep; any may be absent. Relative ones are against the teacher."""

    latency_ms: float | None = Field(None, gt=0, description="predicted on the target's unit")
    size_bytes: int | None = Field(None, gt=0, description="of each artifact of the final scheme")
    macs: int | None = Field(None, gt=0)
    macs_ratio: float | None = Field(None, gt=0, le=1, description="share of the teacher's MACs")
    min_quality: float | None = Field(None, description="least quality (most, where lower is better)")
    max_quality_drop: float | None = Field(None, ge=0, description="below the teacher's, in the metric's own unit")


class Train(Section):
    """What trainings run on (Lightning Fabric)."""

    devices: int = Field(1, ge=1)
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["32", "bf16"] = "32"
    accelerator: Literal["cpu", "cuda", "mps", "auto"] = "cpu"
    threads: int = Field(0, ge=0, description="CPU threads per process; 0 leaves torch's choice")

    @field_validator("precision", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value


class Search(Section):
    """Search widths, depth and resolution of the model itself."""

    space: Literal["width", "depth", "width_depth", "resolution", "width_depth_resolution"] = "width_depth"
    trials: int = Field(40, ge=1)
    importance: str = Field("magnitude", description="which channels a narrower candidate keeps")
    min_width: float = Field(0.25, gt=0, le=1, description="narrowest share of a group's channels")
    min_resolution: float = Field(0.5, gt=0, le=1, description="smallest share of the image's sides")
    resolution_multiple: int = Field(32, ge=1, description="sides are multiples of this many pixels")
    quick_samples: int = Field(1024, ge=1, description="validation samples per quick look")
    calibration_batches: int = Field(4, ge=1, description="batches for the refit and the norms before the look")
    refit: bool = Field(True, description="fit the layers behind every cut to the model's own answers before the look")
    complete: bool = Field(
        False, description="prune every candidate into the budget before the look, as the prune step after will"
    )
    recovery_steps: int = Field(0, ge=0, description="distillation steps a candidate gets before the look")
    recovery_learning_rate: float = Field(0.02, gt=0)
    population: int = Field(12, ge=2)
    storage: str | None = Field(None, description="Optuna storage URL shared by several machines")


class Prune(Section):
    """Remove channels, as much as the budget asks for (`ratio: auto`) or a fixed share."""

    importance: str = Field("taylor", description="magnitude, taylor, or module:attribute")
    ratio: float | Literal["auto"] = "auto"
    max_ratio: float = Field(0.8, gt=0, lt=1, description="largest share of any group that may go")
    batches: int = Field(8, ge=1, description="training batches behind the importance")
    refit: bool = Field(True, description="fit the layers behind a cut to the uncut model's answers, in closed form")

    @field_validator("ratio")
    @classmethod
    def _a_share(cls, value: Any) -> Any:
        if value != "auto" and not 0 <= value < 1:
            raise ValueError("must be 'auto' or a share in [0, 1)")
        return value


class Distill(Training):
    """Teach the student what the teacher knows."""

    method: str = Field("logit", description="logit, hint, orthogonal, or module:attribute")
    temperature: float = Field(4.0, gt=0)
    label_weight: float = Field(0.0, ge=0, le=1, description="share of the loss on labels; 0 needs none")
    mixup: float = Field(0.0, ge=0, le=1, description="chance that a batch is mixed pairwise")
    feature_weight: float = Field(1.0, ge=0, description="weight of the feature loss (hint, orthogonal)")
    norms: Literal["train", "keep"] = Field(
        "train", description="keep: BatchNorm statistics stay; for images unlike those the teacher was trained on"
    )
    norm_batches: int = Field(
        0, ge=0, description="batches that reset the norms' statistics before each look: a short training lags behind"
    )
    teacher_layer: str | None = Field(None, description="layer to imitate; default: the method's own choice")
    student_layer: str | None = None

    @model_validator(mode="after")
    def _one_way_with_norms(self) -> Distill:
        if self.norms == "keep" and self.norm_batches:
            raise ValueError("norm_batches measures anew what norms: keep would keep; leave one out")
        return self


class Mixed(Section):
    """Which layers keep more bits: as few as bring the quality within the drop, the most sensitive first."""

    max_quality_drop: float = Field(ge=0, description="below the float student's, in the metric's own unit")
    keep: Literal["float16", "float32", "w8a16", "w8a8"] = Field("float16", description="the scheme of kept layers")
    samples: int | None = Field(None, ge=1, description="validation samples per look; default all")


class Quantize(Section):
    """Put the student on integers: post-training (`qat_epochs: 0`) or with quantization-aware training."""

    scheme: Literal["w8a8", "w8a16", "w4a8", "w4", "float16", "palette4", "palette6"] = Field(
        "w8a8", description="bits of weights and values; w4, float16 and the palettes leave the values float"
    )
    ranges: Literal["minmax", "percentile", "mse", "entropy"] = "mse"
    calibration_batches: int = Field(8, ge=1)
    equalize: bool = Field(False, description="rescale channels between layers so that their weights fit one scale")
    smooth: bool = Field(False, description="move outlier channels behind layer norms into the weights (SmoothQuant)")
    rounding: Literal["nearest", "adaround"] = Field("nearest", description="adaround learns it layer by layer")
    rounding_steps: int = Field(1000, ge=1, description="optimizer steps per layer of adaround")
    bias_correction: bool = Field(False, description="move a layer's mean back to where it was without rounding")
    mixed: Mixed | None = Field(None, description="mixed precision; judged post-training, before any qat_epochs")
    steps: Literal["follow", "lsq"] = Field("follow", description="scales follow weights and values, or are learned")
    codebook: Literal["fitted", "even", "points"] = Field(
        "fitted", description="palette schemes: k-means, even points that follow the weights, or learned points"
    )
    bucket: int = Field(0, ge=0, description="even, points: weights that share a table at least; 0: the whole weight")
    qat_epochs: int = Field(0, ge=0)
    learning_rate: float = Field(0.005, gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    temperature: float = Field(4.0, gt=0)
    label_weight: float = Field(0.0, ge=0, le=1)
    batch_size: int | None = Field(None, ge=1)
    keep: Literal["best", "last"] = "best"
    checkpoint_every_s: float = Field(30.0, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Quantize:
        if not self.qat_epochs and self.steps == "lsq":
            raise ValueError("steps: lsq is learned in training; set qat_epochs, or leave steps at follow")
        if not self.qat_epochs and self.codebook == "points":
            raise ValueError("codebook: points is learned in training; set qat_epochs, or take codebook: fitted")
        if self.codebook != "fitted" and not self.scheme.startswith("palette"):
            raise ValueError(f"codebook: {self.codebook} needs a palette scheme, which {self.scheme} is not")
        if self.bucket and self.codebook == "fitted":
            raise ValueError("bucket goes with codebook: even or points; a fitted table is one for the whole weight")
        return self


class Export(Section):
    """Write the artifacts."""

    formats: tuple[Format, ...] = FORMATS
    schemes: tuple[Scheme, ...] | None = Field(
        None, description="default: float32, and the quantized scheme where a quantize step ran"
    )

    @field_validator("formats")
    @classmethod
    def _some(cls, value: tuple[Format, ...]) -> tuple[Format, ...]:
        if not value:
            raise ValueError("needs at least one format")
        return tuple(dict.fromkeys(value))


class Verify(Section):
    """Run every artifact in its real runtime and hold it against the model."""

    samples: int = Field(64, ge=1, description="held samples compared value by value")
    quality_samples: int | None = Field(None, ge=1, description="test samples behind the quality; default all")
    max_relative_error: float | dict[str, float] | None = Field(
        None, description="largest error, share of the range: one number for float32, or {scheme: number}"
    )
    min_sqnr_db: float | dict[str, float] | None = Field(
        None, description="against the model behind the file: one number for all but float32, or {scheme: number}"
    )
    max_quality_gap: float = Field(0.01, ge=0, description="between an artifact's quality and the model's own")

    @field_validator("max_relative_error", "min_sqnr_db", mode="before")
    @classmethod
    def _by_scheme(cls, value: Any) -> Any:
        for scheme, limit in value.items() if isinstance(value, dict) else ((None, value),):
            if scheme is not None and scheme not in get_args(Scheme):
                raise ValueError(f"unknown scheme '{scheme}'{_near(str(scheme), get_args(Scheme))}")
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit <= 0):
                raise ValueError("must be a number above 0, or one per scheme, such as {w8a8: 25}")
        return value

    def limits_of(self, scheme: str) -> dict[str, float]:
        """The limits this recipe states for a scheme, by name; for the others the scheme has its own."""
        found: dict[str, float] = {}
        for name, in_general in (("max_relative_error", scheme == "float32"), ("min_sqnr_db", scheme != "float32")):
            given = getattr(self, name)
            limit = given.get(scheme) if isinstance(given, dict) else given if in_general else None
            if limit is not None:
                found[name] = float(limit)
        return found


class Profile(Section):
    """Measure the artifacts on this host, predict them on the target, and report what was measured on devices."""

    runs: int = Field(200, ge=5)
    warm_up: int = Field(20, ge=0)
    baseline: bool = Field(True, description="also measure the teacher, float and quantized, alternately")
    measured: tuple[str, ...] = Field(
        (), description="CSV files of `compress profile FILE --measure --out`, one or several, from the recipe's folder"
    )

    @field_validator("measured", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _once_each(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
        return tuple(dict.fromkeys(names)) if is_list else value


STEPS: dict[str, type[Section]] = {
    "search": Search,
    "prune": Prune,
    "distill": Distill,
    "quantize": Quantize,
    "export": Export,
    "verify": Verify,
    "profile": Profile,
}


class Step(BaseModel):
    """One step of the recipe: its verb and its settings."""

    model_config = ConfigDict(frozen=True)
    verb: str
    settings: Any

    @property
    def title(self) -> str:
        """The verb, for messages."""
        return self.verb


class Recipe(Section):
    """The whole job."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    teacher: Teacher
    task: Entry
    data: dict[str, Any] = Field(default_factory=dict, description="arguments of the task entry, e.g. path")
    target: str = "host"
    unit: str = "cpu"
    budget: Budget = Budget()
    seed: int = Field(0, ge=0)
    train: Train = Train()
    steps: tuple[Step, ...] = ()

    @field_validator("steps", mode="before")
    @classmethod
    def _one_verb_each(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ValueError("must be a list of steps, such as - prune: {ratio: auto}")
        steps = []
        for item in value:
            if isinstance(item, Step):
                steps.append(item)
                continue
            if isinstance(item, str):
                item = {item: {}}
            if not isinstance(item, dict) or len(item) != 1:
                raise ValueError(
                    f"each step is one verb with its settings, such as - prune: {{ratio: auto}}; got {item}"
                )
            ((verb, settings),) = item.items()
            if verb not in STEPS:
                raise ValueError(f"unknown step '{verb}'{_near(str(verb), STEPS)}")
            steps.append(Step(verb=verb, settings=STEPS[verb].model_validate(settings or {})))
        return tuple(steps)

    @model_validator(mode="after")
    def _order(self) -> Recipe:
        check_order([step.verb for step in self.steps])
        for step in self.steps:
            asked = (step.settings.schemes or ()) if step.verb == "export" else ()
            other = next((scheme for scheme in asked if scheme not in ("float32", self.scheme)), None)
            if other is not None:
                raise ValueError(f"export.schemes asks for {other}, which no step makes; set quantize.scheme to it")
        return self

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, every default written out; it reads back as the same recipe."""
        record = self.model_dump(mode="json", exclude={"steps"})
        record["steps"] = [{step.verb: step.settings.model_dump(mode="json")} for step in self.steps]
        return record

    @property
    def scheme(self) -> Scheme:
        """The scheme the student ends in."""
        for step in self.steps:
            if step.verb == "quantize":
                return step.settings.scheme  # type: ignore[no-any-return]
        return "float32"


def check_order(verbs: Sequence[str]) -> None:
    """Refuse an order of steps that cannot work, with the reason.

    Raises:
        ValueError: names the two steps and why.
    """
    changing = ("search", "prune", "distill", "quantize")
    seen: list[str] = []
    for verb in verbs:
        if verb in changing and "export" in seen:
            raise ValueError(
                f"{verb} after export would change a model whose files are already written; move it before"
            )
        if verb in ("search", "prune") and "quantize" in seen:
            raise ValueError(f"{verb} after quantize cannot work: the ranges belong to the channels; move it before")
        if verb == "distill" and "quantize" in seen:
            raise ValueError("distill after quantize would undo the ranges; use quantize.qat_epochs, or move it before")
        if verb == "quantize" and "quantize" in seen:
            raise ValueError("quantize can stand in a recipe once")
        if verb in ("verify", "profile") and "export" not in seen:
            raise ValueError(f"{verb} needs the files that export writes; put export before it")
        if verb in ("export", "verify", "profile", "search") and verb in seen:
            raise ValueError(f"{verb} can stand in a recipe once")
        seen.append(verb)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file with `key=value` overrides applied (dots go inward, steps by verb: distill.epochs=5).

    Raises:
        RecipeError: names file, line, key and the nearest legal names.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe ({error.strerror or error})") from error
    try:
        record = yaml.safe_load(text)
        tree = yaml.compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(record, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys; `compress init` writes one to start from")
    for override in overrides:
        apply_override(record, override)
    return make_recipe(record, str(path), tree)


def make_recipe(record: Mapping[str, Any], source: str = "recipe", tree: Any = None) -> Recipe:
    """The recipe from plain data; errors name `source`.

    Raises:
        RecipeError: names source, line (where the YAML tree is given), key and the nearest legal names.
    """
    try:
        _check_steps(record)
        return Recipe.model_validate(record)
    except ValidationError as error:
        raise RecipeError(_explain(error, source, tree)) from error
    except _StepError as error:
        raise RecipeError(_explain(error.error, source, tree, error.prefix)) from error


class _StepError(Exception):
    """A step's own validation error with its place in the recipe."""

    def __init__(self, error: ValidationError, prefix: tuple[Any, ...]) -> None:
        super().__init__(str(error))
        self.error, self.prefix = error, prefix


def _check_steps(record: Mapping[str, Any]) -> None:
    """Validate each step by itself first, so that an error can name its key and line."""
    steps = record.get("steps") or []
    for index, item in enumerate(steps if isinstance(steps, list) else []):
        if isinstance(item, dict) and len(item) == 1:
            ((verb, settings),) = item.items()
            if verb in STEPS:
                try:
                    STEPS[verb].model_validate(settings or {})
                except ValidationError as error:
                    raise _StepError(error, ("steps", index, verb)) from error


def apply_override(record: dict[str, Any], override: str) -> None:
    """Set one `key=value` in a recipe's plain data, in place.

    Raises:
        RecipeError: it is not key=value, or names a step the recipe does not have.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"--set {override}: expected key=value, such as distill.epochs=5")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {key}: the value is not valid YAML") from error
    *parents, leaf = key.split(".")
    place: Any = record
    if parents and parents[0] in STEPS and parents[0] not in record:
        verb, parents = parents[0], parents[1:]
        found = [s for s in record.get("steps", []) if s == verb or (isinstance(s, dict) and verb in s)]
        if not found:
            raise RecipeError(f"--set {key}: the recipe has no {verb} step")
        for step in found:  # a repeated step is set everywhere
            if isinstance(step, str):
                record["steps"][record["steps"].index(step)] = step = {verb: {}}
            step[verb] = step[verb] or {}
            _set_inside(step[verb], parents, leaf, value, key)
        return
    _set_inside(place, parents, leaf, value, key)


def _set_inside(place: Any, parents: Sequence[str], leaf: str, value: Any, key: str) -> None:
    for parent in parents:
        inner = place.get(parent)
        if inner is None:
            inner = place[parent] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {key}: '{parent}' holds a value, not keys")
        place = inner
    place[leaf] = value


def _explain(error: ValidationError, source: str, tree: Any, prefix: tuple[Any, ...] = ()) -> str:
    """The first validation error as one line: source, line, key, reason and the nearest legal names."""
    # A misspelt key shows up twice, as unknown and as missing; the unknown one tells what to mend.
    found = error.errors()
    unknown = [fault for fault in found if fault["type"] == "extra_forbidden"]
    first = unknown[0] if unknown and found[0]["type"] == "missing" else found[0]
    place = (*prefix, *first["loc"])
    line = _line_of(tree, place)
    key = ".".join(str(p) for p in place) or "recipe"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown key{_near(str(place[-1]), _fields_at(place[:-1]))}"
    elif first["type"] == "missing":
        message = "this key is missing"
    elif first["type"] == "literal_error":
        message = f"{first['input']!r} is not one of {first['ctx']['expected']}"
        message += _near(
            str(first["input"]), first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        )
    elif not message.startswith(("each step", "unknown step")):
        message = f"{message} (got {first['input']!r})" if not isinstance(first["input"], (dict, list)) else message
    return f"{source}{f':{line}' if line else ''}: {key}: {message}"


def _fields_at(place: Sequence[Any]) -> list[str]:
    model: Any = Recipe
    parts = list(place)
    if parts and parts[0] == "steps":
        model, parts = STEPS.get(str(parts[2]), Recipe) if len(parts) > 2 else Recipe, parts[3:]
    for part in parts:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), model)
    return list(model.model_fields)


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(known)}"


def _line_of(tree: Any, place: Sequence[Any]) -> int | None:
    """The line of the deepest part of `place` that stands in the YAML tree."""
    line = None
    for part in place:
        if isinstance(tree, yaml.MappingNode):
            match = next(((k, v) for k, v in tree.value if k.value == part), None)
            if match is None:
                break
            line, tree = match[0].start_mark.line + 1, match[1]
        elif isinstance(tree, yaml.SequenceNode) and isinstance(part, int) and part < len(tree.value):
            tree = tree.value[part]
            line = tree.start_mark.line + 1
        else:
            break
    return line
