"""Published measurements as (ops, latency) pairs, for the fit only: pandas and pyarrow are imported where used.

The tables: `graph_ops.parquet` (one row per op of each measured model: ATen name, shapes, MACs, weights) and a table
of measured latencies (one row per model and setting). Which rows serve a unit is stated in its target's file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from compress.errors import DataError, ToolMissing
from compress.profile.layer_table import graphs_of_layers, plain_model
from compress.profile.lowering import lowered
from compress.profile.read.kinds import KIND_OF, plain
from compress.resources import data_folder
from compress.types import OpRecord

# The kinds that all readers know, and products of matrices, which these read from their shapes.
_KINDS = KIND_OF | {
    "addmm": "linear", "mm": "linear", "bmm": "matmul", "baddbmm": "matmul",
    "scaled_dot_product_flash_attention_for_cpu": "attention",
}  # fmt: skip
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
# What tables call the name of a model, and its latency.
_NAMES = ("model", "model_id")
_VALUES = ("latency_ms", "avg_ms", "value")
# What marks a model's int8 file in a table that gives it a name of its own.
_INT8 = "_int8"
# What a figure of a table that has a unit for each row is in milliseconds.
_MILLISECONDS: dict[str, Callable[[float], float]] = {
    "ms": lambda value: value,
    "s": lambda value: 1000 * value,
    "iter/s": lambda value: 1000 / value,
    "fps": lambda value: 1000 / value,
}


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


def families_in(folder: Path, source: str, models: Iterable[str]) -> dict[str, str]:
    """The family of each model of this source: as its table of graphs says, else by name."""
    rebuilt = _rebuilt(source)
    known: dict[str, str] = {}
    if rebuilt.exists() and "family" in (table := _read(rebuilt)).columns:
        known = dict(zip(table["model"], table["family"], strict=True))
    named = plain_model if _layers(folder, source).exists() else str
    return {model: known.get(model) or families_of([named(model)])[named(model)] for model in models}


def _rebuilt(source: str) -> Path:
    """Where the graphs of a source lie that were built again."""
    return data_folder("profiles") / "graphs" / f"{source}.csv.gz"


def _layers(folder: Path, source: str) -> Path:
    """Where the published table of a runtime's own layers lies, if this source is one."""
    return folder / f"{source}_layers.csv.gz"


@cache
def read_graphs(folder: Path, source: str) -> dict[str, tuple[OpRecord, ...]]:
    """The ops of every model with this source, in execution order, by its name or as "name/component".

    They are those of `graph_ops.parquet` in `folder`, or of a table of a runtime's own layers (SOURCE_layers.csv.gz);
    where `profiles/graphs` holds a table of that source (models that were built again since), its graphs come on top
    and replace those of the same name.
    """
    if _layers(folder, source).exists():
        return graphs_of_layers(_read(_layers(folder, source)).to_dict("records"))
    path = folder / "graph_ops.parquet"
    rebuilt = _rebuilt(source)
    graphs: dict[str, tuple[OpRecord, ...]] = {}
    if path.exists() or not rebuilt.exists():
        table = _read(path)
        graphs = _graphs_in(table[table["source"] == source])
    if rebuilt.exists():
        graphs |= _graphs_in(_read(rebuilt))
    if not graphs:
        raise DataError(f"{path}: no graph has source '{source}'")
    return graphs


def _graphs_in(table: Any) -> dict[str, tuple[OpRecord, ...]]:
    """The graphs of a table of ops."""
    table = table.assign(component=table["component"].fillna("")).sort_values(["model", "component", "i"])
    return {
        f"{model}/{component}" if component else str(model): lowered(_records(rows.to_dict("records")))
        for (model, component), rows in table.groupby(["model", "component"], sort=True)
    }


def read_rows(folder: Path, table: str, rows: Mapping[str, str | tuple[str, ...]]) -> Any:
    """The rows of `table`, as a data frame, where each column in `rows` has (one of) its values.

    Rows of which more than a twentieth of the layers fell back to the CPU are no measurement of the unit and are left
    out.
    """
    path = folder / table
    frame = _read(path)
    for column, wanted in rows.items():
        if column not in frame.columns:
            raise DataError(f"{path}: no column '{column}'; the calibration of the target names it")
        frame = frame[frame[column].astype(str).isin([wanted] if isinstance(wanted, str) else wanted)]
    if "layers_cpu" in frame.columns:
        frame = frame[frame["layers_cpu"].fillna(0) <= _MOST_FALLEN_BACK * frame["layers_total"]]
    return frame


def read_latencies(folder: Path, table: str, rows: Mapping[str, str | tuple[str, ...]]) -> dict[str, float]:
    """Latency (ms) per model: the median of the rows of `table` where each column in `rows` has (one of) its values.

    The only component of a model goes by the model's name, one of several as "model/component"; where the table says
    what a model was given, as "model @ input". A model's int8 file goes by the model's name. Rows of which more than a
    twentieth of the layers fell back to the CPU are no measurement of the unit and are left out.
    """
    path = folder / table
    whole = _read(path)
    key = next(name for name in _NAMES if name in whole.columns)
    # Counted before rows are left out: a component whose siblings fell back is still no whole model.
    parts = whole.groupby(key)["component"].nunique() if "component" in whole.columns else None
    frame = read_rows(folder, table, rows)
    if frame.empty:
        raise DataError(f"{path}: no row has {dict(rows)}; the calibration of the target names them")
    name = frame[key].astype(str).str.removesuffix(_INT8)
    if parts is not None:
        several = frame[key].map(parts) > 1
        name = name.where(~several, name + "/" + frame["component"].astype(str))
    if "input" in frame.columns:
        name = name + " @ " + frame["input"].astype(str)
    return {str(model): float(value) for model, value in _milliseconds(frame, path).groupby(name).median().items()}


def _milliseconds(frame: Any, path: Path) -> Any:
    """The column of latencies in milliseconds."""
    column = next(name for name in _VALUES if name in frame.columns)
    if column != "value":
        return frame[column]
    strange = sorted(set(frame["unit"]) - set(_MILLISECONDS))
    if strange:
        raise DataError(f"{path}: no latency is in '{strange[0]}'; known are {', '.join(_MILLISECONDS)}")
    return frame["value"].combine(frame["unit"], lambda value, unit: _MILLISECONDS[unit](value))


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
    kind = _KINDS.get(plain(name), "other") if _missing(row.get("kind")) else str(row["kind"])
    if name == "convolution":
        groups, channels = int(row["groups"]), (int(row["cin"]), int(row["cout"]))
        kernel, stride = _shape(str(row["kernel"])), _shape(str(row["stride"]))
        dilation = max(_shape(str(row.get("dilation", ""))), default=1)
        kind = "conv" if groups == 1 else "depthwise_conv" if groups == channels[0] else "grouped_conv"
        if row.get("transposed") == 1:
            kind = "conv_transpose"
    elif kind == "pool":
        kernel, stride = _shape(str(row["kernel"])), _shape(str(row["stride"]))
    elif kind in ("linear", "matmul", "attention"):
        channels = (inputs[0][-1], output[-1]) if inputs and inputs[0] else (0, 0)
    macs = None if kind == "other" else int(row["macs"])
    read = 0 if kind == "gather" else int(row["weight_elems"])  # a gather reads the rows it gives, not the table
    return OpRecord(
        name=f"{row['i']}", op=name, kind=kind, where="", macs=macs, weight_count=read,
        input_shapes=inputs, output_shape=output, channels=channels, kernel=kernel, stride=stride, groups=groups,
        dilation=dilation,
    )  # fmt: skip


def _missing(cell: Any) -> bool:
    """Whether a cell of a table is empty, or not there."""
    return cell is None or cell == "" or cell != cell


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
