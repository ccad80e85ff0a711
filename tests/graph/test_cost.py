"""Costs counted by hand, ops of unknown cost named, and the peak of live activations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.graph.cost import cost_of
from compress.graph.trace import trace
from tests.models import Concatenating, TinyResNet, Upsampling


def _cost(model: nn.Module, *shape: int):  # type: ignore[no-untyped-def]
    x = torch.randn(1, *shape)
    return cost_of(trace(model, (x,)), (x,))


def test_macs_and_params_equal_the_count_by_hand() -> None:
    cost = _cost(TinyResNet(width=16, classes=4), 1, 8, 8)
    convs = 64 * 9 * 16 + 4 * 64 * 9 * 16 * 16 + 16 * 9 * 16 * 32
    assert cost.macs == convs + 32 * 4
    assert cost.params == sum(p.numel() for p in TinyResNet().parameters())
    assert cost.unknown_ops == {}


def test_depthwise_and_transposed_convolutions() -> None:
    by_name = {op.where: op for op in _cost(Concatenating(), 3, 8, 8).ops}
    assert by_name["depthwise"].kind == "depthwise_conv"
    assert by_name["depthwise"].macs == 64 * 9 * 16
    up = {op.where: op for op in _cost(Upsampling(), 3, 8, 8).ops}["up"]
    assert (up.kind, up.macs) == ("conv_transpose", 64 * 16 * 16 * 16)


def test_norms_and_activations_ride_in_the_kernel_before_them() -> None:
    ops = {op.name: op for op in _cost(TinyResNet(), 1, 8, 8).ops}
    assert ops["norm"].fused_into == "stem"
    first_activation = next(op for op in ops.values() if op.kind == "activation")
    assert first_activation.fused_into == "stem"


def test_an_unknown_op_is_named_and_not_counted() -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(self.linear(x)).abs()

    cost = _cost(Spectrum(), 8)
    assert cost.macs == 64
    assert any("fft" in name for name in cost.unknown_ops)


def test_a_view_keeps_its_source_alive() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Linear(800, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.flatten(self.conv(x), 1))

    assert _cost(Views(), 3, 10, 10).peak_activation_bytes == (3 + 8) * 100 * 4


def test_peak_activation_of_a_chain_is_its_widest_pair() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 1))
    assert _cost(chain, 3, 10, 10).peak_activation_bytes == (8 + 4) * 100 * 4


class Everything(nn.Module):
    """One op of every kind that has no MACs."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv = nn.Embedding(1000, 8), nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.rows = nn.Parameter(torch.randn(500, 8))

    def forward(self, x: Tensor) -> Tensor:
        place = x[:, 0, 0].long()
        y = self.table(place) + self.rows[place]
        y = self.conv(y.transpose(1, 2).unsqueeze(2))
        y = torch.cat([y, y], 1).roll(1, 3)
        y = nn.functional.interpolate(nn.functional.max_pool2d(nn.functional.pad(y, (1, 1, 1, 1)), 2), scale_factor=2)
        return torch.softmax(y.mean((2, 3)), 1)


def test_ops_without_macs_are_told_apart_by_what_they_do() -> None:
    kinds = {op.op: op.kind for op in _cost(Everything(), 3, 4, 8).ops}
    expected = {
        "embedding": "gather", "index": "gather", "select": "move", "transpose": "move", "roll": "move",
        "unsqueeze": "reshape", "cat": "concat", "pad": "pad", "max_pool2d": "pool", "mean": "reduce",
        "softmax": "softmax", "add": "elementwise", "Conv2d": "conv",
    }  # fmt: skip
    assert {op: kinds.get(op) for op in expected} == expected
    assert "resize" in kinds.values()


def test_a_gather_reads_the_rows_it_gives_and_not_its_table() -> None:
    gathers = [op for op in _cost(Everything(), 3, 4, 8).ops if op.kind == "gather"]
    assert [(op.input_shapes, op.output_shape, op.weight_count) for op in gathers] == [(((1, 8),), (1, 8, 8), 0)] * 2


def test_a_dilated_convolution_says_so() -> None:
    dilations = {op.op: op.dilation for op in _cost(Everything(), 3, 4, 8).ops}
    assert dilations["Conv2d"] == 2 and dilations["add"] == 1


@pytest.mark.parametrize(("op", "maps"), [("transpose", 2), ("roll", 3), ("flip", 3)])
def test_moves_that_copy_hold_a_buffer_and_views_hold_none(op: str, maps: int) -> None:
    """All of them move values on a phone, but only what copies needs memory of its own."""

    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            moves = {"transpose": lambda: y.transpose(2, 3), "roll": lambda: y.roll(1, 2), "flip": lambda: y.flip(2)}
            return y + moves[op]()

    cost = _cost(Moving(), 3, 10, 10)
    assert [found.kind for found in cost.ops if found.op == op] == ["move"]
    assert cost.peak_activation_bytes == maps * 8 * 100 * 4
