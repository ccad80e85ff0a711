"""Rewrites as plans: data that replays on a fresh model, honest about every place, fit for pruning and for files."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import compress.export as formats
from compress import rewrite
from compress.errors import ModelError, RecipeError, UnknownName
from compress.graph.fold import fold_batch_norms
from compress.graph.groups import WidthModel, channel_groups
from compress.graph.surgery import apply_edits
from compress.graph.trace import export_static
from compress.rewrite import RewritePlan, RewriteSettings, settings_from
from compress.runtimes import available
from compress.types import ChannelEdit
from compress.verify import verify_artifact
from tests.export.programs import reference
from tests.rewrite.nets import Dense, Generator, UNet, close, ops, traced

EXACT = RewriteSettings(upsample="pixel_shuffle", aggregate="accumulate")
ALL = RewriteSettings(upsample="resize", separable="all", aggregate="thin", norms="fold", norm_error=5.0)
WIDE = RewriteSettings(separable="large", separable_form="pair", pair_energy=0.6)


def planned(settings: RewriteSettings, net=None) -> tuple[fx.GraphModule, RewritePlan, tuple[Tensor, ...]]:
    module, inputs = traced(net or Generator(), 1, 3, 16, 16)
    batches = [torch.randn(4, 3, 16, 16) for _ in range(2)]
    return module, rewrite.plan(module, settings, inputs, batches), inputs


@pytest.mark.parametrize("settings", [EXACT, ALL, WIDE])
def test_a_plan_replays_on_a_fresh_model(settings: RewriteSettings) -> None:
    """Through JSON, on other weights: the same structure, which then takes the rewritten weights."""
    module, plan, inputs = planned(settings)
    made = rewrite.apply(module, plan, inputs)
    again = RewritePlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again.to_dict() == plan.to_dict() and again.to_dict()["kind"] == "rewrite"
    fresh = rewrite.apply(traced(Generator(), 1, 3, 16, 16)[0], again, inputs)
    assert [(n.name, n.op, n.target) for n in fresh.graph.nodes] == [(n.name, n.op, n.target) for n in made.graph.nodes]
    fresh.load_state_dict(made.state_dict())
    x = torch.randn(2, 3, 24, 16)
    assert torch.equal(fresh(x), made(x))
    twin = rewrite.apply(module, again, inputs)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize("training", [False, True])
def test_planning_and_applying_change_nothing(training: bool) -> None:
    module, inputs = traced(nn.Sequential(Generator(), nn.BatchNorm2d(3)), 1, 3, 16, 16)
    module.train(training)
    before, code = copy.deepcopy(module.state_dict()), module.code
    plan = rewrite.plan(module, ALL, inputs, [torch.randn(4, 3, 16, 16)])
    made = rewrite.apply(module, plan, inputs)
    assert module.code == code and module.training == made.training == training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not {id(p) for p in made.parameters()} & {id(p) for p in module.parameters()}


def test_nothing_asked_for_is_nothing_done() -> None:
    module, plan, inputs = planned(RewriteSettings())
    assert plan.sites == () and plan.summary() == "nothing is rewritten"
    assert torch.equal(rewrite.apply(module, plan, inputs)(inputs[0]), module(inputs[0]))


def test_all_passes_run_each_on_what_came_before() -> None:
    module, plan, inputs = planned(ALL)
    made = rewrite.apply(module, plan, inputs)
    kinds = ops(made)
    assert not any("Transpose" in kind or "instance_norm" in kind for kind in kinds)
    # The layer that the resize made is split like any other.
    assert {"up.depthwise", "up.pointwise", "down.depthwise"} <= {str(n.target) for n in made.graph.nodes}
    assert plan.after["macs"] < plan.before["macs"] and plan.after["size_bytes"] < plan.before["size_bytes"]
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        missed = float((made(x) - module(x)).norm() / module(x).norm())
    assert 0 < plan.after["output_error"] < 1 and missed == pytest.approx(plan.after["output_error"], rel=0.5)


def test_an_exact_plan_has_no_error() -> None:
    module, plan, inputs = planned(EXACT, UNet())
    assert plan.after["output_error"] < 1e-6
    x = torch.randn(2, 3, 20, 24)
    close(rewrite.apply(module, plan, inputs)(x), module(x))


def test_every_place_has_a_row_and_what_stays_a_warning() -> None:
    _, plan, _ = planned(ALL)
    rows = {place: after for place, _, after in plan.table()}
    assert rows["stem"] == "left alone: it has 3 channels on one side, fewer than 16"
    assert rows["up"].startswith("depthwise") and "instance_norm" in rows
    assert "stem was left alone: it has 3 channels on one side, fewer than 16" in plan.warnings()
    assert plan.summary().startswith(f"{len(plan.done)} of {len(plan.sites)} places rewritten (1 folded, ")


def test_named_places_are_the_only_ones_touched() -> None:
    net = Dense(16, 16, 3)
    only = RewriteSettings(separable="all", sites={"separable": ("grow.1",)})
    _, plan, _ = planned(only, net)
    assert [site.place for site in plan.done] == ["grow.1"] and plan.warnings() == []
    assert {row[2] for row in plan.table() if row[0] == "grow.0"} == {
        "left alone: it is not among the places asked for"
    }
    _, plan, _ = planned(RewriteSettings(aggregate="thin", sites={"aggregate": ("grow.2",)}), net)
    assert {site.place for site in plan.done} == {"grow.2"}
    module, inputs = traced(UNet(), 1, 3, 16, 16)
    unknown = RewriteSettings(upsample="resize", sites={"upsample": ("upp",)})
    with pytest.raises(UnknownName, match=r"place for rewrite.upsample 'upp'; did you mean up"):
        rewrite.plan(module, unknown, inputs)


@pytest.mark.parametrize("settings", [EXACT, ALL, WIDE])
def test_a_plan_of_another_model_is_refused(settings: RewriteSettings) -> None:
    _, plan, inputs = planned(settings)
    with pytest.raises(ModelError, match="plan anew"):
        rewrite.apply(traced(Dense(), 1, 3, 16, 16)[0], plan, inputs)


def test_weights_that_are_read_elsewhere_stay() -> None:
    """One weight in two kinds of use: tracing makes a layer of the first, and leaves the second to read it."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(torch.cat([x[:, :8], F.relu(x[:, 8:])], 1)) + F.conv2d(
                x.relu(), self.conv.weight * x.mean(), padding=1
            )

    module, inputs = traced(Tied(), 1, 16, 8, 8)
    plan = rewrite.plan(module, RewriteSettings(separable="all", aggregate="thin"), inputs)
    assert not plan.done and plan.warnings() == ["conv was left alone: its weights are read elsewhere too"] * 2


def test_a_plan_of_other_widths_is_refused() -> None:
    _, plan, inputs = planned(EXACT, Dense(8, 8))
    with pytest.raises(
        ModelError, match=r"'grow.1' to read 2 outputs with 16 channels in all; in this model it reads 2 with 12"
    ):
        rewrite.apply(traced(Dense(8, 4), 1, 3, 16, 16)[0], plan, inputs)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"upsample": "shuffle"}, "rewrite.upsample: 'shuffle' is none of keep, resize, pixel_shuffle"),
        ({"rank": 0}, "rewrite.rank: 0 is no whole number from 1 on"),
        ({"min_channels": "many"}, "rewrite.min_channels"),
        ({"pair_energy": 1.5}, "no share between 0 and 1"),
        ({"norm_error": 0}, "no number above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values, text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        RewriteSettings(**values)


def test_settings_out_of_a_recipe() -> None:
    section = {
        "upsample": "resize",
        "norms": "keep",
        "batches": 8,
        "options": {"rank": 2, "sites": {"upsample": ["up"]}},
    }
    assert settings_from(section) == RewriteSettings(upsample="resize", rank=2, sites={"upsample": ("up",)})
    with pytest.raises(UnknownName, match="did you mean rank"):
        settings_from({"options": {"rang": 2}})
    with pytest.raises(UnknownName, match="rewrite pass"):
        settings_from({"options": {"sites": {"upsampling": []}}})


@pytest.mark.parametrize("settings", [EXACT, ALL, WIDE])
def test_rewritten_models_are_pruned_where_they_say_so(settings: RewriteSettings) -> None:
    """Every group that is free is cut, and the cut model answers as the masked one does (checked by the cut)."""
    module, plan, inputs = planned(settings)
    made = rewrite.apply(module, plan, inputs)
    widths = WidthModel(made, inputs)
    assert widths.free
    for group in widths.free:
        cut = apply_edits(made, [ChannelEdit(group.layer, group.width, (0, 3))], inputs)
        assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in made.parameters())
    pinned = {group.layer: group.pinned for group in widths.groups if group.pinned}
    assert pinned.pop("out") == "its channels are the model's output"
    # What stands before a pixel shuffle can only go s * s at a time, which torch-pruning does not know.
    assert all(layer == "up" and "pixel_shuffle" in reason for layer, reason in pinned.items())
    assert bool(pinned) == (settings is EXACT)


def test_two_maps_per_channel_are_pinned_and_say_why() -> None:
    module, plan, inputs = planned(RewriteSettings(separable="all", rank=2, sites={"separable": ("grow",)}))
    made = rewrite.apply(module, plan, inputs)
    assert "grow.depthwise" in {group.layer for group in channel_groups(made, inputs)}
    reasons = {group.layer: group.pinned for group in WidthModel(made, inputs).groups}
    assert "groups=16" in reasons["grow.depthwise"] and reasons["grow.pointwise"] == ""


@pytest.mark.parametrize("settings", [EXACT, ALL], ids=["exact", "all"])
@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_rewritten_models_become_files(settings: RewriteSettings, format: str, tmp_path: Path) -> None:
    for reason in (formats.available(format), available(format)):
        if reason:
            pytest.skip(reason)
    module, plan, inputs = planned(settings)
    program = export_static(fold_batch_norms(rewrite.apply(module, plan, inputs)), inputs)
    artifact = formats.export(program, format, "float32", tmp_path, "net")
    found = verify_artifact(artifact, tmp_path, reference(program), [(torch.randn(1, 3, 16, 16).numpy(),)])
    assert found.passed and found.sqnr_db is not None and found.sqnr_db > 100, found.reason
