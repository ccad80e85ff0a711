"""LadaGan: attention that is linear in tokens and blind to their order, its formula, and the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.graph.cost import cost_of
from compress.graph.trace import trace
from compress.students import LadaGan
from compress.students.ladagan import AdditiveAttention, ModulatedNorm
from tests.students.common import FORMATS, check_file, noise, traced


class DotProduct(nn.Module):
    """The attention of all pairs, for comparison."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x_NTD: Tensor) -> Tensor:
        pairs = self.query(x_NTD) @ self.key(x_NTD).transpose(1, 2)
        return self.out(pairs.softmax(2) @ self.value(x_NTD))


def attention(width: int = 8, heads: int = 2) -> AdditiveAttention:
    torch.manual_seed(0)
    return AdditiveAttention(width, heads)


def net(patch: int = 1) -> LadaGan:
    torch.manual_seed(0)
    return LadaGan(8, (32, 16, 16), start_px=2, patch=patch)


def test_the_formula_head_by_head() -> None:
    layer, x = attention(), noise(2, 5, 8)
    with torch.no_grad():
        query, key, value = layer.query(x), layer.key(x), layer.value(x)
        share = (layer.weigh(query) / 2).softmax(1)  # the root of 4 channels in a head
        mixed = torch.zeros(2, 5, 8)
        for head in (0, 1):
            own = slice(4 * head, 4 * head + 4)
            pooled = torch.einsum("nt,ntd->nd", share[..., head], query[..., own])
            mixed[..., own] = value[..., own] * key[..., own] * pooled[:, None]
        torch.testing.assert_close(layer(x), layer.out(mixed))


def test_it_does_not_know_the_order_of_tokens_but_hears_all_of_them() -> None:
    layer, x = attention(), noise(1, 9, 8)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])
        changed = x.clone()
        changed[:, 8] += 1
        assert float((layer(changed) - layer(x))[:, :8].abs().max()) > 1e-3


def test_its_cost_is_linear_in_tokens_and_that_of_pairs_is_not() -> None:
    def growth(layer: nn.Module) -> float:
        costs = [cost_of(trace(layer, (x,)), (x,)) for x in (noise(1, 64, 16), noise(1, 256, 16))]
        assert costs[1].peak_activation_bytes <= 4.01 * costs[0].peak_activation_bytes or isinstance(layer, DotProduct)
        return costs[1].macs / costs[0].macs

    assert growth(attention(16)) == pytest.approx(4)
    assert growth(DotProduct(16)) > 8


def test_the_norm_is_modulated_by_the_latent() -> None:
    torch.manual_seed(0)
    norm, x = ModulatedNorm(8, 4), noise(2, 5, 8)
    with torch.no_grad():
        one, other = norm(x, noise(2, 4)), norm(x, noise(2, 4, seed=1))
        assert float((one - other).abs().max()) > 0.01
        torch.testing.assert_close(norm(3 * x + 1, noise(2, 4)), one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("patch", "side"), [(1, 8), (2, 16)])
def test_it_traces_and_draws(patch: int, side: int) -> None:
    x = noise(1, 8)
    assert traced(net(patch), x)(x).shape == (1, 3, side, side)


def test_heads_that_do_not_divide_are_named() -> None:
    with pytest.raises(ModelError, match="3 heads"):
        attention(8, 3)


@pytest.mark.parametrize("format", FORMATS)
def test_its_file(format: str, tmp_path: Path) -> None:
    check_file(net(), noise(1, 8), format, tmp_path)
