"""Published measurements as (ops, latency) pairs, for the fit only: pandas and pyarrow are imported where used.

The tables: `graph_ops.parquet` (one row per op of each measured model: ATen name, shapes, MACs, weights) and a table
of measured latencies (one row per model and setting). Which rows serve a unit is stated in its target's file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.errors import DataError, ToolMissing
from compress.types import OpRecord

_KINDS = {
    "addmm": "linear", "mm": "linear", "bmm": "matmul",
    "_scaled_dot_product_flash_attention_for_cpu": "attention",
    "native_batch_norm": "norm", "native_layer_norm": "norm", "native_group_norm": "norm",
    "relu": "activation", "relu_": "activation", "hardtanh_": "activation", "silu": "activation",
    "silu_": "activation", "sigmoid": "activation", "sigmoid_": "activation", "gelu": "activation",
    "hardswish_": "activation", "hardsigmoid": "activation", "tanh": "activation", "tanh_": "activation",
    "leaky_relu_": "activation", "_softmax": "activation", "_safe_softmax": "activation",
    "add": "elementwise", "add_": "elementwise", "mul": "elementwise", "div": "elementwise", "sub": "elementwise",
    "addcmul": "elementwise", "clamp_min": "elementwise", "pow": "elementwise", "where": "elementwise",
    "mean": "pool", "sum": "pool", "avg_pool2d": "pool", "max_pool2d_with_indices": "pool",
    "linalg_vector_norm": "pool",
    "cat": "concat", "stack": "concat", "constant_pad_nd": "pad", "permute": "reshape", "transpose": "reshape",
    "clone": "reshape", "slice": "reshape", "split": "reshape", "split_with_sizes": "reshape", "unbind": "reshape",
    "unsafe_split": "reshape", "select": "reshape", "upsample_nearest2d": "resize", "upsample_bilinear2d": "resize",
    "upsample_bicubic2d": "resize", "embedding": "other", "index": "other",
}  # fmt: skip
# Ops that only allocate or fold away when a mobile runtime converts the graph.
_NOTHING = frozenset({
    "empty", "arange", "zeros", "ones", "new_full", "scalar_tensor", "tril", "_to_copy", "as_strided_", "copy_",
    "all", "eq", "exp", "sin", "cos", "argmax", "gather",
})  # fmt: skip
# Activations that a mobile runtime clamps inside the kernel before them.
_CLAMPS = frozenset({"relu", "relu_", "hardtanh_"})
_KERNELS = frozenset({"conv", "pointwise_conv", "depthwise_conv", "grouped_conv", "conv_transpose", "linear"})
_VARIANT = re.compile(r"^(?:se)?(?:pre)?(?=resne)")
_FAMILY = re.compile(r"^([a-z]+?)(?:bc|b)?(v\d)?b?(?=[\d_]|$)")
# Names that hide a family: all YOLO versions share their blocks, and so do the nets built on them.
_YOLO = ("yolo", "fastsam")


def family_of(model: str) -> str:
    """The architecture family in a model's name: mobilenetv2b_w1 -> mobilenetv2, sepreresnet18 -> resnet."""
    name = model.lower()
    if name.startswith(_YOLO):
        return _YOLO[0]
    match = _FAMILY.match(_VARIANT.sub("", name))
    return match.group(1) + (match.group(2) or "") if match else name


def read_graphs(folder: Path, source: str) -> dict[str, tuple[OpRecord, ...]]:
    """The ops of every model (component) of `graph_ops.parquet` with this source, in execution order."""
    table = _read(folder / "graph_ops.parquet")
    table = table[table["source"] == source].sort_values(["model", "component", "i"])
    graphs: dict[str, tuple[OpRecord, ...]] = {}
    for (model, component), rows in table.groupby(["model", "component"], sort=True):
        if not component:
            graphs[model] = fuse(_records(rows.to_dict("records")))
    if not graphs:
        raise DataError(f"{folder / 'graph_ops.parquet'}: no graph has source '{source}'")
    return graphs


def read_latencies(folder: Path, table: str, rows: Mapping[str, str]) -> dict[str, float]:
    """Latency (ms) per model: the median of the rows of `table` where each column in `rows` has that value."""
    path = folder / table
    frame = _read(path)
    for column, value in rows.items():
        if column not in frame.columns:
            raise DataError(f"{path}: no column '{column}'; the calibration of the target names it")
        frame = frame[frame[column] == value]
    if "component" in frame.columns:
        frame = frame[frame["component"].isna() | (frame.groupby("model_id")["component"].transform("nunique") == 1)]
    key = "model" if "model" in frame.columns else "model_id"
    if frame.empty:
        raise DataError(f"{path}: no row has {dict(rows)}; the calibration of the target names them")
    return {str(model): float(value) for model, value in frame.groupby(key)["latency_ms"].median().items()}


def fuse(ops: Iterable[OpRecord]) -> tuple[OpRecord, ...]:
    """The ops with `fused_into` set as a mobile runtime fuses them.

    A batch norm straight after a convolution folds into it; a clamp (ReLU, ReLU6) into the kernel before it; an
    addition of two maps takes the clamp after it.
    """
    fused: list[OpRecord] = []
    kernel: OpRecord | None = None
    for op in ops:
        name = op.op
        folds = kernel is not None and op.output_shape == kernel.output_shape and (
            (name == "native_batch_norm" and kernel.kind in _KERNELS) or name in _CLAMPS
        )  # fmt: skip
        if folds and kernel is not None:
            fused.append(replace(op, fused_into=kernel.name))
            if name in _CLAMPS:
                kernel = None
            continue
        fused.append(op)
        kernel = op if op.kind in _KERNELS or (op.kind == "elementwise" and len(op.input_shapes) > 1) else None
    return tuple(fused)


def _records(rows: Iterable[Mapping[str, Any]]) -> list[OpRecord]:
    """The table's rows as op records, without those that vanish on conversion."""
    records = []
    for row in rows:
        name = str(row["op"]).split(".")[0]
        if name not in _NOTHING:
            records.append(_record(name, row))
    return records


def _record(name: str, row: Mapping[str, Any]) -> OpRecord:
    """One row as an op record; MACs are None where the op's kind is not known."""
    inputs = tuple(_shape(text) for text in str(row["in_shapes"]).split(";") if text and text != "nan")
    output = _shape(str(row["out_shape"]))
    groups, channels = 1, (0, 0)
    kernel: tuple[int, ...] = ()
    kind = _KINDS.get(name, "other")
    if name == "convolution":
        groups, channels = int(row["groups"]), (int(row["cin"]), int(row["cout"]))
        kernel = _shape(str(row["kernel"]))
        kind = "conv" if groups == 1 else "depthwise_conv" if groups == channels[0] else "grouped_conv"
    elif kind in ("linear", "matmul", "attention"):
        channels = (inputs[0][-1], output[-1]) if inputs and inputs[0] else (0, 0)
    macs = None if kind == "other" else int(row["macs"])
    return OpRecord(
        name=f"{row['i']}", op=name, kind=kind, where="", macs=macs, weight_count=int(row["weight_elems"]),
        input_shapes=inputs, output_shape=output, channels=channels, kernel=kernel, groups=groups,
    )  # fmt: skip


def _shape(text: str) -> tuple[int, ...]:
    """The shape written as 1x3x224x224; () where there is none."""
    return tuple(int(part) for part in text.split("x") if part.isdigit())


def _read(path: Path) -> Any:
    """The table at `path` as a data frame; raises DataError where it is missing, ToolMissing without pandas."""
    try:
        import pandas
        import pyarrow  # noqa: F401 - pandas reads parquet through it
    except ImportError as error:
        raise ToolMissing(f"{error.name} (needed by the fit only)", "fit") from error
    if not path.exists():
        raise DataError(f"{path}: no such table; give the folder of the published tables")
    return pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_csv(path, low_memory=False)
