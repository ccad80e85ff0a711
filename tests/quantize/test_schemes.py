"""Every scheme: the final graph computes what the fake-quantized network did, and the plan holds all of it as data."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from compress.errors import ModelError, UnknownName
from compress.export.weights import stored_weights
from compress.graph.trace import export_static, trace
from compress.quantize import QuantPlan, apply, calibrate, freeze, prepare
from compress.quantize.fake_quant import FakeQuantLayer
from compress.quantize.layers import weight_scales
from compress.quantize.palette import fit_table, from_table, table_indices
from compress.quantize.schemes import GROUP, activation_bounds, precision

SCHEMES = ("w8a8", "w8a16", "w4a8", "w4", "float16", "palette4", "palette6")


def sqnr_db(reference: Tensor, other: Tensor) -> float:
    """Signal to quantization noise, in dB."""
    return float(10 * torch.log10(reference.square().sum() / (reference - other).square().sum()).detach())


def planned(built, scheme: str, schemes: dict[str, str] | None = None) -> QuantPlan:
    prepared = prepare(built.folded, scheme, schemes=schemes)
    calibrate(prepared, built.batches)
    return freeze(prepared)


@pytest.mark.parametrize("scheme", SCHEMES)
@torch.no_grad()
def test_the_applied_graph_computes_what_the_frozen_network_computes(built, scheme: str) -> None:
    prepared = prepare(built.folded, scheme)
    calibrate(prepared, built.batches)
    made = freeze(prepared)
    applied = apply(built.folded, made)
    assert torch.equal(applied(built.held), prepared(built.held))
    assert not torch.equal(applied(built.held), built.folded(built.held))
    assert QuantPlan.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    program = export_static(applied, (built.held[:1],))
    assert torch.equal(program.module()(built.held[:1]), applied(built.held[:1]))
    assert not any(type(module).__module__.startswith("compress") for module in applied.modules())


@torch.no_grad()
def test_more_bits_are_nearer(built) -> None:
    found = {s: sqnr_db(built.folded(built.held), apply(built.folded, planned(built, s))(built.held)) for s in SCHEMES}
    assert found["w8a16"] > found["w8a8"] > found["w4a8"], found
    assert found["float16"] > found["palette6"] > found["palette4"], found
    assert found["float16"] > 60.0 and found["w4"] > found["w4a8"] - 1.0, found


@pytest.mark.parametrize("scheme", ["w4", "float16", "palette4"])
def test_schemes_of_weights_alone_leave_every_value_float(build, scheme: str) -> None:
    made = planned(build("residual"), scheme)
    assert not made.activations and not made.float_ops and not made.reads
    assert bool(made.weights) == (scheme == "w4") and bool(made.codebooks) == (scheme == "palette4")


def test_plans_of_w8a8_hold_nothing_new(build) -> None:
    made = planned(build("mobile"), "w8a8")
    assert set(made.to_dict()) == {"scheme", "activations", "weights", "float_ops"}


def test_sixteen_bit_values_are_symmetric(build) -> None:
    made = planned(build("unet"), "w8a16")
    assert {(zero, qmin, qmax) for _, zero, qmin, qmax in made.activations.values()} == {(0, -32767, 32767)}
    assert made.activations["tanh"][0] == pytest.approx(1 / 32768)
    assert activation_bounds(16) == (-32767, 32767) and activation_bounds(8) == (-128, 127)


class Wide(nn.Module):
    """Two linear layers, the first with inputs that divide into groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2 * GROUP, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def wide() -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    model, batches = Wide().eval(), [torch.randn(64, 2 * GROUP)]
    return trace(model, (batches[0][:2],)), batches


def test_groups_where_the_inputs_divide_and_channels_elsewhere() -> None:
    folded, batches = wide()
    prepared = prepare(folded, "w4")
    calibrate(prepared, batches)
    made = freeze(prepared)
    assert made.groups == {"first": GROUP}
    axis, scales = made.weights["first"]
    assert axis == 1 and len(scales) == 20 * 2
    assert made.weights["second"][0] == 0 and len(made.weights["second"][1]) == 4
    rows = folded.get_submodule("first").weight.detach().reshape(-1, GROUP).abs().amax(1) / 7
    torch.testing.assert_close(torch.tensor(scales), rows, rtol=2**-8, atol=0)
    assert torch.equal(torch.tensor(scales).bfloat16().float(), torch.tensor(scales)), "as the runtimes store them"
    assert any("groups of 32" in row["granularity"] for row in made.table())


@torch.no_grad()
def test_a_scale_per_group_beats_a_scale_per_channel_where_one_weight_sticks_out() -> None:
    folded, _ = wide()
    weight = folded.get_submodule("first").weight
    weight[:, 0] *= 20
    layer = FakeQuantLayer(folded.get_submodule("first"), precision("w4"))
    grouped = (layer.rounded() - weight).square()[:, GROUP:].mean()
    coarse = weight_scales(weight, 0, 7)
    per_channel = (torch.fake_quantize_per_channel_affine(weight, coarse, torch.zeros(20, dtype=torch.int32), 0, -7, 7)
                   - weight).square()[:, GROUP:].mean()  # fmt: skip
    assert grouped < 0.05 * per_channel


@torch.no_grad()
def test_a_palette_keeps_a_weight_of_few_values_exactly() -> None:
    torch.manual_seed(0)
    values = torch.randn(16).sort().values
    weight = values[torch.randint(0, 16, (8, 5, 3, 3))]
    table = fit_table(weight, 16)
    assert torch.equal(from_table(table_indices(weight, table[None]), table[None]), weight)


@torch.no_grad()
def test_a_fitted_table_beats_an_even_one() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4096)
    even = torch.linspace(float(weight.min()), float(weight.max()), 16)[None]
    fitted = fit_table(weight, 16)[None]
    errors = [float((from_table(table_indices(weight, t), t) - weight).square().mean()) for t in (fitted, even)]
    assert errors[0] < 0.75 * errors[1], errors
    assert bool((fitted.diff() >= 0).all())


@pytest.mark.parametrize("scheme", ["float16", "palette4", "w4"])
def test_gradients_reach_the_float_weight(scheme: str) -> None:
    torch.manual_seed(0)
    layer, x = FakeQuantLayer(nn.Linear(GROUP, 4), precision(scheme)), torch.randn(8, GROUP)
    y = layer(x)
    assert not torch.equal(y, nn.functional.linear(x, layer.weight, layer.bias))
    y.sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(4, GROUP))


@torch.no_grad()
def test_tables_along_the_first_axis_are_data_too(build) -> None:
    digits = build("digits")
    made = planned(digits, "palette4")
    weight = digits.folded.get_submodule("body.1.0").weight
    halves = tuple(tuple(fit_table(part, 16).tolist()) for part in weight.reshape(2, -1))
    finer = replace(made, codebooks={**made.codebooks, "body.1.0": (0, halves)})
    back = QuantPlan.from_dict(json.loads(json.dumps(finer.to_dict())))
    stored = [stored_weights(export_static(apply(digits.folded, p), (digits.held[:1],))) for p in (made, back)]
    one, two = (next(w.values for w in weights if w.key == "body.1.0.weight") for weights in stored)
    assert [set(row.tolist()) for row in two.reshape(2, -1)] == [set(table) for table in halves]
    assert one.unique().numel() == 16
    with pytest.raises(ModelError, match="cannot have 5 tables along axis 0"):
        apply(digits.folded, replace(made, codebooks={"body.1.0": (0, halves[:1] * 5)}))


@pytest.mark.parametrize("kept", ["float32", "float16", "w8a16"])
@torch.no_grad()
def test_layers_may_keep_a_scheme_of_their_own(build, kept: str) -> None:
    residual = build("residual")
    names = ["stem.0", "c.0", "d.0", "fc"]
    prepared = prepare(residual.folded, "w4a8", schemes=dict.fromkeys(names, kept))
    calibrate(prepared, residual.batches)
    made = freeze(prepared)
    applied = apply(residual.folded, made)
    assert torch.equal(applied(residual.held), prepared(residual.held))
    assert QuantPlan.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert made.schemes == dict.fromkeys(names, kept) and made.scheme_of("a.0") == "w4a8"
    reference = residual.folded(residual.held)
    plain = apply(residual.folded, planned(residual, "w4a8"))
    assert sqnr_db(reference, applied(residual.held)) > sqnr_db(reference, plain(residual.held)) + 0.5
    assert (set(made.weights) >= set(names)) == (kept == "w8a16")
    assert sum(kept in reason for reason in made.float_ops.values()) == (0 if kept == "w8a16" else 4)
    assert sum(row["note"] == kept for row in made.table()) == 4


@torch.no_grad()
def test_a_reader_on_other_bits_takes_the_value_on_a_grid_of_its_own(build) -> None:
    residual = build("residual")
    made = planned(residual, "w8a8", {"a.0": "w8a16"})
    (_, reads), *others = made.reads.items()
    assert {grid[3] for grid in reads.values()} == {32767}, "the 16-bit layer reads an 8-bit value"
    assert {grid[3] for _, back in others for grid in back.values()} == {127}, "and its readers an 8-bit one"
    (wide_value,) = [name for name, grid in made.activations.items() if grid[3] == 32767]
    assert any(wide_value in back for _, back in others)
    applied = apply(residual.folded, made)
    dtypes = [node.args[5] for node in applied.graph.nodes if "quantize_per_tensor" in str(node.target)]
    assert dtypes.count(torch.int16) == 4  # in and out of the layer, a quantize and a dequantize each


def test_an_activation_behind_a_float_layer_is_where_the_value_is_quantized(build) -> None:
    made = planned(build("residual"), "w8a8", {"stem.0": "float32"})
    assert "relu" in made.activations and not any(name.startswith("stem") for name in made.activations)


def test_schemes_that_do_not_fit_are_refused(build) -> None:
    digits = build("digits")
    with pytest.raises(
        ModelError, match=r"'fcc', which is no convolution or linear layer of this model; its layers are"
    ):
        prepare(digits.folded, "w8a8", schemes={"fcc": "float16"})
    with pytest.raises(ModelError, match="'fc' cannot be w8a8 where the network is w4"):
        prepare(digits.folded, "w4", schemes={"fc": "w8a8"})
    with pytest.raises(UnknownName, match="float16"):
        prepare(digits.folded, "w8a8", schemes={"fc": "float61"})
    with pytest.raises(ModelError, match="float32 is what the model is"):
        prepare(digits.folded, "float32")
    loud = copy.deepcopy(digits.folded)
    with torch.no_grad():
        loud.get_submodule("fc").weight[0, 0] = 1e5
    with pytest.raises(ModelError, match="'fc' is too large for float16"):
        prepare(loud, "float16")


def test_plans_whose_groups_do_not_fit_are_refused(build) -> None:
    digits = build("digits")
    with pytest.raises(ModelError, match=r"'body\.1\.0' cannot have groups of 32"):
        apply(digits.folded, QuantPlan("w4", {}, {"body.1.0": (1, (0.1,) * 27)}, groups={"body.1.0": 32}))
    with pytest.raises(ModelError, match="'fc' has 60 groups and the plan 3 scales"):
        apply(digits.folded, QuantPlan("w4", {}, {"fc": (1, (0.1,) * 3)}, groups={"fc": 32}))
    with pytest.raises(ModelError, match="no layer 'gone'"):
        apply(digits.folded, QuantPlan("w8a8", {}, {}, schemes={"gone": "float16"}))
