"""ONNX files as they come: free sizes, shapes that are computed, weights elsewhere, ops that hide others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import InputError
from compress.profile.latency import load_latency_model
from compress.profile.read.onnx_file import read_onnx
from compress.targets import load_target
from compress.types import OpRecord


def write(
    path: Path, nodes: Sequence[Any], inputs: dict[str, Sequence[Any]], outputs: Sequence[str],
    **constants: np.ndarray,
) -> Path:  # fmt: skip
    """A model of these nodes; shapes of the outputs are left open."""
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in inputs.items()],
        [helper.make_value_info(name, helper.make_tensor_type_proto(TensorProto.FLOAT, None)) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return path


def node(kind: str, inputs: str, outputs: str, **settings: Any) -> Any:
    return helper.make_node(kind, inputs.split(), outputs.split(), **settings)


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def paid(ops: Sequence[OpRecord]) -> list[str]:
    return [op.op for op in ops if op.kind != "reshape" and not op.fused_into]


CONV = node("Conv", "x w", "y", kernel_shape=[3, 3])


def test_a_free_batch_is_one_and_said(tmp_path: Path) -> None:
    for free in ("N", None):
        notes: list[str] = []
        path = write(tmp_path / "net.onnx", [CONV], {"x": (free, 3, 10, 12)}, ["y"], w=floats(8, 3, 3, 3))
        (op,) = read_onnx(path, notes=notes)
        assert (op.input_shapes, op.output_shape, op.macs) == (((1, 3, 10, 12),), (1, 8, 8, 10), 8 * 8 * 10 * 27)
        assert notes == ["the batch size of input 'x' is free and taken as 1"]


def test_other_free_sizes_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [CONV], {"x": ("N", 3, "H", "W")}, ["y"], w=floats(8, 3, 3, 3))
    with pytest.raises(InputError, match=r"net.onnx: input 'x' has free sizes \(Nx3xHxW\).* --input, such as 1x3x224x"):
        read_onnx(path)
    notes: list[str] = []
    (op,) = read_onnx(path, [(1, 3, 10, 12)], notes)
    assert op.output_shape == (1, 8, 8, 10) and not notes
    for wrong in ([(1, 4, 10, 12)], [(3, 10, 12)]):
        with pytest.raises(InputError, match=r"--input .*: input 'x' of the model is Nx3xHxW"):
            read_onnx(path, wrong)
    with pytest.raises(InputError, match="the model has 1 inputs"):
        read_onnx(path, [(1, 3, 10, 12)] * 2)


def test_one_name_is_one_size(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [node("Add", "a b", "y")], {"a": (1, "T"), "b": (1, "T")}, ["y"])
    assert read_onnx(path, [(1, 7), (1, 7)])[0].output_shape == (1, 7)
    with pytest.raises(InputError, match="input 'b'"):
        read_onnx(path, [(1, 7), (1, 8)])


def test_shapes_that_are_computed_cost_nothing(tmp_path: Path) -> None:
    """What torch.onnx writes for x.reshape(x.shape[0], -1, x.shape[-1]) and for a token expanded to the batch."""
    nodes = [
        node("Shape", "x", "shape"), node("Gather", "shape zero", "batch"), node("Gather", "shape last", "width"),
        node("Unsqueeze", "batch axes", "batch_"), node("Unsqueeze", "width axes", "width_"),
        node("Concat", "batch_ open width_", "wanted", axis=0), node("Reshape", "x wanted", "rows"),
        node("ConstantOfShape", "three", "ones", value=helper.make_tensor("v", TensorProto.INT64, [1], [1])),
        node("Equal", "asked open", "is_open"), node("Where", "is_open ones asked", "to"),
        node("Expand", "token to", "first"), node("Concat", "first rows", "all", axis=1), node("Relu", "all", "y"),
    ]  # fmt: skip
    path = write(
        tmp_path / "net.onnx", nodes, {"x": (1, 6, 4, 8)}, ["y"], zero=np.array(0), last=np.array(3), axes=ints(0),
        open=ints(-1), three=ints(3), asked=ints(1, -1, -1), token=floats(1, 1, 8),
    )  # fmt: skip
    ops = read_onnx(path)
    assert paid(ops) == ["cat", "relu"] and ops[-1].output_shape == (1, 25, 8)


def test_a_branch_that_is_known_is_taken(tmp_path: Path) -> None:
    branches = {
        f"{name}_branch": helper.make_graph([node(kind, "x", f"{name}_y")], name, [], [
            helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [1, 8])])
        for name, kind in (("then", "Tanh"), ("else", "Sigmoid"))
    }  # fmt: skip
    nodes = [node("Size", "x", "size"), node("Equal", "size eight", "fits"), node("If", "fits", "z", **branches),
             node("Relu", "z", "y")]  # fmt: skip
    for width, taken in ((8, "tanh"), (9, "sigmoid")):
        path = write(tmp_path / "net.onnx", nodes, {"x": (1, width)}, ["y"], eight=np.array(8))
        assert paid(read_onnx(path)) == [taken, "relu"]


def test_weights_may_lie_elsewhere_or_be_missing(tmp_path: Path) -> None:
    nodes = [CONV, node("Reshape", "y to", "z"), node("MatMul", "z m", "out")]
    path = write(tmp_path / "net.onnx", nodes, {"x": (1, 3, 10, 12)}, ["out"], w=floats(8, 3, 3, 3), to=ints(1, 640),
                 m=floats(640, 5))  # fmt: skip
    whole = read_onnx(path)
    onnx.save_model(onnx.load(str(path)), str(tmp_path / "out.onnx"), save_as_external_data=True, location="out.data",
                    size_threshold=0)  # fmt: skip
    assert read_onnx(tmp_path / "out.onnx") == whole
    assert [(op.kind, op.weight_count) for op in whole if op.macs] == [("conv", 216), ("linear", 3200)]
    onnx.save_model(onnx.load(str(path)), str(tmp_path / "lost.onnx"), save_as_external_data=True, location="lost.data",
                    size_threshold=1024)  # fmt: skip
    (tmp_path / "lost.data").unlink()
    assert read_onnx(tmp_path / "lost.onnx") == whole, "shapes are in the file itself"


def test_one_part_of_a_tensor_is_cut_out_of_it(tmp_path: Path) -> None:
    path = write(
        tmp_path / "net.onnx", [node("Gather", "x one", "y", axis=0)], {"x": (3, 1, 8)}, ["y"], one=np.array(1)
    )
    (op,) = read_onnx(path)
    assert (op.op, op.kind, op.input_shapes, op.output_shape) == ("select", "move", ((3, 1, 8),), (1, 8))
    path = write(
        tmp_path / "net.onnx", [node("Gather", "x some", "y", axis=0)], {"x": (3, 1, 8)}, ["y"], some=ints(1, 2)
    )
    assert read_onnx(path)[0].kind == "gather"


def test_what_is_computed_twice_or_changes_nothing_runs_once_or_never(tmp_path: Path) -> None:
    nodes = [
        node("Relu", "x", "a"), node("Relu", "x", "b"), node("Mul", "a one", "c"), node("Add", "b zero", "d"),
        node("Div", "c two", "e"), node("Div", "d two_too", "f"), node("Sub", "e f", "y"),
    ]  # fmt: skip
    numbers = {"one": 1.0, "zero": 0.0, "two": 2.0, "two_too": 2.0}
    constants = {name: np.array(value, np.float32) for name, value in numbers.items()}
    path = write(tmp_path / "net.onnx", nodes, {"x": (1, 8, 4, 4)}, ["y"], **constants)
    ops = read_onnx(path)
    assert paid(ops) == ["relu", "div", "div", "sub"]
    assert not any(op.weight_count for op in ops), "a single number is a setting"


def test_products_with_the_weights_in_front_are_layers(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [node("MatMul", "m x", "y")], {"x": (1, 24, 100)}, ["y"], m=floats(96, 24))
    (op,) = read_onnx(path)
    assert (op.kind, op.channels, op.macs) == ("linear", (24, 96), 24 * 96 * 100)
    assert (op.input_shapes, op.output_shape) == (((100, 24),), (100, 96))


def test_an_einsum_and_a_recurrent_layer_are_what_they_consist_of(tmp_path: Path) -> None:
    product = node("Einsum", "a b", "y", equation="bhlk,bhtk->bhlt")
    path = write(tmp_path / "net.onnx", [product], {"a": (1, 3, 16, 8), "b": (1, 3, 20, 8)}, ["y"])
    assert [(op.kind, op.macs) for op in read_onnx(path) if op.macs] == [("matmul", 3 * 16 * 20 * 8)]
    for kind, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        layer = node(kind, "x w r", "y", hidden_size=5)
        path = write(tmp_path / "net.onnx", [layer], {"x": (7, 1, 4)}, ["y"], w=floats(1, gates * 5, 4),
                     r=floats(1, gates * 5, 5))  # fmt: skip
        ops = read_onnx(path)
        assert not [op for op in ops if op.macs is None], kind
        # The first step multiplies a state of zeros, which is known beforehand.
        assert sum(op.macs or 0 for op in ops) == gates * 5 * (7 * 4 + 6 * 5), kind


def test_operators_of_quantized_numbers_are_the_layers_they_are(tmp_path: Path) -> None:
    scales = {name: np.array(0.1, np.float32) for name in ("xs", "ws", "ys")}
    zeros = {name: np.array(0, np.int8) for name in ("xz", "wz", "yz")}
    nodes = [node("QuantizeLinear", "x xs xz", "q"), node("QLinearConv", "q xs xz w ws wz ys yz b", "p"),
             node("DequantizeLinear", "p ys yz", "y")]  # fmt: skip
    path = write(tmp_path / "net.onnx", nodes, {"x": (1, 3, 10, 12)}, ["y"], w=np.ones((8, 3, 3, 3), np.int8),
                 b=np.ones(8, np.int32), **scales, **zeros)  # fmt: skip
    (op,) = read_onnx(path)
    assert (op.kind, op.macs, op.weight_count, op.input_shapes) == ("conv", 8 * 80 * 27, 224, ((1, 3, 10, 12),))


def test_what_follows_from_values_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    nodes = [CONV, node("NonZero", "y", "found"), node("Transpose", "found", "z", perm=[1, 0])]
    path = write(tmp_path / "net.onnx", nodes, {"x": (1, 3, 10, 12)}, ["z"], w=floats(8, 3, 3, 3))
    ops = read_onnx(path)
    assert [(op.op, op.macs is None) for op in ops] == [("conv", False), ("nonzero", True), ("permute", True)]
    predicted = load_latency_model(load_target("pixel-4"), "cpu").predict(ops, "float32")
    assert predicted.uncovered == (ops[1].name, ops[2].name)
    nodes = [helper.make_node("Fold", ["x"], ["h"], domain="mine"), node("Conv", "h w", "y")]
    strange = write(tmp_path / "net.onnx", nodes, {"x": (1, 3, 10, 12)}, ["y"], w=floats(8, 3, 3, 3))
    with pytest.raises(InputError, match="the shape of 'h' is not fixed"):
        read_onnx(strange)


def test_a_layer_knows_its_place_in_the_users_model(tmp_path: Path) -> None:
    named = node("Relu", "x", "y")
    named.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'features', 'features.0', 'relu']")
    assert read_onnx(write(tmp_path / "net.onnx", [named], {"x": (1, 8)}, ["y"]))[0].where == "features.0"
    named = helper.make_node("Relu", ["x"], ["y"], name="/features/act/Relu")
    assert read_onnx(write(tmp_path / "net.onnx", [named], {"x": (1, 8)}, ["y"]))[0].where == "features.act"


def test_a_model_without_inputs_computes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [node("Relu", "w", "y")], {}, ["y"], w=floats(1, 8))
    with pytest.raises(InputError, match="computes nothing from its inputs"):
        read_onnx(path)
