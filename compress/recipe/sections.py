"""The sections of a recipe: frozen models that refuse unknown keys. Nothing here imports torch."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from compress.recipe.near import near
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
    betas: tuple[float, float] = Field((0.9, 0.999), description="adamw: decay of its two moments")
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
    arguments: dict[str, Any] = Field(default_factory=dict, description="what the entry is called with")
    weights: str | None = Field(None, description=".safetensors, or .pth/.pt read without unpickling code")
    key: str | None = Field(None, description="where the state dict lies inside the file, e.g. state_dict")
    train: Training | None = Field(None, description="train the teacher first (used where weights is not given)")


class Entry(Section):
    """A named object in the user's code."""

    entry: str


class Student(Section):
    """Another network to start from, instead of the teacher's own."""

    entry: str = Field(description="package.module:attribute or path/to/file.py:attribute, e.g. compress.students:Imdn")
    arguments: dict[str, Any] = Field(default_factory=dict, description="what the entry is called with")


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
    precision: Literal["32", "bf16", "auto"] = Field(
        "32", description="auto: bf16 where this machine computes it itself (AMX, AVX-512 BF16, a GPU), else 32"
    )
    accelerator: Literal["cpu", "cuda", "mps", "auto"] = "cpu"
    threads: int = Field(0, ge=0, description="CPU threads per process; 0 leaves torch's choice")

    @field_validator("precision", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value


class Search(Section):
    """Search widths, depth, kernels and resolution of the model itself."""

    method: Literal["trials", "supernet", "ladder"] = Field(
        "trials",
        description="candidates on inherited weights, subnets of one trained supernet, or a ladder of widths",
    )
    space: Literal[
        "width", "depth", "width_depth", "resolution", "width_depth_resolution",
        "kernel", "width_kernel", "depth_kernel", "width_depth_kernel", "width_depth_resolution_kernel",
    ] = "width_depth"  # fmt: skip
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
    training: Training | None = Field(
        None, description="supernet, ladder: how they learn, by the terms on outputs of the next distill step's method"
    )
    randoms: int = Field(2, ge=0, description="supernet: random subnets per step, beside the largest and the smallest")
    in_place: bool = Field(False, description="supernet: all subnets but the largest imitate the largest")
    max_peak_activation_bytes: int | None = Field(
        None, gt=0, description="supernet, ladder: limit on what is held between layers (float32, batch size 1)"
    )
    widths: tuple[float, ...] = Field((0.25, 0.5, 0.75, 1.0), description="ladder: shares of every width, rising to 1")
    alpha: float = Field(1.0, ge=0, description="ladder: weight of each rung's distance to the next wider one")

    @model_validator(mode="after")
    def _keys_of_the_method(self) -> Search:
        for key, methods in SEARCH_KEYS.items():
            if self.method not in methods and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key} goes with method: {' or '.join(methods)}, not with {self.method}; leave it out"
                )
        if self.method == "trials" and "kernel" in self.space and self.refit:
            raise ValueError(
                f"space: {self.space}: the refit fits no cropped kernels; set refit: false, or take method: supernet"
            )
        if self.method != "trials" and self.training is None:
            raise ValueError(
                f"method: {self.method} trains; say how with training, such as "
                "{epochs: 20, optimizer: adamw, learning_rate: 0.001}"
            )
        if list(self.widths) != sorted(set(self.widths)) or not self.widths or self.widths[0] <= 0:
            raise ValueError("widths must rise from above 0 to 1, such as [0.25, 0.5, 0.75, 1]")
        if self.widths[-1] != 1 or len(self.widths) < 2:
            raise ValueError("widths must end with 1, with a narrower one before, such as [0.5, 1]")
        return self


SEARCH_KEYS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("space", "trials", "min_width", "population", "quick_samples"), ("trials", "supernet")),
    **dict.fromkeys(("min_resolution", "resolution_multiple"), ("trials", "supernet")),
    **dict.fromkeys(("refit", "complete", "recovery_steps", "recovery_learning_rate", "storage"), ("trials",)),
    **dict.fromkeys(("training", "max_peak_activation_bytes"), ("supernet", "ladder")),
    **dict.fromkeys(("randoms", "in_place"), ("supernet",)),
    **dict.fromkeys(("widths", "alpha"), ("ladder",)),
}
"""The keys of a search that only some methods know."""


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


class Tiles(Section):
    """Pictures larger than the phone's memory takes at once."""

    picture: tuple[int, int] = Field(description="height and width of the input, in pixels")
    memory_bytes: int = Field(gt=0, description="what the float32 activations of one tile may take")


class Rewrite(Section):
    """Put cheaper forms in the place of costly ones; what only comes near needs a distill step behind it."""

    upsample: Literal["keep", "resize", "pixel_shuffle"] = Field(
        "keep", description="transposed convolutions: resize and convolve (near), or convolve and shuffle (exact)"
    )
    separable: Literal["keep", "all", "large"] = Field(
        "keep", description="convolutions into depthwise and pointwise: all of 3 x 3 and more, or of 5 x 5 and more"
    )
    aggregate: Literal["keep", "accumulate", "thin"] = Field(
        "keep", description="dense connections: sums as they come (exact), or fewer of them (near)"
    )
    norms: Literal["keep", "fold"] = Field(
        "keep", description="instance norms by fixed statistics, where those of the images differ little"
    )
    attention: Literal["keep", "relu", "drop"] = Field(
        "keep", description="ReLU in place of its softmax, or no attention over more keys than options.longest (near)"
    )
    keys: Literal["keep", "share"] = Field(
        "keep", description="one projection for an attention's keys and values (near)"
    )
    activations: Literal["keep", "silu"] = Field("keep", description="GELU into SiLU (near)")
    options: dict[str, Any] = Field(default_factory=dict, description="thresholds and sites, see compress.rewrite")
    batches: int = Field(8, ge=1, description="training batches behind the norms' statistics")
    tiles: Tiles | None = Field(None, description="plan the tiles of a large picture; changes nothing in the model")


class Distill(Training):
    """Teach the student what the teacher knows."""

    method: str = Field("logit", description="a name from `compress methods`, or module:attribute")
    options: dict[str, Any] = Field(
        default_factory=dict, description="the method's own settings, such as the weights of its losses"
    )
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
                raise ValueError(f"unknown scheme '{scheme}'{near(str(scheme), get_args(Scheme))}")
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


class Solver(Section):
    """Learn the numbers of a diffusion model's sampler (GAS); no weight of the network changes, nor its files."""

    order: Literal[1, 2, 3] = Field(3, description="of the DPM-Solver++ that it begins as")
    pairs: int = Field(1_000, ge=1, description="noises with the teacher's samples of them, made once")
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(24, ge=1)
    learning_rate: float = Field(0.005, gt=0)
    distance: Literal["l1", "l2"] = "l1"
    checkpoint_every_s: float = Field(30.0, gt=0)


class OtherTarget(Section):
    """A device that the student is to fit as well; nothing is chosen by it."""

    target: str
    unit: str = "cpu"
    latency_ms: float | None = Field(None, gt=0, description="its own limit; without one there is only the prediction")


class Profile(Section):
    """Measure the artifacts on this host, predict them on the target, and report what was measured on devices."""

    runs: int = Field(200, ge=5)
    warm_up: int = Field(20, ge=0)
    baseline: bool = Field(True, description="also measure the teacher, float and quantized, alternately")
    measured: tuple[str, ...] = Field(
        (), description="CSV files of `compress profile FILE --measure --out`, one or several, from the recipe's folder"
    )

    also: tuple[OtherTarget, ...] = Field((), description="further devices to predict the student on")

    @field_validator("measured", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _once_each(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
        return tuple(dict.fromkeys(names)) if is_list else value


STEPS: dict[str, type[Section]] = {
    "search": Search,
    "rewrite": Rewrite,
    "prune": Prune,
    "distill": Distill,
    "quantize": Quantize,
    "solver": Solver,
    "export": Export,
    "verify": Verify,
    "profile": Profile,
}
