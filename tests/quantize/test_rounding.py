"""Learned rounding and corrected biases: what calibration data can mend without training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

from compress.quantize import apply, calibrate, correct_biases, float_weights, freeze, learn_rounding, prepare
from compress.quantize.bias_correction import channel_statistics
from compress.quantize.layers import integer_weight
from compress.quantize.network import quantized_layers
from compress.quantize.rounding import penalty, rounding_share, rounding_variable, spread_scales
from tests.quantize.nets import sqnr_db, traced


@pytest.fixture
def inputs() -> Tensor:
    """Inputs with strongly correlated channels: what makes the nearest integer a bad choice."""
    torch.manual_seed(1)
    return torch.relu(torch.randn(384, 4) @ torch.randn(4, 24) + 0.3)


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 6))


def calibrated(folded: fx.GraphModule, scheme: str, x: Tensor) -> fx.GraphModule:
    prepared = prepare(folded, scheme)
    calibrate(prepared, x.split(64))
    return prepared.eval()


def test_learned_rounding_beats_nearest_on_held_data_at_four_bits(inputs: Tensor) -> None:
    seen, held = inputs[:256], inputs[256:]
    folded = traced(dense(), inputs)
    prepared = calibrated(folded, "w4", seen)
    nearest = copy.deepcopy(prepared)
    moved = learn_rounding(prepared, folded, seen.split(64), steps=300)
    with torch.no_grad():
        goal = folded(held)
        gain = sqnr_db(goal, prepared(held)) - sqnr_db(goal, nearest(held))
    assert gain > 2.0, gain
    assert set(moved) == {"0", "2", "4"} and all(0.0 < share < 0.5 for share in moved.values()), moved


def test_learned_weights_lie_on_their_two_integers_and_the_plan_finds_them(inputs: Tensor) -> None:
    folded = traced(dense(), inputs)
    prepared = calibrated(folded, "w4a8", inputs)
    before = copy.deepcopy(prepared)
    learn_rounding(prepared, folded, [inputs], steps=50)
    for path, layer in quantized_layers(prepared).items():
        old = quantized_layers(before)[path]
        torch.testing.assert_close(layer.scales(), old.scales(), rtol=1e-6, atol=0.0)
        steps = layer.weight.detach() / spread_scales(layer)
        torch.testing.assert_close(steps, steps.round(), rtol=0.0, atol=1e-4)
        assert float((old.weight / spread_scales(old) - steps).abs().max().detach()) < 1.0 + 1e-4
        integers = integer_weight(layer.weight, layer.scales(), layer.axis, layer.weight_max)
        assert torch.equal(integers.float(), steps.round())
    made, rounded = freeze(prepared), copy.deepcopy(folded)
    rounded.load_state_dict(float_weights(prepared))
    with torch.no_grad():
        assert torch.equal(apply(rounded, made)(inputs), prepared(inputs))


def test_learning_twice_gives_the_same_and_leaves_no_random_state_behind(inputs: Tensor) -> None:
    folded = traced(dense(), inputs)
    state, results = torch.get_rng_state(), []
    for _ in range(2):
        prepared = calibrated(folded, "w4a8", inputs)
        learn_rounding(prepared, folded, [inputs], steps=20)
        results.append({name: value.clone() for name, value in float_weights(prepared).items()})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_the_rounding_variable_starts_at_the_float_weight_and_the_penalty_wants_ends() -> None:
    share = torch.linspace(0.0, 0.999, 50)
    torch.testing.assert_close(rounding_share(rounding_variable(share)), share, rtol=0.0, atol=1e-6)
    assert float(penalty(torch.tensor([0.0, 1.0]), 2.0)) == 0.0
    assert float(penalty(torch.tensor([0.5]), 20.0)) == 1.0
    assert float(rounding_share(torch.tensor(9.0))) == 1.0 and float(rounding_share(torch.tensor(-9.0))) == 0.0


def test_corrected_biases_give_every_layer_its_float_mean_back(inputs: Tensor) -> None:
    folded = traced(dense(), inputs)
    prepared = calibrated(folded, "w4a8", inputs)
    paths = list(quantized_layers(prepared))
    goal, spread = channel_statistics(folded, folded, [inputs], paths)
    off, _ = channel_statistics(prepared, folded, [inputs], paths)
    plain = copy.deepcopy(prepared)
    shifts, without = correct_biases(prepared, folded, [inputs])
    on, _ = channel_statistics(prepared, folded, [inputs], paths)
    assert without == [] and set(shifts) == set(paths)
    for path in paths:
        torch.testing.assert_close(on[path], goal[path], rtol=0.0, atol=1e-5)
    assert float(((off["4"] - goal["4"]) / spread["4"]).abs().max()) > 0.02, "without it the mean is off"
    with torch.no_grad():
        assert sqnr_db(folded(inputs), prepared(inputs)) > sqnr_db(folded(inputs), plain(inputs))


def test_a_layer_without_bias_is_named_and_convolutions_are_corrected_by_channel() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 3, 6, 6).abs()
    folded = traced(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False)), x)
    prepared = calibrated(folded, "w4a8", x)
    shifts, without = correct_biases(prepared, folded, [x])
    assert set(shifts) == {"0"} and without == ["2"]
    goal, _ = channel_statistics(folded, folded, [x], ["0"])
    now, _ = channel_statistics(prepared, folded, [x], ["0"])
    torch.testing.assert_close(now["0"], goal["0"], rtol=0.0, atol=1e-5)


def test_palettes_are_left_to_their_tables(inputs: Tensor) -> None:
    folded = traced(dense(), inputs)
    prepared = calibrated(folded, "palette4", inputs)
    assert learn_rounding(prepared, folded, [inputs], steps=5) == {}
