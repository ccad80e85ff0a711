"""Learned step sizes: the published gradients, the integers to the bit, and better networks at few bits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from compress.quantize import apply, calibrate, float_weights, freeze, learn_steps, prepare, set_state
from compress.quantize.fake_quant import ActivationFakeQuant, FakeQuantLayer
from compress.quantize.learned_steps import StepActivation, StepLayer, adopted, first_steps, lsq
from compress.quantize.network import fake_quants, quantized_layers
from compress.quantize.schemes import precision
from tests.quantize.nets import traced


def test_the_gradient_of_the_step_is_the_published_one() -> None:
    """Equation 3 of the paper, value by value, times the gradient scale; the value's own gradient is 1 or 0."""
    step, scale = torch.tensor(0.5, dtype=torch.float64), 0.25
    values = torch.tensor([-9.0, -3.3, -0.6, 0.1, 0.74, 1.6, 8.0], dtype=torch.float64)
    for value in values:
        x, s = value.clone().requires_grad_(True), step.clone().requires_grad_(True)
        y = lsq(x, s, -8, 7, scale)
        y.backward()
        ratio = float(value / step)
        inside = -8 < ratio < 7
        expected = round(ratio) - ratio if inside else (-8.0 if ratio <= -8 else 7.0)
        assert float(s.grad) == pytest.approx(expected * scale, abs=1e-12)
        assert float(x.grad) == (1.0 if inside else 0.0)
        assert float(y.detach()) == pytest.approx(max(-8, min(7, round(ratio))) * 0.5)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8", "w4"])
def test_weights_and_steps_get_the_gradients_of_the_formula(build, scheme: str) -> None:
    digits = build("digits")
    prepared = prepare(digits.folded, scheme)
    calibrate(prepared, digits.batches)
    learn_steps(prepared)
    layer = quantized_layers(prepared)["fc"]
    assert isinstance(layer, StepLayer)
    with torch.no_grad():
        layer.step.mul_(0.9)  # away from where a ratio is the largest integer exactly
    if layer.group:  # as files store them
        assert torch.equal(layer.scales(), layer.scales().bfloat16().float())
    layer.rounded().sum().backward()
    top, columns = layer.weight_max, layer.group or layer.weight.shape[1]
    ratio = layer.weight.detach().reshape(-1, columns) / layer.scales()[:, None]
    per_weight = torch.where(ratio.abs() < top, ratio.round() - ratio, top * ratio.sign())
    torch.testing.assert_close(layer.step.grad, per_weight.sum(1) / (columns * top) ** 0.5, rtol=1e-3, atol=1e-4)
    assert torch.equal(layer.weight.grad.reshape(-1, columns), (ratio.abs() <= top).float())


def test_channels_that_share_a_scale_share_one_step() -> None:
    """A transposed convolution with groups has one scale per group, and keeps it so however the steps have moved."""
    torch.manual_seed(0)
    layer = adopted(FakeQuantLayer(nn.ConvTranspose2d(6, 4, 3, groups=2), precision("w8a8")), StepLayer)
    layer.start()
    assert layer.step.shape == (2,)
    with torch.no_grad():
        layer.step.mul_(torch.tensor([0.5, 1.5]))
    assert torch.equal(layer.scales(), layer.step.detach().repeat_interleave(3))
    layer.rounded().sum().backward()
    top, ratio = layer.weight_max, layer.weight.detach().reshape(2, -1) / layer.step.detach()[:, None]
    per_weight = torch.where(ratio.abs() < top, ratio.round() - ratio, top * ratio.sign())
    count = layer.weight.numel() // 2
    torch.testing.assert_close(layer.step.grad, per_weight.sum(1) / (count * top) ** 0.5, rtol=1e-3, atol=1e-4)


def test_steps_start_at_the_papers_value_or_where_nothing_is_cut() -> None:
    torch.manual_seed(0)
    rows = torch.randn(4, 4096)
    torch.testing.assert_close(first_steps(rows, 1), 2.0 * rows.abs().mean(1))
    torch.testing.assert_close(first_steps(rows, 127), rows.abs().amax(1) / 127)


def test_the_plan_agrees_with_the_network_to_the_bit_after_training(built) -> None:
    prepared = prepare(built.folded, "w4a8")
    calibrate(prepared, built.batches)
    paths = learn_steps(prepared)
    assert paths == list(quantized_layers(prepared))
    kinds = {type(m) for m in fake_quants(prepared).values() if not m.fixed}
    assert kinds == {StepActivation}
    assert all(type(m) is ActivationFakeQuant for m in fake_quants(prepared).values() if m.fixed)
    start = {name: p.detach().clone() for name, p in prepared.named_parameters() if name.endswith("step")}
    optimizer = torch.optim.SGD(prepared.train().parameters(), lr=1e-2)
    for batch in built.batches:
        optimizer.zero_grad()
        (prepared(batch) - built.folded(batch).detach()).square().mean().backward()
        optimizer.step()
    moved = [name for name, p in prepared.named_parameters() if name in start and not torch.equal(p, start[name])]
    assert len(moved) > 0.8 * len(start)
    set_state(prepared.eval(), "frozen")
    made, trained = freeze(prepared), copy.deepcopy(built.folded)
    trained.load_state_dict(float_weights(prepared))
    with torch.no_grad():
        assert torch.equal(apply(trained, made)(built.held), prepared(built.held))


def test_ranges_neither_follow_batches_nor_lose_their_zero_point(build) -> None:
    digits = build("digits")
    prepared = prepare(digits.folded, "w8a8")
    calibrate(prepared, digits.batches)
    before = freeze(copy.deepcopy(prepared)).activations
    learn_steps(prepared)
    set_state(prepared, "train")
    prepared.train()(digits.batches[0] * 10)
    after = freeze(prepared).activations
    assert after == before


def test_other_bits_are_read_in_the_same_range() -> None:
    torch.manual_seed(0)
    x = torch.rand(8, 3, 4, 4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    folded = traced(model, x)
    prepared = prepare(folded, "w8a8", schemes={"2": "w8a16"})
    calibrate(prepared, [x])
    plain = freeze(copy.deepcopy(prepared))
    learn_steps(prepared)
    learned = freeze(prepared)
    assert learned.reads.keys() == plain.reads.keys() and len(plain.reads) > 0
    for reader, values in plain.reads.items():
        for name, grid in values.items():
            assert learned.reads[reader][name][0] == pytest.approx(grid[0], rel=0.02)


def test_learned_steps_beat_scales_that_follow_at_three_levels() -> None:
    """Two integers to either side of zero: where a scale from the largest weight wastes most of what there is."""
    torch.manual_seed(0)
    teacher = nn.Linear(32, 8).eval()
    nn.init.normal_(teacher.weight)
    x, held = torch.randn(256, 32), torch.randn(256, 32)
    folded = traced(teacher_net(teacher), x)
    errors = {}
    for kind in ("follow", "lsq"):
        prepared = prepare(folded, "w4")
        for layer in quantized_layers(prepared).values():
            layer.weight_max = 1
        calibrate(prepared, [x])
        if kind == "lsq":
            learn_steps(prepared)
        errors[kind] = fit(prepared.train(), folded, x, held)
    assert errors["lsq"] < 0.8 * errors["follow"], errors


def teacher_net(layer: nn.Linear) -> nn.Module:
    return nn.Sequential(layer, nn.ReLU())


def fit(prepared: nn.Module, folded: nn.Module, x: Tensor, held: Tensor) -> float:
    """Train for 150 steps of Adam and return the error on held data."""
    optimizer = torch.optim.Adam(prepared.parameters(), lr=3e-3)
    goal, held_goal = folded(x).detach(), folded(held).detach()
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.mse_loss(prepared(x), goal).backward()
        optimizer.step()
    with torch.no_grad():
        return float(nn.functional.mse_loss(prepared.eval()(held), held_goal))


def test_an_adopted_module_shares_what_the_old_one_held(build) -> None:
    layer = quantized_layers(prepare(build("digits").folded, "w8a8"))["fc"]
    twin = adopted(layer, StepLayer)
    assert type(twin) is StepLayer and twin.weight is layer.weight and twin.axis == layer.axis
