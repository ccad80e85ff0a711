"""Published measurements as (ops, latency) pairs, for the fit only: pandas and pyarrow are imported where used.

The tables: `graph_ops.parquet` (one row per op of each measured model: ATen name, shapes, MACs, weights) and a table
of measured latencies (one row per model and setting). Which rows serve a unit is stated in its target's file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from compress.errors import DataError, ToolMissing
from compress.profile.lowering import lowered
from compress.resources import data_folder
from compress.types import OpRecord

_KINDS = {
    op: kind
    for kind, ops in {
        "linear": "addmm mm",
        "matmul": "bmm baddbmm",
        "attention": "_scaled_dot_product_flash_attention_for_cpu",
        "norm": "native_batch_norm native_layer_norm native_group_norm",
        "activation": "relu relu_ hardtanh hardtanh_ silu silu_ sigmoid sigmoid_ gelu hardswish hardswish_ hardsigmoid "
        "hardsigmoid_ tanh tanh_ leaky_relu leaky_relu_ _prelu_kernel elu elu_ softplus mish exp sin cos sqrt rsqrt "
        "pow reciprocal log clamp",
        "softmax": "_softmax _safe_softmax",
        "elementwise": "add add_ mul mul_ div div_ sub sub_ rsub addcmul clamp_min where neg maximum minimum abs",
        "reduce": "mean sum linalg_vector_norm amax amin max min var std var_mean argmax _adaptive_avg_pool2d",
        "pool": "avg_pool2d avg_pool1d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices",
        "concat": "cat stack",
        "pad": "constant_pad_nd reflection_pad2d replication_pad2d",
        "move": "permute transpose slice split split_with_sizes unbind unsafe_split select roll flip repeat "
        "pixel_shuffle pixel_unshuffle im2col channel_shuffle",
        "resize": "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d grid_sampler_2d",
        "gather": "embedding index gather index_select",
        "reshape": "clone",
    }.items()
    for op in ops.split()
}
# Ops that only allocate or fold away when a mobile runtime converts the graph.
_NOTHING = frozenset(
    "empty arange zeros ones new_full scalar_tensor tril _to_copy as_strided_ copy_ all eq new_empty new_zeros full "
    "linspace fill_ zero_ lift_fresh_copy".split()
)
_VARIANT = re.compile(r"^(?:se)?(?:pre)?(?=resne)")
_FAMILY = re.compile(r"^([a-z]+?)(?:bc|b)?(v\d)?b?(?=[\d_]|$)")
# Names that hide a family: all YOLO versions share their blocks, and so do the nets built on them.
_YOLO = ("yolo", "fastsam")
_MOST_FALLEN_BACK = 0.05


def family_of(model: str) -> str:
    """The architecture family in a model's name: mobilenetv2b_w1 -> mobilenetv2, sepreresnet18 -> resnet."""
    name = model.lower()
    if name.startswith(_YOLO):
        return _YOLO[0]
    match = _FAMILY.match(_VARIANT.sub("", name))
    return match.group(1) + (match.group(2) or "") if match else name


def families_of(models: Iterable[str]) -> dict[str, str]:
    """The family of each model; a component counts as its model ("whisper/encoder" -> whisper)."""
    return {model: family_of(model.partition("/")[0]) for model in models}


def read_graphs(folder: Path, source: str) -> dict[str, tuple[OpRecord, ...]]:
    """The ops of every model with this source, in execution order, by its name or as "name/component".

    They are those of `graph_ops.parquet` in `folder`; where `profiles/graphs` holds a table of that source (models
    that were built again since), its graphs come on top and replace those of the same name.
    """
    table = _read(folder / "graph_ops.parquet")
    graphs = _graphs_in(table[table["source"] == source])
    rebuilt = data_folder("profiles") / "graphs" / f"{source}.csv.gz"
    if rebuilt.exists():
        graphs |= _graphs_in(_read(rebuilt))
    if not graphs:
        raise DataError(f"{folder / 'graph_ops.parquet'}: no graph has source '{source}'")
    return graphs


def _graphs_in(table: Any) -> dict[str, tuple[OpRecord, ...]]:
    """The graphs of a table of ops."""
    table = table.assign(component=table["component"].fillna("")).sort_values(["model", "component", "i"])
    return {
        f"{model}/{component}" if component else str(model): lowered(_records(rows.to_dict("records")))
        for (model, component), rows in table.groupby(["model", "component"], sort=True)
    }


def read_latencies(folder: Path, table: str, rows: Mapping[str, str]) -> dict[str, float]:
    """Latency (ms) per model: the median of the rows of `table` where each column in `rows` has that value.

    The only component of a model goes by the model's name, one of several as "model/component". Rows of which more
    than a twentieth of the layers fell back to the CPU are no measurement of the unit and are left out.
    """
    path = folder / table
    frame = _read(path)
    key = "model" if "model" in frame.columns else "model_id"
    # Counted before rows are left out: a component whose siblings fell back is still no whole model.
    parts = frame.groupby(key)["component"].nunique() if "component" in frame.columns else None
    for column, value in rows.items():
        if column not in frame.columns:
            raise DataError(f"{path}: no column '{column}'; the calibration of the target names it")
        frame = frame[frame[column] == value]
    if "layers_cpu" in frame.columns:
        frame = frame[frame["layers_cpu"].fillna(0) <= _MOST_FALLEN_BACK * frame["layers_total"]]
    if frame.empty:
        raise DataError(f"{path}: no row has {dict(rows)}; the calibration of the target names them")
    name = frame[key].astype(str)
    if parts is not None:
        several = frame[key].map(parts) > 1
        name = name.where(~several, name + "/" + frame["component"].astype(str))
    return {str(model): float(value) for model, value in frame["latency_ms"].groupby(name).median().items()}


def _records(rows: Iterable[Mapping[str, Any]]) -> list[OpRecord]:
    """The table's rows as op records, without those that vanish on conversion."""
    named = [(str(row["op"]).split(".")[0], row) for row in rows]
    return [_record(name, row) for name, row in named if name not in _NOTHING]


def _record(name: str, row: Mapping[str, Any]) -> OpRecord:
    """One row as an op record; MACs are None where the op's kind is not known."""
    inputs = tuple(_shape(text) for text in str(row["in_shapes"]).split(";") if text and text != "nan")
    output = _shape(str(row["out_shape"]))
    groups, channels, dilation = 1, (0, 0), 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    kind = _KINDS.get(name, "other")
    if name == "convolution":
        groups, channels = int(row["groups"]), (int(row["cin"]), int(row["cout"]))
        kernel, stride = _shape(str(row["kernel"])), _shape(str(row["stride"]))
        dilation = max(_shape(str(row.get("dilation", ""))), default=1)
        kind = "conv" if groups == 1 else "depthwise_conv" if groups == channels[0] else "grouped_conv"
        if row.get("transposed") == 1:
            kind = "conv_transpose"
    elif kind in ("linear", "matmul", "attention"):
        channels = (inputs[0][-1], output[-1]) if inputs and inputs[0] else (0, 0)
    macs = None if kind == "other" else int(row["macs"])
    read = 0 if kind == "gather" else int(row["weight_elems"])  # a gather reads the rows it gives, not the table
    return OpRecord(
        name=f"{row['i']}", op=name, kind=kind, where="", macs=macs, weight_count=read,
        input_shapes=inputs, output_shape=output, channels=channels, kernel=kernel, stride=stride, groups=groups,
        dilation=dilation,
    )  # fmt: skip


def _shape(text: str) -> tuple[int, ...]:
    """The shape written as 1x3x224x224; () where there is none."""
    return tuple(int(part) for part in text.split("x") if part.isdigit())


@cache
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
