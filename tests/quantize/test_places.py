"""Where values are quantized: the rules that the four runtimes share."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.quantize.places import find_places


class Net(nn.Module):
    """A stem convolution in front of any function of its output."""

    def __init__(self, function, channels: int = 4) -> None:
        super().__init__()
        self.conv, self.head, self.function = nn.Conv2d(3, 4, 1), nn.Conv2d(channels, 2, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.conv(x)))


def places_of(build, function, channels: int = 4):
    return find_places(build(Net(function, channels), (3, 8, 8)).folded)


@pytest.mark.parametrize(
    "activation",
    [F.relu, F.relu6, F.hardtanh, lambda y: y.clamp(0, 6), lambda y: y.clamp(min=0), lambda y: torch.clip(y, -1, 2)],
)
def test_a_convolution_is_quantized_behind_its_activation(build, activation) -> None:
    places = places_of(build, activation)
    assert "conv" not in places.values and len(places.values) == 3  # input, activation, head


@pytest.mark.parametrize("activation", [F.hardswish, F.silu, F.leaky_relu, F.gelu, lambda y: y.clamp(max=1)])
def test_other_activations_get_a_range_behind_the_convolutions(build, activation) -> None:
    places = places_of(build, activation)
    assert "conv" in places.values and len(places.values) == 4
    assert not places.float_ops


def test_an_activation_with_company_is_not_absorbed(build) -> None:
    places = places_of(build, lambda y: F.relu(y) + y)
    assert places.values["relu"].group == "conv", "relu on int8 shares its input's range"
    assert places.values["add"].group == "add"


def test_addition_absorbs_relu_but_not_relu6(build) -> None:
    assert "add" not in places_of(build, lambda y: F.relu(y + y)).values
    places = places_of(build, lambda y: F.relu6(y + y))
    assert places.values["relu6"].group == "add"


@pytest.mark.parametrize(
    ("function", "channels"),
    [
        (lambda y: F.max_pool2d(y, 2), 4),
        (lambda y: F.avg_pool2d(y, 2), 4),
        (lambda y: F.pixel_shuffle(y, 2), 1),
        (lambda y: F.interpolate(y, scale_factor=2), 4),
        (lambda y: F.interpolate(y, scale_factor=2, mode="bilinear"), 4),
        (lambda y: F.pad(y, (1, 1, 1, 1)), 4),
        (lambda y: F.pad(y, (1, 1, 1, 1), mode="reflect"), 4),
        (lambda y: y.permute(0, 2, 3, 1).permute(0, 3, 1, 2), 4),
        (lambda y: y[:, :2].unsqueeze(1).squeeze(1), 2),
        (lambda y: y.chunk(2, 1)[1], 2),
        (lambda y: F.adaptive_avg_pool2d(y, 2), 4),
    ],
)
def test_moving_and_pooling_ops_share_their_inputs_range(build, function, channels) -> None:
    places = places_of(build, function, channels)
    shared = [name for name in places.values if name not in ("x", "conv", "head")]
    assert shared and all(places.values[name].group == "conv" for name in shared)


@pytest.mark.parametrize("function", [lambda y: y.mean((2, 3), True), lambda y: F.adaptive_avg_pool2d(y, 1)])
def test_global_pooling_has_its_own_range(build, function) -> None:
    assert {value.group for value in places_of(build, function).values.values()} >= {"conv", "head"}
    assert len({value.group for value in places_of(build, function).values.values()}) == 4


def test_concatenation_joins_all_ranges(build) -> None:
    places = places_of(build, lambda y: torch.cat([F.max_pool2d(y, 2), F.hardswish(y)[:, :, ::2, ::2]], 1), 8)
    joined = {name for name, value in places.values.items() if value.group == places.values["cat"].group}
    assert {"conv", "max_pool2d", "hardswish", "cat"} <= joined
    assert {name for name in joined if places.values[name].source} == {"conv", "hardswish"}


@pytest.mark.parametrize(
    ("function", "name", "fixed"),
    [
        (torch.sigmoid, "sigmoid", (0.0, 255 / 256)),
        (lambda y: F.softmax(y, 1), "softmax", (0.0, 255 / 256)),
        (torch.tanh, "tanh", (-1.0, 127 / 128)),
    ],
)
def test_sigmoid_softmax_and_tanh_have_fixed_ranges(build, function, name, fixed) -> None:
    assert places_of(build, function).fixed == {name: fixed}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda y: F.instance_norm(y), "instance norm has no int8 kernel"),
        (lambda y: torch.exp(y), "no rule for aten.exp"),
        (lambda y: y + 1.0, "plain number"),
        (lambda y: torch.add(y, y, alpha=2), "plain number"),
        (lambda y: y.clamp(1, 2) + y, "leave out zero"),
        (lambda y: F.pad(y, (1, 1, 1, 1), value=1.0), "another value than zero"),
        (lambda y: torch.cat([torch.sigmoid(y), y], 1)[:, :4], "fixed range"),
        (lambda y: F.group_norm(y, 2), "group norm has no int8 kernel"),
        (lambda y: y / (y * y + 1), "division has no int8 kernel"),
    ],
)
def test_float_ops_are_named_with_the_reason(build, function, reason) -> None:
    places = places_of(build, function)
    assert any(reason in text for text in places.float_ops.values()), places.float_ops
    assert set(places.layers) == {"conv", "head"}
    (head,) = [name for name in places.values if name == "head"]
    assert places.values[head].source  # the layer behind a float op is quantized all the same


def test_float_ops_are_quantized_only_for_readers_in_int8(build) -> None:
    places = places_of(build, lambda y: torch.log(torch.exp(y)))
    assert "exp" not in places.values and "log" in places.values


def norm(y: Tensor) -> Tensor:
    return F.group_norm(y, 2)


@pytest.mark.parametrize(
    ("function", "floats"),
    [
        (lambda y: norm(y * y), {"mul"}),
        (lambda y: norm(torch.sigmoid(y)), {"sigmoid"}),
        (lambda y: norm(torch.relu(y + y)), {"add", "relu"}),
        (lambda y: norm((y * y).permute(0, 1, 3, 2)), {"mul"}),
        (lambda y: norm(F.avg_pool2d(y, 2)), {"avg_pool2d"}),
        (lambda y: norm(torch.cat([y[:, :2], F.hardswish(y)[:, :2]], 1)), {"cat"}),
    ],
)
def test_what_only_float_ops_read_is_computed_in_float(build, function, floats) -> None:
    places = places_of(build, function)
    named = {name for name, reason in places.float_ops.items() if "only ops that compute in float" in reason}
    assert floats <= named and not floats & set(places.values)
    assert "conv" in places.values, "a layer's output is quantized whoever reads it"


def test_what_an_integer_op_reads_too_stays_quantized(build) -> None:
    places = places_of(build, lambda y: (lambda z: norm(z) + z)(y * y))
    assert "mul" in places.values and set(places.float_ops) == {"group_norm"}


@pytest.mark.parametrize("activation", [F.silu, F.gelu, F.leaky_relu, F.relu, lambda y: y.clamp(0, 6)])
def test_an_activation_behind_a_float_op_is_quantized_behind_itself_alone(build, activation) -> None:
    places = places_of(build, lambda y: activation(norm(y)))
    assert "group_norm" not in places.values
    assert len(places.values) == 4  # input, conv, activation, head
    assert any("before it computes in float" in reason for reason in places.float_ops.values())


class Timed(nn.Module):
    """Sines of timesteps, as a diffusion net makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.rand(4))
        self.first = nn.Linear(8, 3)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return self.first(torch.cat([angles.cos(), angles.sin()], 1))


def test_timesteps_reach_their_sines_unrounded() -> None:
    from compress.graph.trace import trace

    places = find_places(trace(Timed(), (torch.rand(2) * 1000,)))
    assert set(places.values) == {"cos", "sin", "cat", "first"}
    assert places.values["cos"].group == places.values["sin"].group


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gamma = nn.Conv2d(3, 4, 1), nn.Parameter(torch.rand(1, 4, 1, 1))

    def forward(self, x: Tensor, factor: Tensor) -> Tensor:
        return self.conv(x) * self.gamma, factor.argmax(1)


def test_parameters_used_as_activations_are_quantized_and_integers_are_not() -> None:
    from compress.graph.trace import trace

    places = find_places(trace(Scaled(), (torch.randn(2, 3, 4, 4), torch.randn(2, 5))))
    assert set(places.values) == {"gamma", "x", "conv", "mul"}
    assert "argmax" not in places.float_ops
