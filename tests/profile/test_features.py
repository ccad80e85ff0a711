"""What ops ask for, counted by hand: full blocks, windows, the unit's own memory, and what costs nothing."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from compress.profile.features import COSTS, Layout, amounts, around, key_of, total
from compress.types import OpRecord
from tests.profile.stated import activation, attention, conv, linear, plain

BLOCKS = Layout(channels=4, window_channels=0)


def test_a_convolution_asks_for_its_macs_bytes_outputs_and_a_launch() -> None:
    assert amounts(conv(4, 8), BLOCKS) == {
        "macs.conv": 4 * 8 * 9 * 64, "outputs": 8 * 64, "gathers": 4 * 9 * 64, "taps": 8 * 64 * 9, "ops.layer": 1,
        "bytes.conv": (4 + 8) * 64 * 4, "bytes.weights": 4 * 8 * 9 * 4,
    }  # fmt: skip


def test_widths_count_as_the_next_full_block() -> None:
    full = amounts(conv(4, 8), BLOCKS)
    for narrow in (conv(1, 5), conv(3, 6), conv(4, 7), conv(2, 8)):
        assert amounts(narrow, BLOCKS) == pytest.approx(full)
    assert amounts(conv(5, 8), BLOCKS)["macs.conv"] == pytest.approx(2 * full["macs.conv"])
    assert amounts(conv(5, 5, groups=5), BLOCKS) == pytest.approx(amounts(conv(8, 8, groups=8), BLOCKS))
    assert amounts(conv(6, 10, groups=2), BLOCKS) == pytest.approx(amounts(conv(8, 16, groups=2), BLOCKS))
    assert amounts(linear(5, 5), BLOCKS) == pytest.approx(amounts(linear(8, 8), BLOCKS))
    assert amounts(plain("pool", (1, 5, 8, 8)), BLOCKS) == pytest.approx(amounts(plain("pool"), BLOCKS))
    assert amounts(plain("norm", (1, 16, 5)), BLOCKS) == pytest.approx(amounts(plain("norm", (1, 16, 8)), BLOCKS))


def test_an_image_is_gathered_with_its_window() -> None:
    """Three channels under a 3x3 kernel are 27 values, 28 in full blocks; alone they would be 4 x 9 = 36."""
    packed, alone = amounts(conv(3, 8), Layout(channels=4)), amounts(conv(3, 8), BLOCKS)
    assert packed["macs.conv"] == pytest.approx(28 * 8 * 64)
    assert alone["macs.conv"] == pytest.approx(36 * 8 * 64)


def test_maps_count_in_full_rows_and_columns() -> None:
    layout = replace(BLOCKS, rows=8, columns=4)
    assert amounts(conv(4, 4, size=9), layout)["macs.conv"] == pytest.approx(16 * 9 * 16 * 12)
    assert amounts(conv(4, 4, size=8), layout) == amounts(conv(4, 4, size=8), BLOCKS)
    assert amounts(conv(4, 4, size=1), layout)["macs.conv"] == 16 * 9, "a single pixel is no map"


def test_extras_are_asked_for_by_the_layers_they_are_about() -> None:
    small, wide, strided = (conv(8, 8, groups=8, kernel=k, stride=s) for k, s in ((3, 1), (5, 1), (3, 2)))
    extras = [
        set(amounts(op, BLOCKS)) & {"macs.wide_depthwise", "macs.strided_depthwise"} for op in (small, wide, strided)
    ]
    assert extras == [set(), {"macs.wide_depthwise"}, {"macs.strided_depthwise"}]
    dilated = amounts(replace(conv(8, 8), dilation=2), BLOCKS)
    assert dilated["macs.dilated"] == dilated["macs.conv"] and "macs.dilated" not in amounts(conv(8, 8), BLOCKS)
    assert "taps" not in amounts(conv(8, 8, kernel=1), BLOCKS)
    assert not {"outputs", "gathers", "taps"} & set(amounts(small, BLOCKS))


def test_a_parallel_unit_takes_the_steps_behind_one_output() -> None:
    parallel = replace(BLOCKS, parallel=True)
    assert amounts(conv(5, 64), parallel)["steps.window"] == 8 * 9, "a ragged input takes the steps of a full block"
    assert amounts(conv(64, 5, kernel=1), parallel)["steps.pointwise"] == 64
    assert amounts(conv(63, 63, groups=63), parallel)["steps.window"] == 9
    assert amounts(linear(128, 10), parallel)["steps.pointwise"] == 128
    assert not {"steps.window", "steps.pointwise"} & set(amounts(conv(5, 64), BLOCKS))


def test_what_of_a_tensor_does_not_fit_into_the_units_memory_travels() -> None:
    tensor = 4 * 64 * 4
    far = [amounts(conv(4, 4), replace(BLOCKS, near_bytes=near)).get("bytes.far") for near in (0, tensor - 1, tensor)]
    assert far == [2 * tensor, 2, None], "each of the two tensors by itself, though both together never fit"
    uneven = amounts(conv(4, 8), replace(BLOCKS, near_bytes=tensor))
    assert uneven["bytes.far"] == pytest.approx(tensor), "the input fits, half of the output does not"
    product = replace(plain("matmul", (1, 8, 16, 16)), macs=8 * 16**3, channels=(16, 16))
    one = 16 * 16 * 4
    assert "bytes.far" not in amounts(product, replace(BLOCKS, near_bytes=one)), "one head at a time"
    assert amounts(product, replace(BLOCKS, near_bytes=one - 8))["bytes.far"] == 2 * 8 * 8
    elementwise = amounts(plain("elementwise", (1, 8, 16, 16)), replace(BLOCKS, near_bytes=one))
    assert elementwise["bytes.far"] == 2 * 7 * one, "an op that does not split by heads must fit as a whole"


def test_attention_is_two_products_and_a_softmax() -> None:
    heads, tokens, features = 2, 16, 8
    asked = amounts(attention(heads, tokens, features), BLOCKS)
    scores, values = heads * tokens**2, heads * tokens * features
    assert asked == {
        "macs.matmul": 2 * scores * features, "bytes.matmul": (4 * values + 2 * scores) * 4,
        "bytes.softmax": 2 * scores * 4, "ops.layer": 2, "ops.other": 1,
    }  # fmt: skip
    near = 2 * tokens**2 * 4  # the scores of one head and their softmax
    far = [
        amounts(attention(heads, tokens, features), replace(BLOCKS, near_bytes=n)).get("bytes.far")
        for n in (near, near - 4, 0)
    ]
    assert far == [None, 4 * heads, near * heads], "one head at a time"


def test_the_scores_of_an_attention_fill_blocks_of_keys_and_have_heads_for_rows() -> None:
    layout = replace(BLOCKS, rows=8)
    scores = amounts(plain("softmax", (1, 3, 5, 6)), layout)["bytes.softmax"]
    assert scores == pytest.approx(2 * 8 * 5 * 8 * 4), "3 heads count as 8, 6 keys as 8"
    fused = amounts(attention(3, 5, 16), layout)
    assert fused["bytes.softmax"] == pytest.approx(2 * 8 * 5 * 8 * 4)
    assert fused["bytes.matmul"] == amounts(attention(3, 5, 16), BLOCKS)["bytes.matmul"], "products as they are"
    assert amounts(plain("softmax", (1, 5)), layout)["bytes.softmax"] == 2 * 8 * 4, "of a classifier: no heads"


def test_fused_linked_and_reshaping_ops_ask_for_nothing() -> None:
    linking = replace(BLOCKS, linked=("activation",))
    assert amounts(replace(plain("norm"), fused_into="c"), BLOCKS) == {}
    assert amounts(plain("reshape"), BLOCKS) == amounts(plain("constant"), BLOCKS) == {}
    assert amounts(activation("relu"), linking) == {}
    assert amounts(activation("relu"), BLOCKS) and amounts(activation("gelu"), linking)


@pytest.mark.parametrize(("op", "key"), [
    (conv(8, 8), "conv"), (conv(8, 8, kernel=1), "pointwise_conv"), (conv(8, 8, groups=8), "depthwise_conv"),
    (replace(conv(8, 8), kernel=(3, 3, 3)), "conv3d"), (replace(conv(8, 8, groups=8), kernel=(3, 3, 3)), "conv3d"),
    (activation("ReLU6"), "activation"), (activation("hardtanh_"), "activation"),
    (activation("gelu"), "transcendental"),
    (activation("sigmoid"), "transcendental"), (plain("move"), "move"), (plain("move", (1, 2, 4, 8, 8)), "shuffle"),
])  # fmt: skip
def test_the_kind_an_op_is_charged_as(op: object, key: str) -> None:
    assert key_of(op) == key  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", [
    BLOCKS, Layout(channels=16, rows=8, columns=4, value_bytes=2, near_bytes=4096.0),
    Layout(channels=4, parallel=True), Layout(channels=32, value_bytes=1, weight_bytes=0.5),
    Layout(channels=16, near_bytes=2048.0), Layout(channels=4, value_bytes=2, near_bytes=0.0),
])  # fmt: skip
def test_more_channels_never_ask_for_less_of_anything(layout: Layout) -> None:
    makers = [lambda n: conv(n, 16), lambda n: conv(16, n), lambda n: conv(n, n, kernel=1), lambda n: linear(n, 9),
              lambda n: conv(n + 1, n + 1, groups=n + 1, kernel=5, stride=2), lambda n: conv(16 * n, 16 * n, groups=8),
              lambda n: attention(2, 16, n), lambda n: attention(n, 16, 8), lambda n: plain("softmax", (1, n, 16, 16)),
              lambda n: plain("elementwise", (1, n, 8, 8))]  # fmt: skip
    for make in makers:
        asked = [amounts(make(n), layout) for n in range(1, 70)]
        for name in {name for wanted in asked for name in wanted}:
            falling = [n for n in range(1, 69) if asked[n].get(name, 0) < asked[n - 1].get(name, 0) * (1 - 1e-12)]
            assert not falling, (name, falling)


def average(
    kernel: tuple[int, ...], size: int = 16, size_out: int | None = None, channels: int = 6, op: str = "avg_pool2d"
) -> OpRecord:
    """A pooling of a square map; as wide and high as its input where nothing else is said (a stride of 1, padded)."""
    size_out = size if size_out is None else size_out
    given, made = (1, channels, size, size), (1, channels, size_out, size_out)
    return OpRecord("p", op, "pool", "p", 0, 0, (given,), made, kernel=kernel)


@pytest.mark.parametrize(("op", "window"), [
    (average((5, 5)), 25), (average((7, 2)), 14), (average((2, 2), size_out=15), 4),
    (average((), size_out=12), 25), (average((), size_out=15), 4), (average((5, 5), size=17, size_out=9), 25),
    (average((3, 3)), 0), (average((), size_out=14), 0),
    (average((2, 2), size_out=8), 0), (average((4, 4), size_out=4), 0), (average((), size_out=8), 0),
    (average((16, 16), size_out=1), 0), (average((), size_out=1), 0), (average((), size_out=16), 0),
    (average((5, 5), op="max_pool2d"), 0), (replace(average((5, 5)), kind="norm"), 0),
], ids=["5x5", "7x2", "2x2, unpadded", "5x5 by the shapes", "2x2 by the shapes", "5x5, strided", "3x3",
        "3x3 by the shapes", "halving", "quartering", "halving by the shapes", "global", "global by the shapes",
        "same size by the shapes", "maximum", "a norm"])  # fmt: skip
def test_an_average_over_uncommon_overlapping_windows_reads_every_tap(op: OpRecord, window: int) -> None:
    asked = amounts(op, BLOCKS)
    assert asked.get("taps.average") == (prod(op.output_shape) * window or None)
    assert {cost: amount for cost, amount in asked.items() if cost != "taps.average"} == amounts(
        replace(op, op="max_pool2d"), BLOCKS
    ), "besides its taps it asks for what any pooling does"


def test_a_self_gated_activation_moves_its_bytes_a_second_time() -> None:
    for name in ("silu", "GELU", "mish_"):
        asked = amounts(activation(name, (1, 5, 8, 8)), BLOCKS)
        assert asked["bytes.self_gated"] == asked["bytes.transcendental"] == 2 * 8 * 64 * 4, "in full blocks"
    for name in ("sigmoid", "tanh", "hardswish", "elu", "relu"):
        assert "bytes.self_gated" not in amounts(activation(name), BLOCKS)
    gate = replace(plain("elementwise"), op="silu")
    assert "bytes.self_gated" not in amounts(gate, BLOCKS), "the kind decides"


def test_a_model_asks_for_its_ops_one_call_and_its_ends() -> None:
    ops = [conv(3, 8), plain("pool"), linear(8, 5)]
    asked = total(ops, BLOCKS)
    assert set(asked) <= set(COSTS)
    assert (asked["calls"], asked["ops.layer"], asked["ops.other"]) == (1, 2, 1)
    assert (asked["pixels.in"], asked["bytes.in"], asked["bytes.out"]) == (64, 3 * 64 * 4, 5 * 4), "no full blocks"
    assert asked["macs.conv"] == amounts(ops[0], BLOCKS)["macs.conv"]
    assert total([], BLOCKS) == {"calls": 1.0}


def test_a_call_takes_its_values_in_and_out_in_the_layouts_size_of_value() -> None:
    batch = replace(conv(3, 8), input_shapes=((2, 3, 10, 6),), output_shape=(2, 8, 10, 6))
    halves = around([batch], replace(BLOCKS, value_bytes=2.0))
    assert halves == {"calls": 1, "pixels.in": 2 * 60, "bytes.in": 2 * 3 * 60 * 2, "bytes.out": 2 * 8 * 60 * 2}
    assert around([conv(3, 8), batch], BLOCKS)["pixels.in"] == 64, "what lies between is no end"
    assert around([linear(7, 5, tokens=3)], BLOCKS) == {
        "calls": 1, "pixels.in": 0, "bytes.in": 21 * 4, "bytes.out": 15 * 4,
    }, "only an image has pixels"  # fmt: skip
