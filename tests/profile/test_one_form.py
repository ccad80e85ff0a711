"""Ops come to one form: what moves nothing is free, matrices have rows and columns, what is spelled out is one op."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compress.profile import tables
from compress.profile.lowering import lowered
from compress.profile.read.kinds import kind_of
from compress.profile.read.layouts import Images
from compress.types import OpRecord
from tests.profile.stated import conv, linear, plain

Shape = tuple[int, ...]


def op(
    name: str, given: Shape, output: Shape | None = None, weights: int = 0, others: tuple[Shape, ...] = ()
) -> OpRecord:
    return OpRecord(name, name, kind_of(name), "", 0, weights, (given, *others), output or given)


def paid(*ops: OpRecord) -> list[OpRecord]:
    """What is charged of a network of these ops."""
    return [each for each in lowered(ops) if each.kind != "reshape" and not each.fused_into]


def names(*ops: OpRecord) -> list[str]:
    return [each.op for each in paid(*ops)]


@pytest.mark.parametrize(("name", "given", "output"), [
    ("permute", (1, 197, 768), (197, 1, 768)), ("permute", (1, 64, 1, 1), (1, 1, 1, 64)),
    ("permute", (1, 96, 56, 48), (1, 56, 48, 96)), ("permute", (1, 56, 48, 96), (1, 96, 56, 48)),
    ("slice", (1, 8, 4), (1, 8, 4)), ("cat", (1, 8, 4), (1, 8, 4)), ("pad", (1, 8, 4, 4), (1, 8, 4, 4)),
    ("upsample_nearest2d", (1, 8, 4, 4), (1, 8, 4, 4)), ("adaptive_avg_pool2d", (1, 8, 7, 7), (1, 8, 7, 7)),
    ("view", (1, 8, 4), (8, 4)), ("expand", (1, 8, 1), (1, 8, 4)),
])  # fmt: skip
def test_what_moves_nothing_is_free(name: str, given: Shape, output: Shape) -> None:
    assert not paid(op(name, given, output))


@pytest.mark.parametrize(("name", "given", "output"), [
    ("permute", (1, 64, 48), (1, 48, 64)), ("permute", (12, 64, 64), (12, 64, 64)), ("roll", (1, 8, 4), (1, 8, 4)),
    ("flip", (1, 8, 4), (1, 8, 4)), ("slice", (1, 8, 4), (1, 4, 4)), ("grid_sampler_2d", (1, 8, 4, 4), (1, 8, 4, 4)),
    ("permute", (1, 2, 58, 28, 28), (1, 58, 2, 28, 28)),
])  # fmt: skip
def test_what_moves_values_is_charged(name: str, given: Shape, output: Shape) -> None:
    assert names(op(name, given, output)) == [name]


def test_heads_are_no_channels() -> None:
    (rows,) = paid(op("transpose", (1, 197, 3, 64), (1, 3, 197, 64)))
    assert (rows.input_shapes, rows.output_shape) == (((197, 3, 64),), (3, 197, 64))
    (turned,) = paid(op("transpose", (2, 3, 197, 64), (2, 3, 64, 197)))
    assert (turned.input_shapes, turned.output_shape) == (((6, 197, 64),), (6, 64, 197))


def test_keys_that_are_turned_in_one_step_are_moved_and_an_images_channels_are_not() -> None:
    keys = op("permute", (1, 197, 3, 64), (1, 3, 64, 197))
    query = (1, 3, 197, 64)
    scores = OpRecord("s", "matmul", "matmul", "", 9, 0, (query, keys.output_shape), (1, 3, 197, 197), (64, 197))
    assert names(keys, scores) == ["permute", "matmul"]
    assert names(keys, op("relu", keys.output_shape)) == ["relu"]


def test_a_transpose_that_is_undone_at_once_moves_nothing() -> None:
    there, back = op("permute", (1, 8, 6, 4), (6, 1, 8, 4)), op("permute", (6, 1, 8, 4), (1, 8, 6, 4))
    assert not paid(there, back)
    assert names(there, op("permute", (6, 1, 8, 4), (1, 6, 8, 4))) == ["permute"], "the second moves nothing"


def test_slices_that_cut_a_whole_tensor_are_one_split() -> None:
    cuts = [op(name, (3, 1, 4, 9, 8), (1, 1, 4, 9, 8)) for name in ("slice", "select", "slice")]
    (split,) = paid(*cuts)
    assert (split.op, split.input_shapes, split.output_shape) == ("split", ((3, 1, 4, 9, 8),), (1, 4, 9, 8))
    assert names(*cuts[:2]) == ["slice", "select"], "a part is left out"
    assert names(cuts[0], op("relu", (1, 4)), cuts[1], cuts[2]) == ["split", "relu"]


def test_products_have_rows_and_columns_and_what_works_on_rows_too() -> None:
    layer = OpRecord("l", "linear", "linear", "", 9, 96 * 384, ((1, 56, 56, 96),), (1, 56, 56, 384), (96, 384))
    found = paid(layer, op("gelu", (1, 56, 56, 384)), op("relu", (1, 384, 56, 56)))
    assert [each.output_shape for each in found] == [(3136, 384), (3136, 384), (1, 384, 56, 56)]
    assert found[0].input_shapes == ((3136, 96),)
    norm = op("layer_norm", (1, 56, 56, 96), weights=192)
    assert paid(norm)[0].output_shape == (3136, 96)
    assert paid(replace(norm, weight_count=2 * 56 * 56 * 96))[0].output_shape == (1, 56, 56, 96), "of the whole map"


@pytest.mark.parametrize("macs", [0, 2 * 3 * 197 * 197 * 64])
def test_a_fused_attention_is_its_two_products_whatever_a_table_says_of_it(macs: int) -> None:
    shape = (1, 3, 197, 64)
    fused = OpRecord("a", "attention", "attention", "", macs, 0, (shape,) * 3, shape, (64, 64))
    keys, scores, softmax, values = paid(fused)
    assert (keys.input_shapes, keys.output_shape) == (((3, 197, 64),), (3, 64, 197))
    assert scores.macs == values.macs == 3 * 197 * 197 * 64 and not scores.weight_count
    assert softmax.output_shape == scores.output_shape == (3, 197, 197) and values.output_shape == (3, 197, 64)
    assert (scores.channels, values.channels) == ((64, 197), (197, 64))
    masked = paid(replace(fused, input_shapes=(*fused.input_shapes, (1, 1, 197, 197))))
    assert [each.op for each in masked] == ["transpose", "matmul", "add", "softmax", "matmul"]


def test_what_is_added_to_each_output_of_a_layer_is_its_bias() -> None:
    layer, bias = linear(16, 32, 8), op("add", (1, 8, 32), weights=32)
    first, second = lowered([layer, bias])
    assert second.fused_into == first.name and first.weight_count == 16 * 32 + 32 and not second.weight_count
    assert names(layer, replace(bias, weight_count=8 * 32)) == ["linear", "add"], "one value for each position is none"
    assert names(layer, replace(bias, input_shapes=((1, 8, 32),) * 2)) == ["linear", "add"]
    assert names(layer, bias, op("relu", (1, 8, 32))) == ["linear"], "a clamp runs in the kernel behind the bias, too"


def test_zeros_around_a_map_are_put_there_by_the_kernel_that_reads_it() -> None:
    pad = op("constant_pad_nd", (1, 16, 8, 8), (1, 16, 10, 10))
    kernel = replace(conv(16, 16, 8), input_shapes=((1, 16, 10, 10),))
    (found,) = paid(pad, kernel)
    assert found.input_shapes == ((1, 16, 8, 8),)
    assert names(replace(pad, op="reflection_pad2d"), kernel) == ["reflection_pad2d", "conv"]
    assert names(pad, op("relu", (1, 16, 10, 10)), kernel) == ["constant_pad_nd", "relu", "conv"]


def test_what_scales_each_channel_is_a_norm() -> None:
    shape = (1, 16, 8, 8)
    kernel, norm, relu = conv(16, 16, 8, 1, 16), op("batch_norm", shape, weights=64), op("relu", shape)
    assert [(each.kind, each.macs) for each in paid(kernel, norm, relu)] == [("norm", 0), ("activation", 0)]
    assert [each.kind for each in paid(norm, relu)] == ["norm", "activation"]
    assert [each.kind for each in paid(norm, norm)] == ["norm", "norm"], "one norm does not fold into another"
    spelled = [op(name, shape, weights=16) for name in ("sub", "mul", "mul", "add")]
    assert names(*spelled, relu) == ["batch_norm", "relu"]
    assert names(*(replace(each, weight_count=0) for each in spelled)) == ["sub", "mul", "mul", "add"]


FULL, MEAN = (1, 9, 16), (1, 9, 1)
LAYER_NORMS = {
    "mean sub pow mean add sqrt div mul add": (1, 0, 0, 1, 1, 1, 0, 0, 0),
    "mean sub pow mean add sqrt div": (1, 0, 0, 1, 1, 1, 0),
    "mean squared_difference mean add rsqrt mul sub mul add": (1, 0, 1, 1, 1, 1, 1, 0, 0),
}


@pytest.mark.parametrize("row", LAYER_NORMS)
def test_a_layer_norm_that_is_spelled_out_is_one_op(row: str) -> None:
    shapes = [MEAN if reduced else FULL for reduced in LAYER_NORMS[row]]
    spelled = [op(name, FULL, shape) for name, shape in zip(row.split(), shapes, strict=True)]
    if row.endswith("div mul add"):
        spelled[-2:] = [replace(each, weight_count=16) for each in spelled[-2:]]
    free = op("view", MEAN, (1, 9))
    (norm,) = paid(spelled[0], free, *spelled[1:])
    assert (norm.op, norm.kind, norm.input_shapes, norm.output_shape) == ("layer_norm", "norm", (FULL,), FULL)
    assert len(paid(*spelled[1:])) == len(spelled) - 1


@pytest.mark.parametrize(("row", "meant"), [
    ("div erf add mul mul", "gelu"), ("pow mul add mul tanh add mul mul", "gelu"), ("softplus tanh mul", "mish"),
    ("sigmoid mul", "silu"), ("hardsigmoid mul", "hardswish"), ("add clamp clamp div", "hardsigmoid"),
    ("softmax isnan where", "softmax"), ("softmax eq logical_not any logical_not where", "softmax"),
])  # fmt: skip
def test_an_activation_that_is_spelled_out_is_one_op(row: str, meant: str) -> None:
    assert names(*(op(name, (1, 12, 9, 9)) for name in row.split())) == [meant]


def test_a_gate_of_another_shape_is_no_activation() -> None:
    gate = op("sigmoid", (1, 16, 1, 1))
    assert names(gate, op("mul", (1, 16, 8, 8), others=((1, 16, 1, 1),))) == ["sigmoid", "mul"]


def test_the_readers_count_each_op_as_the_tables_do() -> None:
    products = ("linear", "matmul", "attention")
    differ = {name: kind for name, kind in tables._KINDS.items() if kind not in products and kind_of(name) != kind}
    assert not differ


def test_what_is_tied_to_an_image_is_an_image() -> None:
    images = Images()
    images.tie([1, 2])
    images.tie([2, 3])
    images.tie([3, 1, 1])  # again, and in a circle
    images.tie([])
    images.mark([3])
    images.tie([4, 5])
    images.settle()
    sizes = (1, 8, 6, 4)
    assert [images.shape(tensor, sizes) for tensor in (1, 2, 3)] == [(1, 4, 8, 6)] * 3
    assert images.shape(4, sizes) == images.shape(9, sizes) == sizes
    assert images.shape(1, (1, 8, 4)) == (1, 8, 4)
    assert images.reordered(4, 1, (0, 2, 3, 1)) and images.reordered(1, 4, [0, 3, 1, 2])
    assert not images.reordered(4, 1, (0, 2, 1, 3)) and not images.reordered(1, 2, (0, 2, 3, 1))


def test_what_reads_nothing_that_is_computed_is_known_beforehand() -> None:
    known = replace(op("batch_norm", (1, 64, 256), weights=64), input_shapes=())
    assert not paid(known) and names(replace(known, kind="other", macs=None)) == ["batch_norm"]


def test_a_stride_that_makes_a_map_larger_is_a_transposed_convolutions() -> None:
    kernel = replace(conv(16, 8, 16, 2), input_shapes=((1, 16, 8, 8),), stride=(2, 2))
    assert [each.kind for each in paid(kernel)] == ["conv_transpose"]
    assert [each.kind for each in paid(conv(16, 8, 16, 2, stride=2))] == ["conv"]


def test_a_shape_nothing_is_known_of_is_kept() -> None:
    strange = [plain("other", (), None), op("permute", (), ()), op("slice", (), ()), op("add", (1,), ())]
    assert len(lowered(strange)) == 4
