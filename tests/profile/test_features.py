"""What ops ask for, counted by hand: full blocks, windows, the unit's own memory, and what costs nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compress.profile.features import COSTS, Layout, amounts, io_bytes, key_of, total
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


def test_what_does_not_fit_into_the_units_memory_travels() -> None:
    moved = 2 * 4 * 64 * 4
    far = [amounts(conv(4, 4), replace(BLOCKS, near_bytes=near)).get("bytes.far") for near in (0, moved - 1, moved)]
    assert far == [moved, 1, None]
    product = replace(plain("matmul", (1, 8, 16, 16)), macs=8 * 16**3, channels=(16, 16))
    one = 2 * 16 * 16 * 4
    assert "bytes.far" not in amounts(product, replace(BLOCKS, near_bytes=one)), "one head at a time"
    assert amounts(product, replace(BLOCKS, near_bytes=one - 8))["bytes.far"] == 8 * 8
    elementwise = amounts(plain("elementwise", (1, 8, 16, 16)), replace(BLOCKS, near_bytes=one))
    assert elementwise["bytes.far"] == 7 * one, "an op that does not split by heads must fit as a whole"


def test_attention_is_two_products_and_a_softmax() -> None:
    heads, tokens, features = 2, 16, 8
    asked = amounts(attention(heads, tokens, features), BLOCKS)
    scores, values = heads * tokens**2, heads * tokens * features
    assert asked == {
        "macs.matmul": 2 * scores * features, "bytes.matmul": (4 * values + 2 * scores) * 4,
        "bytes.softmax": 2 * scores * 4, "ops.layer": 2, "ops.other": 1,
    }  # fmt: skip
    near = 2 * tokens**2 * 4
    assert amounts(attention(heads, tokens, features), replace(BLOCKS, near_bytes=near))["bytes.far"] == 0
    assert (
        amounts(attention(heads, tokens, features), replace(BLOCKS, near_bytes=near - 4))["bytes.far"] == 2 * heads * 4
    )


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


def test_a_model_asks_for_its_ops_one_call_and_its_ends() -> None:
    ops = [conv(3, 8), plain("pool"), linear(8, 5)]
    asked = total(ops, BLOCKS)
    assert set(asked) <= set(COSTS)
    assert (asked["calls"], asked["ops.layer"], asked["ops.other"]) == (1, 2, 1)
    assert asked["bytes.io"] == io_bytes(ops, BLOCKS) == (4 * 64 + 5) * 4, (
        "images in full blocks, other ends as they are"
    )
    assert asked["macs.conv"] == amounts(ops[0], BLOCKS)["macs.conv"]
    assert total([], BLOCKS) == {"calls": 1.0, "bytes.io": 0.0}
