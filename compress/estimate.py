"""What a model will take on a device, asked for a model in any form: the door behind `compress profile MODEL`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from compress.entry import load_entry
from compress.errors import CompressError, InputError, ModelError, UnknownName
from compress.profile.latency import ALIASES, load_latency_model
from compress.targets import load_target
from compress.types import LatencyPrediction, OpRecord, Scheme

if TYPE_CHECKING:
    from torch import Tensor, nn

_DEFAULT_INPUT = (1, 3, 224, 224)
# Bits of a weight in each scheme; a palette's few entries are not counted.
_WEIGHT_BITS: dict[Scheme, int] = {
    "float32": 32, "float16": 16, "w8a8": 8, "w8a16": 8, "w4a8": 4, "w4": 4, "palette4": 4, "palette6": 6,
}  # fmt: skip
_DTYPES = ("float32", "float16", "int64", "int32", "bool")


@dataclass(frozen=True, slots=True)
class Estimate:
    """The predicted latency of one model on one unit, with what it was predicted from.

    `peak_activation_bytes` is the largest sum of an op's inputs and outputs at the scheme's value size, and
    `weight_bytes` what the ops' weights take (tables that are only looked up in are left out). Their sum is a lower
    bound of the peak memory: what a runtime keeps besides depends on it. `notes` say what had to be assumed.
    """

    model: str
    target: str
    unit: str
    runtime: str
    scheme: Scheme
    macs: int
    ops: int
    peak_activation_bytes: int
    weight_bytes: int
    prediction: LatencyPrediction
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The estimate as plain JSON data: latency_ms, interval_ms, origin, uncovered and by_op among it."""
        latency = self.prediction.latency
        return {
            "model": self.model,
            "target": self.target,
            "unit": self.unit,
            "runtime": self.runtime,
            "scheme": self.scheme,
            "latency_ms": latency.value,
            "interval_ms": list(latency.interval or ()),
            "origin": latency.origin,
            "n": latency.n,
            "source": latency.source,
            "macs": self.macs,
            "ops": self.ops,
            "peak_memory_bytes": self.weight_bytes + self.peak_activation_bytes,
            "peak_activation_bytes": self.peak_activation_bytes,
            "weight_bytes": self.weight_bytes,
            "uncovered": list(self.prediction.uncovered),
            "notes": list(self.notes),
            "by_op": [asdict(cost) for cost in self.prediction.by_op if cost.latency_ms > 0],
        }


def estimate(
    model: str | Path | nn.Module,
    target: str,
    unit: str = "",
    scheme: Scheme = "float32",
    runtime: str = "",
    inputs: Sequence[str] | Sequence[Tensor] = (),
) -> Estimate:
    """What `model` will take on a compute unit of `target`.

    Args:
        model: a torch module, or the path of an .onnx, .tflite, .pte or .pt2 file, or what gives a module
            (`package.module:factory`, `path/to/file.py:factory`, `timm:NAME`).
        target: the name of a shipped target or the path of a target file.
        unit: one of its compute units; by default the only one that has a latency model.
        scheme: how the model is quantized there.
        runtime: one of the profile's runtimes; by default its first.
        inputs: for a torch model, its example inputs, or their shapes ("1x3x224x224", "1x128:int64"); for an .onnx or
            .pt2 file that leaves sizes free, the shapes.

    Raises:
        InputError: the model cannot be read.
        UnknownName: no such target, unit, runtime or scheme.
        ModelError: the model cannot be traced.
    """
    if scheme not in get_args(Scheme):
        raise UnknownName("scheme", scheme, get_args(Scheme))
    described = load_target(target)
    unit = unit or _only_unit(described)
    latency = load_latency_model(described, unit, runtime)
    ops, notes = read(model, inputs)
    value_bytes = 1 if scheme == "w8a8" else 2 if scheme in ("float16", "w8a16") else 4
    return Estimate(
        model=str(model) if isinstance(model, (str, Path)) else type(model).__name__,
        target=described.name,
        unit=unit,
        runtime=ALIASES.get(runtime, runtime) or getattr(latency, "first_runtime", ""),
        scheme=scheme,
        macs=sum(op.macs or 0 for op in ops),
        ops=sum(1 for op in ops if not op.fused_into and op.kind != "reshape"),
        peak_activation_bytes=value_bytes * max(map(_values, ops), default=0),
        weight_bytes=round(_WEIGHT_BITS[scheme] / 8 * sum(op.weight_count for op in ops)),
        prediction=latency.predict(ops, scheme),
        notes=notes,
    )


def read(
    model: str | Path | nn.Module, inputs: Sequence[str] | Sequence[Tensor] = ()
) -> tuple[tuple[OpRecord, ...], tuple[str, ...]]:
    """The ops of a model in any form (see `estimate`), and what had to be assumed to read it."""
    notes: list[str] = []
    if not isinstance(model, (str, Path)):
        tensors, said = _tensors(inputs, model)
        return _read_module(model, tensors, notes), (*said, *notes)
    path = Path(model)
    if path.suffix in _READERS:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        return _READERS[path.suffix](path, _shapes(inputs), notes), tuple(notes)
    if ":" not in str(model):
        raise InputError(f"{model}: expected an {', '.join(_READERS)} file, or package.module:factory, or timm:NAME")
    return _from_entry(str(model), inputs)


def _from_entry(entry: str, inputs: Sequence[Any]) -> tuple[tuple[OpRecord, ...], tuple[str, ...]]:
    """The ops of the model that an entry's factory makes; it may give (model, example inputs) too."""
    from torch import nn

    made = load_entry(entry, Path.cwd())
    if not isinstance(made, nn.Module):
        try:
            made = made()
        except CompressError:
            raise
        except Exception as error:  # the user's own code
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(f"{entry}: calling it without arguments fails ({reason})") from error
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        made, given = made
        inputs = inputs or (given if isinstance(given, (tuple, list)) else (given,))
    if not isinstance(made, nn.Module):
        raise InputError(f"{entry}: gave a {type(made).__name__}, not a torch.nn.Module")
    tensors, said = _tensors(inputs, made)
    notes: list[str] = []
    return _read_module(made, tensors, notes), (*said, *notes)


def _read_module(model: nn.Module, tensors: Sequence[Tensor], notes: list[str]) -> tuple[OpRecord, ...]:
    """The ops of a torch model: as it is traced, or where it cannot be, as it runs on its example inputs."""
    from compress.profile.read.program import read_model, read_running

    try:
        return read_model(model, tensors)
    except ModelError as error:
        try:
            ops = read_running(model, tensors)
        except ModelError as failed:
            raise failed from error
        reason = str(error).partition(" (")[0]
        notes.append(f"{reason}: read as it runs on the example inputs, whose values decide what it does")
        return ops


def _tensors(inputs: Sequence[Any], model: nn.Module) -> tuple[list[Tensor], tuple[str, ...]]:
    """Example inputs from tensors or shapes; what a model says of itself where none are given, else an image."""
    import torch

    if inputs:
        return [each if isinstance(each, torch.Tensor) else _tensor(each) for each in inputs], ()
    config = getattr(model, "default_cfg", None) or getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else None
    if size:
        return [torch.zeros(1, *size)], ()
    note = f"no input was named: {'x'.join(map(str, _DEFAULT_INPUT))} is assumed (--input says otherwise)"
    warnings.warn(note, stacklevel=2)
    return [torch.zeros(_DEFAULT_INPUT)], (note,)


def _tensor(text: str) -> Tensor:
    """The tensor of zeros that a text such as 1x3x224x224 or 1x128:int64 describes."""
    import torch

    shape, dtype = _shape_of(text)
    return torch.zeros(shape, dtype=getattr(torch, dtype))


def _shape_of(text: str) -> tuple[tuple[int, ...], str]:
    """The shape and the type of values that a text such as 1x3x224x224 or 1x128:int64 names."""
    shape, _, dtype = text.partition(":")
    sizes = shape.split("x")
    if not all(size.isdigit() and int(size) > 0 for size in sizes) or (dtype and dtype not in _DTYPES):
        raise InputError(f"input '{text}': expected a shape such as 1x3x224x224, or 1x128:int64 ({', '.join(_DTYPES)})")
    return tuple(int(size) for size in sizes), dtype or "float32"


def _only_unit(target: Any) -> str:
    """The one unit that has a latency model; raises InputError where there are several, or none."""
    having = [name for name, unit in target.units.items() if unit.profile]
    if len(having) != 1:
        raise InputError(
            f"target {target.name}: name one of its units with --unit: {', '.join(having) or 'none has a profile'}"
        )
    return having[0]


def _values(op: OpRecord) -> int:
    """How many values an op reads and writes."""
    from math import prod

    return sum(prod(shape) for shape in op.input_shapes) + prod(op.output_shape)


def _shapes(inputs: Sequence[Any]) -> list[tuple[int, ...]]:
    """The shapes of inputs that are given as tensors or as texts such as 1x3x224x224."""
    return [tuple(getattr(each, "shape", ())) or _shape_of(each)[0] for each in inputs]


def _read_onnx(path: Path, shapes: Sequence[tuple[int, ...]], notes: list[str]) -> tuple[OpRecord, ...]:
    from compress.profile.read.onnx_file import read_onnx

    return read_onnx(path, shapes, notes)


def _read_litert(path: Path, shapes: Sequence[tuple[int, ...]], notes: list[str]) -> tuple[OpRecord, ...]:
    from compress.profile.read.litert_file import read_litert

    _say_ignored(path, shapes, notes)
    return read_litert(path)


def _read_program(path: Path, shapes: Sequence[tuple[int, ...]], notes: list[str]) -> tuple[OpRecord, ...]:
    import torch

    from compress.profile.read.program import read_program

    logging.getLogger("torch.export").setLevel(logging.CRITICAL)  # it prints its own traceback for a bad file
    try:
        program = torch.export.load(str(path))
    except Exception as error:  # torch.export.load raises many unrelated types
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: not an exported program: {reason}") from error
    try:
        return read_program(program, shapes, notes)
    except CompressError as error:
        raise InputError(f"{path}: {error}") from error


def _read_executorch(path: Path, shapes: Sequence[tuple[int, ...]], notes: list[str]) -> tuple[OpRecord, ...]:
    from compress.profile.read.executorch_file import read_executorch

    _say_ignored(path, shapes, notes)
    return read_executorch(path)


def _say_ignored(path: Path, shapes: Sequence[tuple[int, ...]], notes: list[str]) -> None:
    if shapes:
        notes.append(f"{path}: --input is ignored: the shapes in such a file are fixed")


_READERS = {".onnx": _read_onnx, ".tflite": _read_litert, ".pte": _read_executorch, ".pt2": _read_program}
