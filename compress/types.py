"""The vocabulary: small frozen dataclasses that every room shares. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, Self

Origin = Literal["measured", "predicted", "vendor", "counted"]
Bound = Literal["compute", "memory", "overhead", "unknown"]
Scheme = Literal["float32", "float16", "w8a8", "w8a16", "w4a8", "w4", "palette4", "palette6"]


@dataclass(frozen=True, slots=True)
class Number:
    """One reported figure: its value, unit and where it came from.

    `value` is None where the figure is not known; `source` then says why. `interval` is a 90 % interval in the
    same unit; a predicted figure always has one. `n` counts the samples (runs, images) behind the figure.
    """

    value: float | None
    unit: str
    origin: Origin
    n: int | None = None
    interval: tuple[float, float] | None = None
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The figure as plain JSON data."""
        record = asdict(self)
        if self.interval is not None:
            record["interval"] = list(self.interval)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The figure back from plain JSON data."""
        values = dict(record)
        if values.get("interval") is not None:
            values["interval"] = tuple(values["interval"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class OpRecord:
    """What one op of a traced model does, at batch size 1: the input of every cost model.

    `kind` is one of: conv, depthwise_conv, grouped_conv, conv_transpose, linear, matmul, attention, norm,
    activation, softmax, elementwise, pool, reduce (over whole axes), resize, concat, pad, move (transpose, slice:
    the values stay, their places change), gather, reshape (views, flatten: free), other.
    `where` is the module path in the user's model. `macs` is None where the op is not known.
    `fused_into` names the op whose kernel absorbs this one on a mobile runtime (a norm or an activation after a
    convolution), "" where it runs by itself. `channels` is (in, out) where the op has them.
    """

    name: str
    op: str
    kind: str
    where: str
    macs: int | None
    weight_count: int
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    channels: tuple[int, int] = (0, 0)
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    groups: int = 1
    fused_into: str = ""
    dilation: int = 1


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What a model costs on paper, at batch size 1.

    `macs` leaves out the ops in `unknown_ops` (op name -> how often). `size_bytes` is parameters and buffers at
    float32; `peak_activation_bytes` is the largest sum of live float32 activations in execution order.
    """

    params: int
    macs: int
    size_bytes: int
    peak_activation_bytes: int
    ops: tuple[OpRecord, ...] = field(repr=False, default=())
    unknown_ops: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpCost:
    """The predicted time of one op."""

    name: str
    kind: str
    where: str
    latency_ms: float
    bound: Bound


@dataclass(frozen=True, slots=True)
class LatencyPrediction:
    """Predicted latency of a model on one compute unit of a target, with a 90 % interval inside `latency`.

    `uncovered` names the ops the cost model has no support for (their interval is widened, never hidden).
    """

    latency: Number
    by_op: tuple[OpCost, ...] = ()
    uncovered: tuple[str, ...] = ()


class LatencyModel(Protocol):
    """Anything that predicts a model's latency from its ops: a unit's op costs, or a fake in a test."""

    name: str
    channel_multiple: int

    def predict(self, ops: Sequence[OpRecord], scheme: Scheme) -> LatencyPrediction:
        """The predicted latency of a model made of `ops`, run at `scheme`."""
        ...


@dataclass(frozen=True, slots=True)
class ChannelEdit:
    """Remove output channels `remove` (sorted indices, of `width`) of `layer` and of everything coupled to it."""

    layer: str
    width: int
    remove: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BlockEdit:
    """Replace the residual block that ends in node `block` by its skip path."""

    block: str


@dataclass(frozen=True, slots=True)
class ResolutionEdit:
    """Work on the image at `size` (height, width) in pixels; it comes in at `size_before`, as it always did."""

    size: tuple[int, int]
    size_before: tuple[int, int]


@dataclass(frozen=True, slots=True)
class KernelEdit:
    """Keep the middle `size` taps, in each direction, of the `size_before` of convolution `layer`; both are odd."""

    layer: str
    size: int
    size_before: int


Edit = ChannelEdit | BlockEdit | ResolutionEdit | KernelEdit


def edit_to_dict(edit: Edit) -> dict[str, Any]:
    """An edit as plain JSON data, tagged by its kind."""
    if isinstance(edit, ChannelEdit):
        return {"edit": "channels", "layer": edit.layer, "width": edit.width, "remove": list(edit.remove)}
    if isinstance(edit, ResolutionEdit):
        return {"edit": "resolution", "size": list(edit.size), "size_before": list(edit.size_before)}
    if isinstance(edit, KernelEdit):
        return {"edit": "kernel", "layer": edit.layer, "size": edit.size, "size_before": edit.size_before}
    return {"edit": "block", "block": edit.block}


def edit_from_dict(record: Mapping[str, Any]) -> Edit:
    """An edit back from plain JSON data."""
    if record["edit"] == "channels":
        return ChannelEdit(record["layer"], int(record["width"]), tuple(int(i) for i in record["remove"]))
    if record["edit"] == "resolution":
        (height, width), (height_before, width_before) = record["size"], record["size_before"]
        return ResolutionEdit((int(height), int(width)), (int(height_before), int(width_before)))
    if record["edit"] == "kernel":
        return KernelEdit(record["layer"], int(record["size"]), int(record["size_before"]))
    return BlockEdit(record["block"])


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file (or `.mlpackage` folder) that runs on a device.

    `input_names` and `output_names` are the names inside the file; arrays are float32 in the layout of the
    torch model (NCHW). `float_ops` lists ops that stayed float in a quantized artifact, each with the reason;
    `delegate` says what executes it.
    """

    format: str
    path: str
    scheme: str
    size_bytes: int
    sha256: str
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    input_shapes: tuple[tuple[int, ...], ...] = ()
    delegate: str = ""
    float_ops: tuple[str, ...] = ()
    tool_versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The artifact's description as plain JSON data."""
        record = asdict(self)
        for key in ("input_names", "output_names", "float_ops", "notes"):
            record[key] = list(record[key])
        record["input_shapes"] = [list(shape) for shape in self.input_shapes]
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The description back from plain JSON data."""
        values = dict(record)
        for key in ("input_names", "output_names", "float_ops", "notes"):
            values[key] = tuple(values.get(key, ()))
        values["input_shapes"] = tuple(tuple(shape) for shape in values.get("input_shapes", ()))
        return cls(**values)
