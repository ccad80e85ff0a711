"""Post-training quantization: the plan is data, and the applied graph computes what the network computed."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from compress.errors import DataError, ModelError, UnknownName
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import export_static, trace
from compress.quantize import QuantPlan, apply, calibrate, freeze, plan, prepare


def sqnr_db(reference: Tensor, other: Tensor) -> float:
    """Signal to quantization noise, in dB."""
    return float(10 * torch.log10(reference.square().sum() / (reference - other).square().sum()).detach())


@torch.no_grad()
def test_the_applied_graph_computes_what_the_frozen_network_computes(built) -> None:
    prepared = prepare(built.folded, "w8a8")
    calibrate(prepared, built.batches)
    applied = apply(built.folded, freeze(prepared))
    assert torch.equal(applied(built.held), prepared(built.held))
    # 8 bits leave about 50 dB at one rounding; a few of them in a row stay above 28 dB on all four networks.
    assert sqnr_db(built.model(built.held), applied(built.held)) > 28.0


@torch.no_grad()
def test_a_plan_survives_json_and_replays_on_a_fresh_model(built) -> None:
    before = copy.deepcopy(built.folded.state_dict())
    made = plan(built.folded, "w8a8", built.batches)
    assert all(torch.equal(value, before[name]) for name, value in built.folded.state_dict().items())
    back = QuantPlan.from_dict(json.loads(json.dumps(made.to_dict())))
    assert back == made
    fresh = fold_batch_norms(trace(copy.deepcopy(built.model), (built.held[:1],)))
    assert torch.equal(apply(fresh, back)(built.held), apply(built.folded, made)(built.held))
    assert plan(built.folded, "w8a8", built.batches) == made, "planning twice gave two plans"


@torch.no_grad()
def test_the_applied_graph_holds_standard_ops_only_and_exports(built) -> None:
    made = plan(built.folded, "w8a8", built.batches)
    applied = apply(built.folded, made)
    called = [applied.get_submodule(node.target) for node in applied.graph.nodes if node.op == "call_module"]
    assert {type(module) for module in called} <= {nn.GroupNorm}, "only a float op may stay a layer"
    assert not any(type(module).__module__.startswith("compress") for module in applied.modules())
    integers = {name for name, value in applied.state_dict().items() if value.dtype == torch.int8}
    assert integers == {f"{path}.weight" for path in made.weights} and len(integers) > 3
    program = export_static(applied, (built.held[:1],))
    assert torch.equal(program.module()(built.held[:1]), applied(built.held[:1]))
    quantized = [n.args[0].name for n in applied.graph.nodes if "quantize_per_tensor" in str(n.target)]
    assert set(made.activations) <= set(quantized)


def test_ranges_and_integers_are_what_the_scheme_says(build) -> None:
    mobile = build("mobile")
    made = plan(mobile.folded, "w8a8", mobile.batches, "minmax")
    assert all((qmin, qmax) == (-128, 127) for _, _, qmin, qmax in made.activations.values())
    scale, zero_point, _, _ = made.activations["x"]
    seen = torch.cat(mobile.batches)
    assert (-128 - zero_point) * scale == pytest.approx(float(seen.min()), abs=scale)
    assert (127 - zero_point) * scale == pytest.approx(float(seen.max()), abs=scale)
    assert all(zero == -128 for name, (_, zero, _, _) in made.activations.items() if name.startswith("hardtanh"))
    axis, scales = made.weights["depthwise.0"]
    weight = mobile.folded.get_submodule("depthwise.0").weight
    assert axis == 0 and len(scales) == 16 and len(set(scales)) == 16
    assert torch.allclose(torch.tensor(scales), weight.abs().amax((1, 2, 3)) / 127)
    integers = apply(mobile.folded, made).state_dict()["depthwise.0.weight"]
    assert torch.equal(integers.abs().amax((1, 2, 3)), torch.full((16,), 127, dtype=torch.int8))


def test_one_scale_per_channel_beats_one_for_all(build) -> None:
    mobile = build("mobile")
    layer = mobile.folded.get_submodule("depthwise.0")
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(-2, 1, 16)[:, None, None, None])
        layer.bias.mul_(torch.logspace(-2, 1, 16))
    reference = mobile.folded(mobile.held)
    made = plan(mobile.folded, "w8a8", mobile.batches)
    axis, scales = made.weights["depthwise.0"]
    coarse = replace(made, weights={**made.weights, "depthwise.0": (axis, (max(scales),) * 16)})
    fine, rough = (sqnr_db(reference, apply(mobile.folded, p)(mobile.held)) for p in (made, coarse))
    assert fine > rough + 1.0


def test_transposed_weights_are_scaled_by_output_channel_or_by_group(build) -> None:
    unet = build("unet")
    made = plan(unet.folded, "w8a8", unet.batches)
    assert made.weights["up"][0] == 1 and len(made.weights["up"][1]) == 8
    axis, scales = made.weights["grouped"]
    per_group = unet.folded.get_submodule("grouped").weight.unflatten(0, (2, 6)).abs().amax((1, 2, 3, 4)) / 127
    assert axis == 0 and scales == pytest.approx([float(scale) for scale in per_group for _ in range(6)])
    assert made.activations["tanh"] == (1 / 128, 0, -128, 127)
    assert made.float_ops == {"norm": "group norm has no int8 kernel", "silu": "the op before it computes in float"}
    rows = made.table()
    assert {row["what"] for row in rows} == {"activation", "weight", "float"}
    assert len(rows) == len(made.activations) + len(made.weights) + len(made.float_ops)


def test_a_vanishing_channel_keeps_a_scale_that_int32_biases_survive() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 1e-12, 0.0]).reshape(3, 1, 1, 1))
        model[0].bias.fill_(1.0)
    made = plan(trace(model, (torch.randn(2, 1, 4, 4),)), "w8a8", [torch.randn(4, 1, 4, 4)])
    _, scales = made.weights["0"]
    assert all(1.0 / (made.activations["input_1"][0] * scale) < 2**31 for scale in scales)


def input_error(values: Tensor, seen: Tensor, ranges: str) -> float:
    """The mean squared error of quantizing `values` to the range chosen from `seen`."""
    folded = trace(nn.Sequential(nn.Conv2d(1, 1, 1)).eval(), (seen[:2],))
    scale, zero_point, qmin, qmax = plan(folded, "w8a8", seen.split(8), ranges).activations["input_1"]
    rounded = torch.fake_quantize_per_tensor_affine(values, scale, zero_point, qmin, qmax)
    return float((rounded - values).square().mean())


def test_mse_has_the_smallest_error_on_what_it_saw() -> None:
    torch.manual_seed(0)
    seen = torch.randn(32, 1, 32, 32) ** 3  # heavy tails
    errors = {ranges: input_error(seen, seen, ranges) for ranges in ("minmax", "percentile", "mse")}
    assert errors["mse"] < min(errors["minmax"], errors["percentile"]), errors


def test_percentile_ignores_a_stray_value() -> None:
    torch.manual_seed(0)
    seen, held = torch.randn(32, 1, 32, 32), torch.randn(32, 1, 32, 32)
    seen[0, 0, 0, 0] = 60.0
    assert input_error(held, seen, "percentile") < 0.1 * input_error(held, seen, "minmax")


def test_a_value_that_is_always_zero_gets_a_usable_scale() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()).eval()
    nn.init.constant_(model[0].bias, -100.0)
    folded = trace(model, (torch.randn(2, 1, 4, 4),))
    made = plan(folded, "w8a8", [torch.randn(2, 1, 4, 4)])
    assert made.activations["relu"][0] == pytest.approx(1 / 255)
    assert torch.equal(apply(folded, made)(torch.randn(1, 1, 4, 4)), torch.zeros(1, 1, 4, 4))


def test_a_plan_of_another_model_is_refused_by_its_first_missing_name(build) -> None:
    digits, mobile = build("digits"), build("mobile")
    made = plan(mobile.folded, "w8a8", mobile.batches)
    with pytest.raises(ModelError, match="no node 'hardtanh'"):
        apply(digits.folded, made)
    only_weights = QuantPlan("w8a8", {}, made.weights)
    with pytest.raises(ModelError, match=r"no layer 'stem\.0'"):
        apply(digits.folded, only_weights)
    narrow = QuantPlan("w8a8", {}, {"fc": (0, (0.1,) * 3)})
    with pytest.raises(ModelError, match="'fc' has 10 channels and the plan 3 scales"):
        apply(digits.folded, narrow)


@pytest.mark.parametrize("record", [{}, {"scheme": "w8a8", "activations": {"x": [1]}, "weights": {}}, {"scheme": 1}])
def test_data_that_is_no_plan_is_refused(record: dict) -> None:
    with pytest.raises(ModelError, match="no quantization plan"):
        QuantPlan.from_dict(record)


def test_calibration_data_must_be_there_and_finite(build) -> None:
    digits = build("digits")
    with pytest.raises(DataError, match="no batch"):
        plan(digits.folded, "w8a8", [])
    bad = digits.batches[0].clone()
    bad[3, 0, 2, 2] = float("nan")
    with pytest.raises(DataError, match="NaN or infinite values at x"):
        plan(digits.folded, "w8a8", [digits.batches[0], bad])
    with torch.no_grad():
        digits.folded.get_submodule("body.1.0").bias[0] = float("inf")
    with pytest.raises(DataError, match="NaN or infinite values at relu_1"):
        plan(digits.folded, "w8a8", digits.batches)


def test_batches_may_carry_labels_or_come_with_a_way_to_run_them(build) -> None:
    digits = build("digits")
    plain = plan(digits.folded, "w8a8", digits.batches)
    labelled = [(batch, torch.zeros(len(batch))) for batch in digits.batches]
    named = [{"image": batch} for batch in digits.batches]
    assert plan(digits.folded, "w8a8", iter(labelled)) == plain
    assert plan(digits.folded, "w8a8", named, predict=lambda model, batch: model(batch["image"])) == plain


def test_unknown_names_are_refused(build) -> None:
    digits = build("digits")
    with pytest.raises(UnknownName, match="w8a8"):
        prepare(digits.folded, "w8a9")
    with pytest.raises(UnknownName, match="percentile"):
        prepare(digits.folded, "w8a8", "percentil")
    with pytest.raises(ModelError, match="no convolution or linear layer"):
        prepare(trace(nn.ReLU(), (torch.randn(2, 3),)), "w8a8")
    with pytest.raises(ModelError, match=r"not made by compress\.quantize\.prepare"):
        freeze(digits.folded)
