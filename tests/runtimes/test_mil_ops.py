"""The evaluator's operations by themselves: by hand, by their definitions, or against another way to compute them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import CheckFailed, ToolError
from compress.runtimes.mil import OPS, Evaluator, Operation, Port, Program
from compress.runtimes.mil.program import Reference
from compress.runtimes.mil.resizing import points
from compress.runtimes.mil.values import as_declared, unpacked


def whole(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def call(op: str, *given: Any, **more: Any) -> Any:
    return OPS[op](*given, **more)


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("STRICT_ALIGN_CORNERS", [0.0, 0.5, 1.0, 1.5, 2.0]),
        ("DEFAULT", [0.0, 0.6, 1.2, 1.8, 2.0]),
        ("OFFSET_CORNERS", [0.2, 0.6, 1.0, 1.4, 1.8]),
        ("UNALIGN_CORNERS", [0.0, 0.4, 1.0, 1.6, 2.0]),
    ],
)
def test_sampling_modes_by_hand(mode: str, wanted: list[float]) -> None:
    assert points(3, 5, mode).tolist() == pytest.approx(wanted)


def test_one_sample_of_aligned_corners_lies_in_the_middle_unless_strict() -> None:
    assert points(4, 1, "ALIGN_CORNERS").tolist() == [1.5]
    assert points(4, 1, "STRICT_ALIGN_CORNERS").tolist() == [0.0]


def test_same_padding_puts_the_odd_row_behind_or_in_front() -> None:
    x, weight = torch.arange(4.0).reshape(1, 1, 4), torch.ones(1, 1, 2)
    assert call("conv", x, weight, pad_type="same").flatten().tolist() == [1.0, 3.0, 5.0, 3.0]
    assert call("conv", x, weight, pad_type="same_lower").flatten().tolist() == [0.0, 1.0, 3.0, 5.0]
    assert call("conv", x, weight, strides=whole(3), pad_type="same").shape[2] == 2


def test_a_larger_output_shape_of_a_transposed_convolution_holds_the_bias_alone() -> None:
    x, weight = torch.randn(1, 2, 4, 4), torch.randn(2, 3, 2, 2)
    found = call("conv_transpose", x, weight, torch.ones(3), strides=whole(3, 3), output_shape=whole(1, 3, 12, 12))
    assert torch.equal(found[:, :, 11, :], torch.ones(1, 3, 12))
    assert torch.allclose(found, F.conv_transpose2d(x, weight, torch.ones(3), 3, output_padding=1), atol=1e-6)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("size", [7, 8, 9, 10])
def test_pools_as_torch_has_them(size: int, counted: bool, ceil_mode: bool) -> None:
    x = torch.randn(1, 2, size)
    given = {"kernel_sizes": whole(3), "strides": whole(2), "pad_type": "custom", "pad": whole(1, 1)}
    found = call("avg_pool", x, **given, exclude_padding_from_average=not counted, ceil_mode=ceil_mode)
    assert torch.allclose(found, F.avg_pool1d(x, 3, 2, 1, ceil_mode, counted), atol=1e-6)
    assert torch.equal(call("max_pool", x, **given, ceil_mode=ceil_mode), F.max_pool1d(x, 3, 2, 1, 1, ceil_mode))


@pytest.mark.parametrize(("mode", "wanted"), [("reflect", [2, 1, 0, 1, 2, 1]), ("replicate", [0, 0, 0, 1, 2, 2])])
def test_pads_by_hand(mode: str, wanted: list[float]) -> None:
    assert call("pad", torch.arange(3.0), whole(2, 1), mode).tolist() == wanted
    assert call("pad", torch.arange(2.0), whole(1, 2), "constant", torch.tensor(9.0)).tolist() == [9, 0, 1, 9, 9]


def test_a_slice_with_masks_and_a_negative_stride() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    masks = {"end_mask": torch.tensor([False, True, True]), "squeeze_mask": torch.tensor([True, False, False])}
    found = call("slice_by_index", x, whole(-1, 2, 0), whole(0, 0, 0), whole(1, -1, 3), **masks)
    assert torch.equal(found, torch.from_numpy(x.numpy()[-1, 2::-1, 0::3].copy()))
    assert torch.equal(call("slice_by_size", x, whole(0, 1, 2), whole(1, -1, 2)), x[:1, 1:, 2:4])
    updated = call("slice_update", x, -torch.ones(2, 1, 2), whole(0, 1, 1), whole(2, 2, 3))
    assert updated.sum() == x.sum() - x[:, 1, 1:3].sum() - 4


def test_pixels_and_channels_come_back() -> None:
    x = torch.randn(1, 12, 2, 3)
    assert torch.equal(call("space_to_depth", call("depth_to_space", x, 2), 2), x)
    assert torch.equal(call("pixel_unshuffle", call("pixel_shuffle", x, 2), 2), x)
    assert not torch.equal(call("depth_to_space", x, 2), call("pixel_shuffle", x, 2))
    assert torch.equal(call("depth_to_space", x[:, :4], 2), call("pixel_shuffle", x[:, :4], 2))


def test_gathers_and_scatters() -> None:
    x, rows = torch.arange(12.0).reshape(3, 4), whole(2, 0, 2)
    assert torch.equal(call("gather", x, rows), x[[2, 0, 2]])
    assert torch.equal(
        call("gather", x, whole(3, 1, 0).reshape(3, 1), axis=1, batch_dims=1).flatten(), x[[0, 1, 2], [3, 1, 0]]
    )
    assert torch.equal(call("gather_nd", x, whole(2, 1, 0, 3).reshape(2, 2)), x[[2, 0], [1, 3]])
    twice = call("scatter", x, rows, torch.ones(3, 4), mode="add")
    assert torch.equal(twice - x, torch.tensor([[1.0], [0.0], [2.0]]).expand(3, 4))
    with pytest.raises(IndexError, match="within 0 to 2"):
        call("gather", x, whole(-1))


def test_quantize_rounds_halves_to_even_and_stays_in_range() -> None:
    x = torch.tensor([0.25, 0.75, 1.25, -0.25, 99.0, -99.0])
    codes = call("quantize", x, torch.tensor(0.5), "int8", torch.tensor(-3, dtype=torch.int8))
    assert codes.tolist() == [-3, -1, -1, -3, 127, -128] and codes.dtype is torch.int8
    back = call("dequantize", codes, torch.tensor(0.5), torch.tensor(-3, dtype=torch.int8))
    assert back[:4].tolist() == [0.0, 1.0, 1.0, 0.0]


def test_bits_are_read_lowest_first() -> None:
    numbers = [5, 0, 7, 3, 6]
    packed = sum(number << (3 * place) for place, number in enumerate(numbers)).to_bytes(2, "little")
    assert unpacked(np.frombuffer(packed, np.uint8), 3, 5).tolist() == numbers
    assert unpacked(np.frombuffer(b"\x8f", np.uint8), 4, 2, signed=True).tolist() == [-1, -8]


def test_palettes_of_both_systems() -> None:
    table = torch.tensor([0.0, 10.0, 20.0, 30.0])
    packed = torch.tensor([0b01_11_00_10, 0b11], dtype=torch.uint8)  # 2, 0, 3, 1, 3
    assert call("constexpr_lut_to_dense", packed, table, shape=whole(5)).tolist() == [20, 0, 30, 10, 30]
    indices = torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8)
    tables = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 1, 2, 1)
    assert call("constexpr_lut_to_dense", indices, tables).tolist() == [[1, 2], [4, 3]]
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)
    found = call("constexpr_lut_to_dense", indices, vectors, vector_axis=whole(0))
    assert found.tolist() == [[1, 3], [2, 4], [3, 1], [4, 2]]


def test_blocks_and_sparse_weights() -> None:
    codes = torch.tensor([[1, 2, 3, 4]], dtype=torch.int8)
    found = call("constexpr_blockwise_shift_scale", codes, torch.tensor([[0.5, 2.0]]))
    assert found.tolist() == [[0.5, 1.0, 6.0, 8.0]]
    mask = torch.tensor([0b101], dtype=torch.uint8)
    assert call("constexpr_sparse_to_dense", torch.tensor([7.0, 8.0]), mask, shape=whole(3)).tolist() == [7, 0, 8]
    bits = torch.tensor([[1, 0, 0, 1]], dtype=torch.uint8)
    kept, values = call("constexpr_sparse_blockwise_shift_scale", bits, codes[0, :2], torch.tensor([[0.5, 2.0]]))
    assert torch.equal(kept, bits) and values.tolist() == [0.5, 4.0]


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(("padding", "aligned", "torch_padding"), [
    ("constant", False, "zeros"), ("border", True, "border"), ("reflection", True, "reflection"),
    ("symmetric", False, "reflection"),
])  # fmt: skip
def test_resample_is_grid_sample(mode: str, padding: str, aligned: bool, torch_padding: str) -> None:
    x, grid = torch.randn(1, 2, 5, 4), torch.rand(1, 6, 7, 2) * 4 - 2
    found = call("resample", x, grid, mode, padding, 0.0, "normalized_minus_one_to_one", aligned)
    assert torch.allclose(found, F.grid_sample(x, grid, mode, torch_padding, align_corners=aligned), atol=1e-4)
    pixels = torch.stack([torch.arange(4.0).repeat(5, 1), torch.arange(5.0).repeat(4, 1).T], -1)[None]
    assert torch.allclose(call("resample", x, pixels, mode, padding, 0.0, "unnormalized", aligned), x, atol=1e-5)


def test_an_enlargement_that_its_documentation_leaves_open_is_refused() -> None:
    x = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert call("upsample_nearest_neighbor", x, 3, 1).flatten().tolist() == [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3]
    with pytest.raises(NotImplementedError, match="does not say"):
        call("resize_nearest_neighbor", torch.randn(1, 1, 3, 4), 2, 4)


def test_attention_masks_of_truths_and_of_numbers() -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 4).unbind()
    keep = torch.ones(5, 5, dtype=torch.bool).tril()
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
    added = torch.zeros(5, 5).masked_fill(~keep, -1e9)
    for mask in (keep, added):
        assert torch.allclose(call("scaled_dot_product_attention", q, k, v, mask), wanted, atol=1e-6)


def program(kind: str, dtype: str = "FLOAT32", shape: tuple[int, ...] = (2,), **arguments: Any) -> Program:
    """y = kind(x), x of shape (2,)."""
    bound = {"x": (Reference("x"),), **{name: (value,) for name, value in arguments.items()}}
    return Program(
        (Port("x", "FLOAT32", (2,)),), (Operation(kind, bound, (Port("y", dtype, shape),)),), ("y",), "CoreML7"
    )


def test_values_are_rounded_to_their_declared_type() -> None:
    x = torch.tensor([1.0 + 2**-12, 70000.0])
    (found,) = Evaluator(program("identity", "FLOAT16")).run([x])
    assert found.tolist() == [1.0, float("inf")] and found.dtype is torch.float32
    assert as_declared(torch.tensor([-1.7, 1.7]), "INT32").tolist() == [-1, 1]


def test_a_program_that_contradicts_itself_fails() -> None:
    with pytest.raises(CheckFailed, match=r"says shape \[3\] of relu at y; computed, it is \[2\]"):
        Evaluator(program("relu", shape=(3,))).run([torch.ones(2)])
    lost = Operation("relu", {"x": (Reference("nowhere"),)}, (Port("y", "FLOAT32", (2,)),))
    with pytest.raises(CheckFailed, match="reads 'nowhere' at y"):
        Evaluator(Program((), (lost,), ("y",), "CoreML7"))
    with pytest.raises(CheckFailed, match="gives out 'z'"):
        Evaluator(Program((), (), ("z",), "CoreML7"))


def test_all_that_is_unknown_is_listed_at_once() -> None:
    first = program("gru").operations[0]
    second = Operation("gelu", {"x": (Reference("y"),), "mode": ("CUBIC",), "knob": (torch.ones(()),)},
                       (Port("z", "FLOAT32", (2,)),))  # fmt: skip
    with pytest.raises(ToolError) as caught:
        Evaluator(Program((Port("x", "FLOAT32", (2,)),), (first, second), ("z",), "CoreML7"))
    told = str(caught.value)
    assert told.startswith("the Core ML reference evaluator does not know gru at y; ")
    assert "gelu at z: mode CUBIC" in told and "gelu at z: its parameter knob" in told and "\n" not in told
    with pytest.raises(ToolError, match="clip at y: it lacks its parameter alpha"):
        Evaluator(program("clip"))
