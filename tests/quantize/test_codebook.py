"""Quantized distillation and differentiable quantization: buckets, points, gradients, and what they are worth."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

from compress.distill import kl_divergence
from compress.errors import ModelError
from compress.quantize import apply, calibrate, float_weights, freeze, learn_points, prepare, spread_evenly
from compress.quantize.codebook import EvenLayer, PointsLayer, bucket_count, even_points, quantile_points
from compress.quantize.fake_quant import FakeQuantLayer
from compress.quantize.network import quantized_layers
from compress.quantize.schemes import Precision
from tests.quantize.nets import sqnr_db, traced


def layer_of(kind: type[EvenLayer] | type[PointsLayer], bits: int, bucket: int = 0) -> EvenLayer | PointsLayer:
    """A layer of 64 x 32 weights with a palette of `bits`."""
    torch.manual_seed(0)
    plain = nn.Linear(32, 64)
    nn.init.normal_(plain.weight)
    model = traced(nn.Sequential(plain), torch.randn(4, 32))
    prepared = prepare(model, "palette4")
    fake = FakeQuantLayer(model.get_submodule("0"), Precision(f"palette{bits}", bits, 0, "palette"))
    prepared.set_submodule("0", fake)
    (spread_evenly if kind is EvenLayer else learn_points)(prepared, bucket)
    layer = quantized_layers(prepared)["0"]
    assert isinstance(layer, kind)
    return layer


@pytest.mark.parametrize("kind", [EvenLayer, PointsLayer])
@pytest.mark.parametrize("bits", [2, 4])
def test_a_bucket_holds_no_more_values_than_points(kind: type, bits: int) -> None:
    layer = layer_of(kind, bits, bucket=256)
    rows = layer.rounded().detach().reshape(len(layer.tables), -1)
    assert rows.shape == (8, 256)
    assert all(len(row.unique()) <= 2**bits for row in rows)
    assert len(rows.unique()) > 2**bits, "each bucket has values of its own"


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_even_points_include_both_ends_and_no_weight_is_off_by_more_than_half_a_step(bits: int) -> None:
    layer = layer_of(EvenLayer, bits, bucket=256)
    rows, rounded = (w.detach().reshape(8, -1) for w in (layer.weight, layer.rounded()))
    low, high = rows.amin(1), rows.amax(1)
    torch.testing.assert_close(layer.tables[:, 0], low)
    torch.testing.assert_close(layer.tables[:, -1], high)
    half_step = (high - low) / (2 * (2**bits - 1))
    assert bool(((rows - rounded).abs().amax(1) <= half_step * (1 + 1e-5)).all())
    if bits == 8:
        assert sqnr_db(rows, rounded) > 40.0, "eight bits are all but the identity"
    assert even_points(bits).tolist()[0] == 0.0 and even_points(bits).tolist()[-1] == 1.0


def test_buckets_are_runs_of_whole_channels() -> None:
    assert bucket_count(64, 64 * 32, 256) == 8
    assert bucket_count(64, 64 * 32, 0) == 1
    assert bucket_count(10, 90, 256) == 1
    assert bucket_count(12, 12 * 100, 256) == 4


def test_points_begin_at_the_quantiles() -> None:
    torch.manual_seed(0)
    points = quantile_points(torch.randn(8, 512), 8, 3)
    assert float(points[0]) == 0.0 and float(points[-1]) == 1.0
    assert bool((points[1:] > points[:-1]).all())
    gaps = points[1:] - points[:-1]
    assert float(gaps[3]) < 0.5 * float(gaps[0]), "points stand close where weights do"


def test_the_gradient_of_the_points_equals_finite_differences() -> None:
    layer = layer_of(PointsLayer, 3, bucket=256)
    torch.manual_seed(1)
    wanted = torch.randn(64, 32, dtype=torch.float64)

    def loss() -> Tensor:
        weight = layer.rounded().double()
        return (weight * wanted).sum() + weight.square().sum()

    loss().backward()
    step = 2.0**-18  # far below the distance at which a weight changes its point, far above float32's resolution
    for index in range(8):
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                layer.points[index] += sign * step
                sides.append(float(loss()))
                layer.points[index] -= sign * step
        found = (sides[0] - sides[1]) / (2 * step)
        assert float(layer.points.grad[index]) == pytest.approx(found, rel=0.02, abs=3.0)


def test_the_gradient_of_a_point_is_the_sum_over_its_weights_of_the_span() -> None:
    layer = layer_of(PointsLayer, 2, bucket=256)
    layer.rounded().sum().backward()
    index = torch.stack([torch.bucketize(r, (t[1:] + t[:-1]) / 2) for r, t in zip(
        layer.weight.reshape(8, -1), layer.tables.detach(), strict=True)])  # fmt: skip
    expected = [float((layer.span * (index == point)).sum()) for point in range(4)]
    assert layer.points.grad.tolist() == pytest.approx(expected, rel=1e-4)


def test_tables_stay_ascending_whatever_a_step_does_to_the_points() -> None:
    layer = layer_of(PointsLayer, 2)
    with torch.no_grad():
        layer.points.copy_(torch.tensor([0.7, 0.1, 1.0, 0.3]))
    tables = layer.tables
    assert torch.equal(tables, tables.sort().values) and tables.shape == (1, 4)


def test_learned_points_leave_weights_and_biases_alone_and_even_ones_train_them(build) -> None:
    digits = build("digits")
    for replace, trained in ((learn_points, {"points"}), (spread_evenly, {"weight", "bias"})):
        prepared = prepare(digits.folded, "palette4")
        paths = replace(prepared)
        assert paths == list(quantized_layers(prepared))
        assert {name.rpartition(".")[2] for name, _ in prepared.named_parameters()} == trained
        calibrate(prepared, digits.batches)
        prepared.train()(digits.held).square().sum().backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in prepared.parameters())
        assert list(float_weights(prepared)) == list(digits.folded.state_dict())
    with pytest.raises(ModelError, match="palette4 or palette6"):
        learn_points(prepare(digits.folded, "w8a8"))


@pytest.mark.parametrize("replace", [spread_evenly, learn_points])
@pytest.mark.parametrize("bucket", [0, 256])
def test_the_codebook_reaches_the_plan_and_the_plan_the_graph(build, replace, bucket: int) -> None:
    digits = build("digits")
    prepared = prepare(digits.folded, "palette4")
    calibrate(prepared, digits.batches)
    replace(prepared, bucket)
    train_a_little(prepared, digits.folded, digits.batches[0])
    made, trained = freeze(prepared), copy.deepcopy(digits.folded)
    trained.load_state_dict(float_weights(prepared))
    axis, tables = made.codebooks["fc"]
    assert (axis, len(tables)) == ((-1, 1) if not bucket else (0, 5)) and len(tables[0]) == 16
    with torch.no_grad():
        torch.testing.assert_close(apply(trained, made)(digits.held), prepared(digits.held), rtol=1e-5, atol=1e-6)


def train_a_little(prepared: fx.GraphModule, folded: fx.GraphModule, x: Tensor) -> None:
    optimizer = torch.optim.SGD(prepared.train().parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        kl_divergence(prepared(x), folded(x).detach(), 2.0).backward()
        optimizer.step()
    prepared.eval()


def coarse_net() -> tuple[fx.GraphModule, Tensor, Tensor]:
    """A classifier whose weights have heavy tails, inputs to learn from and held ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 6))
    for layer in model[::2]:
        nn.init.normal_(layer.weight)
        with torch.no_grad():
            layer.weight.copy_(layer.weight * layer.weight.abs() * layer.in_features**-0.5)
    return traced(model, torch.randn(4, 16)), torch.randn(512, 16), torch.randn(512, 16)


def divergence(model: fx.GraphModule, folded: fx.GraphModule, x: Tensor) -> float:
    with torch.no_grad():
        return float(kl_divergence(model.eval()(x), folded(x), 1.0))


def test_quantized_distillation_beats_even_points_alone() -> None:
    folded, x, held = coarse_net()
    prepared = prepare(folded, "palette4")
    calibrate(prepared, [x])
    spread_evenly(prepared, 256)
    before = divergence(prepared, folded, held)
    optimizer = torch.optim.Adam(prepared.train().parameters(), lr=5e-4)
    for _ in range(150):
        batch = torch.randn(256, 16)
        output, goal = prepared(batch), folded(batch).detach()
        labels = nn.functional.cross_entropy(output, goal.argmax(1))
        optimizer.zero_grad()
        (0.7 * kl_divergence(output, goal, 2.0) + 0.3 * labels).backward()
        optimizer.step()
    assert divergence(prepared, folded, held) < 0.6 * before


def test_learned_points_beat_the_quantiles_they_began_at_and_even_ones() -> None:
    folded, x, held = coarse_net()
    even, learned = (prepare(folded, "palette4") for _ in range(2))
    for network, replace in ((even, spread_evenly), (learned, learn_points)):
        calibrate(network, [x])
        replace(network)
    before = divergence(learned, folded, held)
    optimizer = torch.optim.Adam(learned.train().parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        kl_divergence(learned(x), folded(x).detach(), 2.0).backward()
        optimizer.step()
    after = divergence(learned, folded, held)
    assert after < 0.7 * before and after < divergence(even, folded, held), (before, after)
