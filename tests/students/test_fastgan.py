"""FastGan: the gate, where gates stand, what they cost and what they do for gradients, and the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from compress.students import FastGan
from compress.students.fastgan import SkipExcitation
from tests.students.common import FORMATS, check_file, cost, noise, traced


def net(reach: int = 2) -> FastGan:
    torch.manual_seed(0)
    return FastGan(8, (16, 16, 8, 8), reach)


def test_the_gate_by_hand() -> None:
    torch.manual_seed(0)
    gate, coarse, fine = SkipExcitation(6, 10), noise(2, 6, 8, 8), noise(2, 10, 32, 32, seed=1)
    with torch.no_grad():
        squeezed = F.conv2d(F.avg_pool2d(coarse, 2), gate.squeeze.weight, gate.squeeze.bias)
        factor = gate.excite(F.leaky_relu(squeezed, 0.1)).sigmoid()
        assert factor.shape == (2, 10, 1, 1)
        torch.testing.assert_close(gate(coarse, fine), fine * factor)


def test_where_the_gates_stand() -> None:
    assert len(net().gates) == 1  # 8x8 gates 32x32
    assert len(net(reach=3).gates) == 0
    published = FastGan()
    assert [(g.squeeze.in_channels, g.squeeze.out_channels) for g in published.gates] == [(512, 64), (256, 64)]


def test_gates_cost_next_to_nothing() -> None:
    channels = (64, 64, 32, 32, 16, 16)
    torch.manual_seed(0)
    gated, plain = FastGan(16, channels, reach=3), FastGan(16, channels, reach=5)
    assert len(gated.gates) == 2 and len(plain.gates) == 0
    assert cost(gated, noise(1, 16)).macs <= 1.03 * cost(plain, noise(1, 16)).macs


def test_the_gate_is_a_way_around_the_convolutions_between() -> None:
    """With the convolutions in between blocked the coarse map still changes the image, through the gate alone."""
    model = net().eval()
    coarse, fine = noise(1, 16, 8, 8), noise(1, 8, 32, 32, seed=1)
    coarse.requires_grad_()
    model.gates[0](coarse, fine).square().sum().backward()
    assert coarse.grad is not None and float(coarse.grad.abs().sum()) > 0


@pytest.mark.parametrize("reach", [2, 3])
def test_it_traces_and_draws_within_bounds(reach: int) -> None:
    x = noise(1, 8)
    image = traced(net(reach), x)(x).detach()
    assert image.shape == (1, 3, 32, 32)
    assert float(image.abs().max()) < 1


@pytest.mark.parametrize("format", FORMATS)
def test_its_file(format: str, tmp_path: Path) -> None:
    check_file(net(), noise(1, 8), format, tmp_path)
