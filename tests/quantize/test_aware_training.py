"""Quantization-aware training: gradients flow, ranges follow, and the result is worth the training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compress.errors import UnknownName
from compress.graph.trace import trace
from compress.quantize import apply, calibrate, float_weights, freeze, plan, prepare, set_state
from compress.quantize.fake_quant import FakeQuantLayer
from compress.quantize.network import fake_quants
from compress.quantize.schemes import precision


def ready(built, scheme: str = "w8a8"):
    """A calibrated network in train mode."""
    prepared = prepare(built.folded, scheme)
    calibrate(prepared, built.batches)
    return prepared.train()


def test_observing_quantizes_nothing_and_training_does(build) -> None:
    residual = build("residual")
    prepared = prepare(residual.folded, "w8a8")
    assert torch.equal(prepared(residual.held), residual.folded(residual.held))
    calibrate(prepared, residual.batches)
    assert not torch.equal(prepared(residual.held), residual.folded(residual.held))
    with pytest.raises(UnknownName, match="frozen"):
        set_state(prepared, "froze")


def test_every_float_weight_gets_a_gradient(built) -> None:
    for parameter in built.folded.parameters():
        parameter.requires_grad_(False)  # a frozen teacher, as the pipeline has it
    prepared = ready(built)
    prepared(built.held).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in prepared.named_parameters()}
    assert set(gradients) == {name for name, _ in built.folded.named_parameters()}
    assert all(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients.values())
    assert all(parameter.grad is None for parameter in built.folded.parameters())


def test_the_gradient_of_a_weight_passes_straight_through_the_rounding() -> None:
    torch.manual_seed(0)
    layer, x = FakeQuantLayer(nn.Linear(6, 4), precision("w4a8")), torch.randn(8, 6)
    y = layer(x)
    assert not torch.allclose(y, nn.functional.linear(x, layer.weight, layer.bias), atol=1e-3)
    y.sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(4, 6))


def descend(model: nn.Module, x: torch.Tensor, targets: torch.Tensor) -> list[float]:
    """The losses of twenty plain SGD steps."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.5), []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(x), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_the_loss_falls_as_it_does_without_quantization(build) -> None:
    digits = build("digits")
    prepared, targets = ready(digits), torch.randint(0, 10, (16,))
    plain = descend(copy.deepcopy(digits.folded), digits.batches[0], targets)
    losses = descend(prepared, digits.batches[0], targets)
    assert losses[0] - losses[-1] > 0.8 * (plain[0] - plain[-1]) > 0.2
    trained = copy.deepcopy(digits.folded)
    trained.load_state_dict(float_weights(prepared))
    made = freeze(prepared)
    assert torch.equal(apply(trained, made)(digits.held), prepared(digits.held))
    assert made.weights != plan(digits.folded, "w8a8", digits.batches).weights, "the scales follow the weights"


def test_ranges_follow_batches_in_train_mode_only(build) -> None:
    digits = build("digits")
    prepared = ready(digits)
    before = float(fake_quants(prepared)["x"].high)
    loud = digits.batches[0] * 10
    prepared.eval()(loud)
    assert float(fake_quants(prepared)["x"].high) == before
    prepared.train()(loud)
    grown = float(fake_quants(prepared)["x"].high)
    assert before < grown < float(loud.max())
    set_state(prepared, "frozen")
    prepared.train()(loud)
    assert float(fake_quants(prepared)["x"].high) == grown


def test_fixed_ranges_stand_while_others_follow(build) -> None:
    unet = build("unet")
    prepared = ready(unet)
    for _ in range(3):
        prepared(unet.batches[0] * 5)
    assert freeze(prepared).activations["tanh"] == (1 / 128, 0, -128, 127)


def test_weights_come_back_under_the_folded_models_keys_and_copies_are_whole(built) -> None:
    prepared = ready(built)
    weights = float_weights(prepared)
    assert list(weights) == list(built.folded.state_dict())
    twin = copy.deepcopy(prepared)
    assert freeze(twin) == freeze(prepared)
    with torch.no_grad():
        next(iter(twin.parameters())).mul_(2)
    assert freeze(twin) != freeze(prepared)
    again = prepare(built.folded, "w8a8")
    again.load_state_dict(prepared.state_dict())
    assert freeze(again) == freeze(prepared), "a training checkpoint holds the ranges"


def test_training_beats_post_training_at_four_bits() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    for layer in teacher[::2]:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5 * 1.4)  # outputs of the inputs' size
    x, held = torch.randn(256, 8), torch.randn(256, 8)
    folded = trace(teacher, (x[:2],))
    with torch.no_grad():
        held_goal = teacher(held)
    post = apply(folded, plan(folded, "w4a8", x.split(64)))
    prepared = prepare(folded, "w4a8")
    calibrate(prepared, x.split(64))
    optimizer = torch.optim.Adam(prepared.train().parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for _ in range(200):
        optimizer.zero_grad()
        batch = torch.randn(128, 8)
        nn.functional.mse_loss(prepared(batch), teacher(batch).detach()).backward()
        optimizer.step()
        schedule.step()
    made, trained = freeze(prepared), copy.deepcopy(folded)
    trained.load_state_dict(float_weights(prepared))
    aware = apply(trained, made)
    with torch.no_grad():
        errors = [float(nn.functional.mse_loss(model(held), held_goal)) for model in (aware, post)]
    assert errors[0] < 0.7 * errors[1], errors
    assert all(int(v.abs().max()) <= 7 for v in aware.state_dict().values() if v.dtype == torch.int8)
