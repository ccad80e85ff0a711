"""Costs counted by hand, ops of unknown cost named, and the peak of live activations."""

from __future__ import annotations

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
