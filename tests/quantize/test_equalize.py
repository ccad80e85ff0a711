"""Cross-layer equalization: the function stays, the ranges get even, and one scale for all weights suffices."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

from compress.quantize import QuantPlan, apply, equalize, plan
from compress.quantize.equalize import channel_ids, channel_ranges, find_pairs, rescale
from tests.quantize.nets import Uneven, sqnr_db, traced

FACTORS = torch.logspace(-1.5, 1.0, 8)


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(32, 3, 8, 8)


def one_scale(folded: fx.GraphModule, x: Tensor) -> QuantPlan:
    """A plan whose layers have one scale for the whole weight each."""
    made = plan(folded, "w8a8", [x])
    return replace(made, weights={path: (-1, (max(scales),)) for path, (_, scales) in made.weights.items()})


@torch.no_grad()
def test_the_function_stays_and_both_sides_get_the_same_ranges(images: Tensor) -> None:
    folded = traced(Uneven(nn.ReLU(), FACTORS), images)
    before, first = folded(images), folded.get_submodule("a")
    uneven = channel_ranges(first, output=True)
    pairs, skipped = equalize(folded)
    assert pairs == ["a > b", "b > up", "up > head"] and set(skipped) == {"head"}
    torch.testing.assert_close(folded(images), before, rtol=1e-5, atol=1e-5)
    now, then = channel_ranges(first, output=True), channel_ranges(folded.get_submodule("b"), output=False)
    torch.testing.assert_close(now, then, rtol=5e-3, atol=0.0)
    assert float(uneven.max() / uneven.min()) > 50 > 10 * float(now.max() / now.min())
    assert equalize(folded)[0] == [], "an equalized network has nothing left to move"


@torch.no_grad()
def test_int8_with_one_scale_per_layer_gains_where_ranges_were_uneven_and_only_there(images: Tensor) -> None:
    gains = {}
    for name, factors in (("uneven", FACTORS), ("even", None)):
        folded = traced(Uneven(nn.ReLU(), factors), images)
        better = copy.deepcopy(folded)
        equalize(better)
        plain, equal = (sqnr_db(folded(images), apply(m, one_scale(m, images))(images)) for m in (folded, better))
        gains[name] = equal - plain
    assert gains["uneven"] > 6.0, gains
    assert abs(gains["even"]) < 3.0, gains


@torch.no_grad()
def test_channels_behind_a_relu6_move_only_under_its_bound(images: Tensor) -> None:
    model = Uneven(nn.ReLU6())
    with torch.no_grad():
        model.a.weight[2] *= 20.0  # this channel runs into the bound; all others stay far below it
    folded = traced(model, images)
    before, weight = folded(images), folded.get_submodule("a").weight.clone()
    _, skipped = equalize(copy.deepcopy(folded))
    assert "needs calibration data" in skipped["a"]
    pairs, _ = equalize(folded, [images])
    assert "a > b" in pairs
    torch.testing.assert_close(folded(images), before, rtol=1e-5, atol=1e-5)
    now = folded.get_submodule("a").weight
    assert torch.equal(now[2], weight[2]) and not torch.allclose(now[3], weight[3])


def test_pairs_end_at_whatever_is_not_homogeneous_or_has_other_readers(images: Tensor) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            y = self.b(torch.sigmoid(self.a(x)))
            return self.d(torch.relu(self.c(y)) + y)

    pairs, skipped = find_pairs(traced(Branching(), images))
    assert pairs == [] and set(skipped) == {"a", "b", "c", "d"}
    assert "sigmoid" in skipped["a"] and "2 readers" in skipped["b"] and "add" in skipped["c"]


@torch.no_grad()
def test_a_dead_channel_is_left_alone(images: Tensor) -> None:
    model = Uneven(nn.ReLU())
    model.a.weight[1].fill_(1e-9)
    model.a.bias[1] = 0.5
    folded = traced(model, images)
    equalize(folded)
    assert float(folded.get_submodule("a").bias[1]) == 0.5


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 6),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ConvTranspose1d(4, 6, 3, groups=2),
        nn.Conv1d(4, 4, 3, groups=4),
    ],
)
@torch.no_grad()
def test_rescaling_channels_is_scaling_what_goes_in_or_comes_out(layer: nn.Module) -> None:
    torch.manual_seed(0)
    is_linear = isinstance(layer, nn.Linear)
    x = torch.randn(2, 4) if is_linear else torch.randn(2, 4, *[7] * (layer.weight.dim() - 2))
    inputs, outputs = torch.rand(4) + 0.5, torch.rand(layer(x).shape[1]) + 0.5
    shape = (-1, *[1] * (x.dim() - 2))
    expected = layer(x * inputs.reshape(shape)) * outputs.reshape(shape)
    assert int(channel_ids(layer, output=False).max()) == 3
    rescale(layer, inputs, output=False)
    rescale(layer, outputs, output=True)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
