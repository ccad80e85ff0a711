"""The ops of an exported program: every ATen call with its shapes, as the other readers give them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.operator_schemas import normalize_function

from compress.errors import ModelError
from compress.graph.cost import KIND_OF, op_name, where
from compress.graph.trace import untraceable
from compress.profile.lowering import lowered
from compress.types import OpRecord

_PRODUCTS = frozenset({"matmul", "mm", "bmm", "baddbmm"})
_LINEARS = frozenset({"linear", "addmm"})
_QUANTIZERS = ("quantize_per", "dequantize_per", "choose_qparams")
# Bookkeeping on indices and constants, which no runtime computes at inference.
_NOTHING = frozenset(
    "arange full zeros ones zeros_like ones_like full_like linspace scalar_tensor triu tril sym_size detach alias "
    "lift_fresh_copy dropout feature_dropout _assert_tensor_metadata _assert_async empty new_zeros new_ones empty_like "
    "fill copy".split()
)


def read_model(model: nn.Module, example_inputs: Sequence[Tensor]) -> tuple[OpRecord, ...]:
    """The ops of a torch model at the shapes of its inputs, as a mobile runtime runs them.

    Raises:
        ModelError: `torch.export` cannot trace the model; names the line of the user's code.
    """
    model.eval()
    try:
        with torch.no_grad():
            program = torch.export.export(model, tuple(example_inputs), strict=False)
    except Exception as error:
        raise untraceable(error) from error
    return read_program(program)


def read_program(program: ExportedProgram) -> tuple[OpRecord, ...]:
    """The ops of an exported program, as a mobile runtime runs them; quantize and dequantize ops count nothing."""
    constants = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is not torch.export.graph_signature.InputKind.USER_INPUT and hasattr(spec.arg, "name")
    }
    weights: set[fx.Node] = {node for node in program.graph.nodes if node.name in constants or node.op == "get_attr"}
    records: list[OpRecord] = []
    for node in program.graph.nodes:
        if node.op != "call_function" or node.target is operator.getitem:
            if node.op == "call_function" and node.args[0] in weights:
                weights.add(node)
            continue
        if not isinstance(node.target, torch._ops.OpOverload) or not _tensors(node.meta.get("val")):
            continue
        sources = [source for source in node.all_input_nodes if _tensors(source.meta.get("val"))]
        name = op_name(node)
        if all(source in weights for source in sources):
            weights.add(node)  # computed from parameters alone, once: a weight too
        elif name.startswith(_QUANTIZERS) or name in _NOTHING:
            continue
        else:
            records.append(_record(node, name, sources, weights))
    if not records:
        raise ModelError("the program computes nothing from its inputs")
    return lowered(records)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in what a node gives."""
    values = value if isinstance(value, (tuple, list)) else [value]
    return [each for each in values if isinstance(each, Tensor)]


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of the first tensor in a value, symbolic sizes as their hint."""
    return tuple(int(size) for size in _tensors(value)[0].shape)


def _record(node: fx.Node, name: str, sources: Sequence[fx.Node], weights: set[fx.Node]) -> OpRecord:
    """One op as a record."""
    fed = [source for source in sources if source not in weights]
    held = [source for source in sources if source in weights]
    output = _shape(node.meta["val"])
    base: dict[str, Any] = {
        "name": node.name,
        "op": name,
        "where": where(node),
        "input_shapes": tuple(_shape(source.meta["val"]) for source in fed),
        "output_shape": output,
        "weight_count": sum(math.prod(_shape(source.meta["val"])) for source in held),
    }
    given = _arguments(node)
    if name.startswith(("conv", "_convolution")):
        return _convolution(name, given, base)
    if name in _LINEARS or (name in _PRODUCTS and held):
        left = base["input_shapes"][0] if base["input_shapes"] else output
        return OpRecord(kind="linear", macs=math.prod(output) * left[-1], channels=(left[-1], output[-1]), **base)
    if name in _PRODUCTS:
        left, right = (_shape(factor.meta["val"]) for factor in node.args[-2:])  # type: ignore[union-attr]
        base["input_shapes"] = (left, right)
        return OpRecord(kind="matmul", macs=math.prod(output) * left[-1], channels=(left[-1], output[-1]), **base)
    if "scaled_dot_product" in name:
        query, key, value = (_shape(given[part].meta["val"]) for part in ("query", "key", "value"))
        base["input_shapes"] = (query, key, value)
        macs = math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
        return OpRecord(kind="attention", macs=macs, channels=(query[-1], value[-1]), **base)
    kind = KIND_OF.get(name.removesuffix("_copy").removeprefix("_") if name not in KIND_OF else name, "other")
    if kind == "gather":
        base["weight_count"] = 0  # it reads the rows it gives, not the table
    return OpRecord(kind=kind, macs=None if kind == "other" else 0, **base)


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an op by their names in its schema."""
    assert callable(node.target)
    normal = normalize_function(node.target, node.args, node.kwargs, normalize_to_only_use_kwargs=True)  # type: ignore[arg-type]
    return dict(normal.kwargs) if normal is not None else {}


def _convolution(name: str, given: dict[str, Any], base: dict[str, Any]) -> OpRecord:
    """A convolution of any rank, transposed or not."""
    shape, output = _shape(given["input"].meta["val"]), base["output_shape"]
    weight = _shape(given["weight"].meta["val"])
    transposed = "transpose" in name or bool(given.get("transposed"))
    groups = int(given.get("groups") or 1)
    channels = (shape[1], output[1])
    kind = "conv" if groups == 1 else "depthwise_conv" if groups == channels[0] else "grouped_conv"
    positions = math.prod((shape if transposed else output)[2:]) * shape[0]
    return OpRecord(
        kind="conv_transpose" if transposed else kind,
        macs=positions * math.prod(weight),
        channels=channels,
        kernel=weight[2:],
        stride=_sizes(given.get("stride"), len(weight) - 2),
        groups=groups,
        dilation=max(_sizes(given.get("dilation"), len(weight) - 2)),
        **base,
    )


def _sizes(value: Any, count: int) -> tuple[int, ...]:
    """A setting as one number for each dimension; 1 where it is not given."""
    values = list(value) if isinstance(value, Sequence) else [1 if value is None else value]
    return tuple(int(each) for each in (values * count if len(values) == 1 else values or [1] * count))
