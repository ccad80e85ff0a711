"""ATen calls as op records, from the shapes of their tensors: those of a program, and those that composite ops are.

Tensors stand on the meta device: they have a shape and no values. Those that are known before the program runs (its
weights, and all that is computed from them alone) are told apart by identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx.operator_schemas import normalize_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compress.profile.read.kinds import NEUTRAL, kind_of, plain, turned_product
from compress.types import OpRecord

_PRODUCTS = frozenset({"matmul", "mm", "bmm", "baddbmm", "mv", "dot"})
_LINEARS = frozenset({"linear", "addmm"})
_QUANTIZERS = ("quantize_per", "dequantize_per", "choose_qparams", "fake_quantize")
# What gives the same whatever its inputs hold.
_CONSTANT = frozenset(
    "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty new_empty_strided".split()
)
# Marks and copies into place, which no runtime computes.
_NOTHING = frozenset("assert_tensor_metadata assert_async assert_scalar copy fill zero sym_constrain_range".split())


class Calls:
    """The records of the calls that are added, in their order; `held` has what is known before the program runs."""

    def __init__(self) -> None:
        self.records: list[OpRecord] = []
        self._held: dict[int, Tensor] = {}  # by identity, and kept, so that no other takes it
        self._seen_through: dict[int, int] = {}  # what a weight may be a view of

    def hold(self, *tensors: Tensor) -> None:
        """Notes tensors as weights."""
        self._held |= {id(tensor): tensor for tensor in tensors}

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is known before the program runs."""
        return id(tensor) in self._held

    def add(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any, name: str, at: str) -> None:
        """Adds the records of one call that gave `output`; `at` is its module path in the user's model."""
        given, results = tensors_in((args, kwargs)), tensors_in(output)
        op = op_of(target)
        if op in _CONSTANT or (results and all(id(tensor) in self._held for tensor in given)):
            self.hold(*results)
            self._seen_through |= {id(result): id(given[0]) for result in results[: len(given)]}
            return
        self._overwrite(target, args)
        if not results or op in _NOTHING:
            return
        if not op.startswith(_QUANTIZERS):
            fed = [tensor for tensor in given if id(tensor) not in self._held]
            base: dict[str, Any] = {
                "name": name,
                "op": op,
                "where": at,
                "input_shapes": tuple(tuple(tensor.shape) for tensor in fed),
                "output_shape": tuple(results[0].shape),
                "weight_count": sum(math.prod(tensor.shape) for tensor in given if id(tensor) in self._held),
            }
            self._add(target, args, kwargs, fed, base)

    def _overwrite(self, target: Any, args: Sequence[Any]) -> None:
        """Notes that what a call writes into is no weight any more, nor what it is a view of."""
        schema = getattr(target, "_schema", None)
        if schema is None or not schema.is_mutable:
            return
        for argument, value in zip(schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tensors_in(value):
                    place: int | None = id(tensor)
                    while place is not None:
                        self._held.pop(place, None)
                        place = self._seen_through.pop(place, None)

    def _add(
        self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], fed: Sequence[Tensor], base: dict[str, Any]
    ) -> None:
        """Adds a call that computes something."""
        op, arguments = base["op"], _arguments(target, args, kwargs)
        if op.startswith("conv") and "weight" in arguments:
            self.records.append(_convolution(op, arguments, base))
        elif op in _LINEARS or op in _PRODUCTS:
            self.records.append(_product(tensors_in((args, kwargs)), fed, base))
        elif "scaled_dot_product" in op:
            self.records.append(self._attention(arguments, base))
        elif op == "roll":
            self.records.extend(_rolled(arguments, base))
        elif _changes_nothing(op, arguments):
            self.records.append(OpRecord(kind="reshape", macs=0, **base))
        elif kind_of(op) == "other":
            self._add_composite(target, args, kwargs, base)
        else:
            self.records.append(_other(kind_of(op), arguments, base))

    def _attention(self, arguments: Mapping[str, Any], base: dict[str, Any]) -> OpRecord:
        """A fused attention; what masks its scores comes last, as () where it is a weight."""
        query, key, value = (tuple(arguments[part].shape) for part in ("query", "key", "value"))
        mask = arguments.get("attn_mask")
        masks = (() if id(mask) in self._held else tuple(mask.shape),) if isinstance(mask, Tensor) else ()
        macs = math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
        base = base | {"input_shapes": (query, key, value, *masks)}
        return OpRecord(kind="attention", macs=macs, channels=(query[-1], value[-1]), **base)

    def _add_composite(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], base: dict[str, Any]) -> None:
        """Adds the calls that an op of no known kind consists of; the op itself where torch does not spell it out."""
        calls: list[tuple[Any, ...]] = []
        try:
            with torch.no_grad(), Watch(lambda *call: calls.append(call)):
                target(*args, **kwargs)
        except Exception:  # without values, or without a kernel for shapes alone, many unrelated types
            calls.clear()
        if not calls or any(call[0] is target for call in calls):
            self.records.append(OpRecord(kind="other", macs=None, **base))
            return
        for number, (inner, inner_args, inner_kwargs, output) in enumerate(calls):
            self.add(inner, inner_args, inner_kwargs, output, f"{base['name']}.{number}", base["where"])


class Watch(TorchDispatchMode):
    """Hands on every call that reaches a kernel: the op, its arguments and what it gave."""

    def __init__(self, seen: Callable[[Any, Any, Any, Any], None]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self._seen(func, args, kwargs or {}, output)
        return output


def op_of(target: Any) -> str:
    """The plain name of what a call runs."""
    schema = getattr(target, "_schema", None)
    return plain(schema.name.rpartition("::")[2] if schema is not None else str(target))


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in a value of any structure."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _arguments(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names in the op's schema."""
    try:
        normal = normalize_function(target, tuple(args), dict(kwargs), normalize_to_only_use_kwargs=True)
    except (RuntimeError, TypeError):
        normal = None
    return dict(normal.kwargs) if normal is not None else dict(kwargs)


def _changes_nothing(op: str, arguments: Mapping[str, Any]) -> bool:
    """Whether an op adds nothing or multiplies by one, which a converter drops."""
    other = arguments.get("other")
    return op in NEUTRAL and isinstance(other, (int, float)) and other == NEUTRAL[op]


def _product(given: Sequence[Tensor], fed: Sequence[Tensor], base: dict[str, Any]) -> OpRecord:
    """A product of matrices: a layer where one of them is a weight."""
    output = base["output_shape"]
    factors = given[-2:] if base["op"] in ("addmm", "baddbmm") else given[:2]
    left, right = (tuple(factor.shape) for factor in factors)
    inner = left[-1] if left else 1
    channels = (inner, output[-1] if output else 1)
    fed_factors = [factor for factor in factors if any(factor is each for each in fed)]
    if len(fed_factors) < 2:
        layer = base | {"input_shapes": tuple(tuple(factor.shape) for factor in fed_factors), "channels": channels}
        if fed_factors and fed_factors[0] is factors[1]:
            layer |= turned_product(left, output)
        return OpRecord(kind="linear", macs=math.prod(output) * inner, **layer)
    base = base | {"input_shapes": (left, right)}
    return OpRecord(kind="matmul", macs=math.prod(output) * inner, channels=channels, **base)


def _rolled(arguments: Mapping[str, Any], base: dict[str, Any]) -> list[OpRecord]:
    """A roll as every exporter writes it: along each axis two slices, put together the other way round."""
    shape, records = base["output_shape"], []
    for number, (shift, axis) in enumerate(zip(_list(arguments["shifts"]), _list(arguments.get("dims")), strict=False)):
        cut = shift % shape[axis]
        parts = [tuple(size if i == axis % len(shape) else full for i, full in enumerate(shape))
                 for size in (cut, shape[axis] - cut)]  # fmt: skip
        whole = OpRecord(kind="move", macs=0, **base | {"op": "slice", "input_shapes": (shape,)})
        name = f"{base['name']}.{number}"
        records += [replace(whole, name=f"{name}.{i}", output_shape=part) for i, part in enumerate(parts)]
        records.append(replace(whole, name=name, op="cat", kind="concat", input_shapes=tuple(parts)))
    return records or [OpRecord(kind="move", macs=0, **base)]


def _other(kind: str, arguments: Mapping[str, Any], base: dict[str, Any]) -> OpRecord:
    """An op without MACs."""
    if kind == "gather":
        base = base | {"weight_count": 0}  # it reads the rows it gives, not the table
    if kind == "pool" and arguments.get("kernel_size"):
        rank = len(base["output_shape"]) - 2
        base = base | {
            "kernel": _sizes(arguments["kernel_size"], rank),
            "stride": _sizes(arguments.get("stride") or arguments["kernel_size"], rank),
        }
    if base["op"] == "pad" and arguments.get("mode", "constant") != "constant":
        base = base | {"op": f"{arguments['mode']}_pad"}
    return OpRecord(kind=kind, macs=0, **base)


def _convolution(name: str, arguments: Mapping[str, Any], base: dict[str, Any]) -> OpRecord:
    """A convolution of any rank, transposed or not."""
    shape, weight = tuple(arguments["input"].shape), tuple(arguments["weight"].shape)
    output, rank = base["output_shape"], len(weight) - 2
    transposed = "transpose" in name or bool(arguments.get("transposed"))
    groups = int(arguments.get("groups") or 1)
    channels = (shape[-rank - 1], output[-rank - 1])
    kind = "conv" if groups == 1 else "depthwise_conv" if groups == channels[0] else "grouped_conv"
    positions = math.prod((shape if transposed else output)[-rank:]) * math.prod(output[: -rank - 1])
    return OpRecord(
        kind="conv_transpose" if transposed else kind,
        macs=positions * math.prod(weight),
        channels=channels,
        kernel=weight[2:],
        stride=_sizes(arguments.get("stride"), rank),
        groups=groups,
        dilation=max(_sizes(arguments.get("dilation"), rank)),
        **base,
    )


def _list(value: Any) -> list[int]:
    return [int(each) for each in value] if isinstance(value, (list, tuple)) else [] if value is None else [int(value)]


def _sizes(value: Any, count: int) -> tuple[int, ...]:
    """A setting as one number for each dimension; 1 where it is not given."""
    values = _list(value) or [1]
    return tuple(values * count if len(values) == 1 else values)
