"""Noise inside a model becomes part of it: the same answer every time, for every batch size, traced or exported."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.graph.noise import noise_of
from compress.graph.trace import export_static, trace


class Noisy(nn.Module):
    """A small generator that draws noise of both kinds, by size and by likeness."""

    def __init__(self, uniform: bool = False) -> None:
        super().__init__()
        self.conv, self.uniform = nn.Conv2d(3, 4, 3, padding=1), uniform
        self.strength = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y + self.strength * (torch.rand_like(y) if self.uniform else torch.randn_like(y))
        return y * torch.randn(x.shape[0], 4, 1, 1)


@pytest.mark.parametrize("uniform", [False, True])
def test_a_noisy_model_answers_the_same_every_time(uniform: bool) -> None:
    torch.manual_seed(0)
    model, x = Noisy(uniform), torch.randn(3, 3, 8, 8)
    assert not torch.equal(model(x), model(x))  # the ablation: as it came
    traced = trace(model, (x[:1],))
    first = traced(x)
    assert torch.equal(first, traced(x))
    torch.testing.assert_close(first[:1], traced(x[:1]))  # one sample alone has the noise it has among others
    assert noise_of(traced) == ["fixed_noise_0", "fixed_noise_1"]
    assert torch.equal(export_static(traced, (x[:1],)).module()(x[:1]), traced(x[:1]))


def test_the_noise_is_what_it_says_it_is() -> None:
    torch.manual_seed(0)
    traced = trace(Noisy(uniform=True), (torch.randn(1, 3, 64, 64),))
    uniform, normal = traced.fixed_noise_0, traced.fixed_noise_1
    assert float(uniform.min()) >= 0 and float(uniform.max()) <= 1 and abs(float(uniform.mean()) - 0.5) < 0.02
    assert normal.shape == (1, 4, 1, 1)


def test_two_traces_have_the_same_noise() -> None:
    torch.manual_seed(0)
    model, x = Noisy(), torch.randn(1, 3, 8, 8)
    first = trace(model, (x,))(x)
    torch.manual_seed(1)
    assert torch.equal(trace(model, (x,))(x), first)


def test_a_draw_that_cannot_be_fixed_is_refused() -> None:
    class Tossing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.bernoulli(torch.full_like(x, 0.5))

    with pytest.raises(ModelError, match=r"bernoulli.*draw them outside"):
        trace(Tossing(), (torch.randn(1, 3),))


def test_dropout_is_left_alone() -> None:
    traced = trace(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), (torch.randn(1, 4),))
    assert noise_of(traced) == []
