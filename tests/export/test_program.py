"""Reading programs: what is quantized, where ops stand, what can be dropped, and taking q/dq ops out again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.export.match import match, same
from compress.export.program import (
    constants_by_node,
    float_compute_ops,
    int8_weight_count,
    is_quantized,
    output_names,
    user_inputs,
    without_unused,
)
from compress.export.qdq import Range, Recorder, strip
from compress.export.refusal import find_op, refusal
from tests.export.programs import WEIGHTED, Net, float_program, int8_program, ops, samples, traced


def test_what_a_program_says_of_itself() -> None:
    program = int8_program()
    assert is_quantized(program) and not is_quantized(float_program())
    assert user_inputs(program) == [("x", (1, 3, 16, 16))]
    assert output_names(program) == ("output",)
    assert int8_weight_count(program) == 5 and int8_weight_count(float_program()) == 0
    assert float_compute_ops(program) == () == float_compute_ops(float_program())


class Half(nn.Module):
    """A linear layer whose softmax is left in float."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        limits = (0.05, 0, -128, 127, torch.int8)
        x = ops.dequantize_per_tensor.default(ops.quantize_per_tensor.default(x, *limits), *limits)
        return torch.softmax(self.head(x), 1)


def test_ops_left_in_float_are_named_with_place_and_reason() -> None:
    lines = float_compute_ops(torch.export.export(Half(), (torch.zeros(1, 4),)))
    assert len(lines) == 2
    assert lines[0] == "aten.linear at head (its output is not quantized)"
    assert lines[1].startswith("aten.softmax at the forward of Half (its input linear is not quantized)")


def test_dropping_unread_parameters_changes_no_number() -> None:
    program = float_program(norm=True)
    lean = without_unused(program)
    assert set(program.state_dict) - set(lean.state_dict) == {"stem.1.num_batches_tracked"}
    x = torch.from_numpy(samples(1)[0][0])
    assert torch.equal(program.module()(x), lean.module()(x))


class BuiltinName(nn.Module):
    """An argument called like a Python builtin, and a buffer that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unread", torch.zeros(3))
        self.layer = nn.Linear(3, 2)

    def forward(self, input: Tensor) -> Tensor:
        return self.layer(input)


def test_an_argument_called_input_survives() -> None:
    program = torch.export.export(BuiltinName(), (torch.zeros(1, 3),))
    lean = without_unused(program).run_decompositions({})
    assert "unread" in program.constants or "unread" in program.state_dict
    assert "unread" not in lean.constants and "unread" not in lean.state_dict
    assert torch.equal(lean.module()(torch.ones(1, 3)), program.module()(torch.ones(1, 3)))


def test_stripped_weights_are_what_the_codes_stand_for() -> None:
    program = int8_program()
    stripped = strip(program)
    assert not [node for node in stripped.module.graph.nodes if "quantize" in str(node.target)]
    assert {weight.name for weight in stripped.weights} == {"conv2d", "conv2d_1", "conv2d_2", "conv2d_3", "linear"}
    held = constants_by_node(program)
    for weight in stripped.weights:
        assert any(value.dtype == torch.int8 and torch.equal(value, weight.codes) for value in held.values())
    x = torch.from_numpy(samples(1)[0][0])
    with torch.no_grad():
        float_out, int8_out = stripped.module(x), program.module()(x)
    step = stripped.ranges["linear"][0].scale
    assert 0.0 < (float_out - int8_out).abs().max() < 10 * step  # near, and not the quantized numbers themselves


def test_ranges_are_kept_under_the_value_they_belong_to() -> None:
    stripped = strip(int8_program())
    assert stripped.ranges["hardtanh"] and "conv2d" not in stripped.ranges
    (value,) = stripped.ranges["x"]
    assert value.low == pytest.approx((-128 - value.zero_point) * value.scale) and value.low < 0.0 < value.high


def test_matching_sees_through_layout_and_refuses_to_guess() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.standard_normal((2, 1, 3, 4, 5)).astype(np.float32)
    narrow, wide = Range(0.1, 0), Range(0.2, 0)
    ranges = {"a": [narrow], "b": [wide], "copy": [wide]}
    values = {"a": first, "b": second, "copy": second}
    tensors = {1: np.moveaxis(first, 1, -1), 2: second, 3: first + 0.01, 4: first[..., :4]}
    found = match(tensors, values, ranges)
    assert found.ranges == {1: narrow, 2: wide} and not found.ambiguous  # 3 and 4 agree with nothing
    unsure = match({2: second}, values, {"b": [wide], "copy": [narrow]})
    assert unsure.ranges == {} and unsure.ambiguous == {2: ("b", "copy")}
    assert not same(first, second) and same(first.reshape(3, 4, 5), first)


def test_recorder_keeps_every_value() -> None:
    recorder = Recorder(strip(int8_program()).module)
    with torch.no_grad():
        out = recorder.run(torch.zeros(1, 3, 16, 16))
    assert torch.equal(recorder.values["linear"], out)
    assert sum(any(kind in name for kind in WEIGHTED) for name in recorder.values) == 5


def test_places_and_refusals() -> None:
    program = traced(Net())
    node = find_op(program, "aten::hardtanh")
    assert node is not None and node.name == "hardtanh"
    error = refusal(RuntimeError("While executing %conv2d_1 : [...]\nmore"), program, "litert")
    assert str(error) == (
        "litert cannot take the op aten.conv2d at block.depthwise (While executing %conv2d_1 : [...])"
    )
    assert "unnamed place" in str(refusal(RuntimeError("Lowering not found: aten.frobnicate.default"), program, "x"))
    assert str(refusal(ValueError("odd\nlines"), program, "x")) == "x: the exporter stopped with ValueError: odd"


def test_a_stray_sum_in_a_large_tensor_is_forgiven_and_another_tensor_is_not() -> None:
    value = np.random.default_rng(0).uniform(0, 6, (1, 8, 50, 50)).astype(np.float32)
    tensor = np.moveaxis(value, 1, -1).copy()
    tensor[0, 3, 7, 2] += 7e-4  # one element of 20,000, just over 1e-4 of the range
    assert same(tensor, value)
    far = tensor.copy()
    far[0, 3, 7, 2] += 0.1  # one element that a sum in another order cannot have moved
    assert not same(far, value)
    many = tensor + np.where(np.arange(tensor.size).reshape(tensor.shape) % 100, 0, 7e-4).astype(np.float32)
    assert not same(many, value)
