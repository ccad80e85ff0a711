"""As much as the budget asks for and no more, on stated costs; widths inside a kernel block are never worth having."""

from __future__ import annotations

import pytest
import torch

from compress.errors import Infeasible
from compress.graph.groups import WidthModel, dependency_graph, raw_groups
from compress.graph.trace import trace
from compress.profile.budget import CostModel, Limits, useful_widths
from compress.prune import IMPORTANCES, PrunePlan, plan_budget, plan_ratio
from tests.fakes import FakeLatencyModel
from tests.models import TinyResNet, randomize_norms


@pytest.fixture(scope="module")
def widths() -> WidthModel:
    torch.manual_seed(0)
    x = torch.randn(1, 1, 8, 8)
    return WidthModel(trace(randomize_norms(TinyResNet(width=32)), (x,)), (x,))


def _scores(widths: WidthModel) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {g.layer: torch.rand(g.width, generator=generator) for g in widths.free}


def _cost(multiple: int = 8) -> CostModel:
    return CostModel(FakeLatencyModel(channel_multiple=multiple), "float32")


def test_the_budget_is_met_and_putting_any_chunk_back_would_break_it(widths: WidthModel) -> None:
    cost = _cost()
    full = cost.figures(widths.base.ops)
    limits = Limits({"latency_ms": 0.6 * full["latency_ms"]})
    plan = plan_budget(widths, _scores(widths), cost, limits, max_ratio=0.8)
    removed = {e.layer: len(e.remove) for e in plan.edits}
    assert cost.figures(widths.ops(removed))["latency_ms"] <= limits.values["latency_ms"]
    assert plan.after["latency_ms"] == cost.figures(widths.ops(removed))["latency_ms"]
    for layer in removed:
        restored = {**removed, layer: removed[layer] - 8}
        assert cost.figures(widths.ops(restored))["latency_ms"] > limits.values["latency_ms"]


def test_a_budget_that_already_holds_removes_nothing(widths: WidthModel) -> None:
    cost = _cost()
    plan = plan_budget(widths, _scores(widths), cost, Limits({"macs": 1e12}), 0.8)
    assert plan.edits == ()
    assert plan.after == plan.before


def test_every_width_left_is_a_multiple_and_the_least_important_went(widths: WidthModel) -> None:
    cost, scores = _cost(), _scores(widths)
    plan = plan_budget(widths, scores, cost, Limits({"macs": 0.5 * widths.base.macs}), 0.8)
    assert plan.edits
    for edit in plan.edits:
        assert (edit.width - len(edit.remove)) % 8 == 0
        kept = [i for i in range(edit.width) if i not in edit.remove]
        assert scores[edit.layer][list(edit.remove)].max() <= scores[edit.layer][kept].min()


def test_widths_inside_a_kernel_block_are_not_offered(widths: WidthModel) -> None:
    model = FakeLatencyModel(channel_multiple=16)
    fine = useful_widths(widths, CostModel(model, "float32"), 0.1)
    assert fine["block1.conv1"] == (16, 32)
    model.ms_per_mmac = 0.0  # only overheads: no narrower width is faster, so there is none
    assert useful_widths(widths, CostModel(model, "float32"), 0.1)["block1.conv1"] == (32,)


def test_an_impossible_budget_carries_the_closest_plan_and_the_limit(widths: WidthModel) -> None:
    with pytest.raises(Infeasible, match="latency_ms") as caught:
        plan_budget(widths, _scores(widths), _cost(), Limits({"latency_ms": 1e-6}), 0.5)
    assert caught.value.exit_code == 3
    closest = PrunePlan.from_dict(caught.value.closest)
    assert closest.after["latency_ms"] < closest.before["latency_ms"]
    assert caught.value.limit.startswith("latency_ms")


def test_a_fixed_ratio_and_the_json_round_trip(widths: WidthModel) -> None:
    plan = plan_ratio(widths, _scores(widths), _cost(), 0.5, 0.8)
    assert all(len(e.remove) == e.width // 2 for e in plan.edits)
    assert PrunePlan.from_dict(plan.to_dict()) == plan
    assert plan_ratio(widths, _scores(widths), _cost(), 0.0, 0.8).edits == ()


def test_taylor_sees_the_loss_and_magnitude_does_not() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 1, 8, 8)
    model = trace(randomize_norms(TinyResNet()), (x,))
    model.head.weight.data[:, 3] = 0.0  # the loss cannot feel channel 3 of `down`
    groups = raw_groups(dependency_graph(model, (x,)), model)

    def backward() -> None:
        torch.nn.functional.cross_entropy(model(torch.randn(16, 1, 8, 8)), torch.randint(0, 4, (16,))).backward()

    scores = IMPORTANCES["taylor"](model, groups, backward)
    assert float(scores["down"][3]) == 0.0
    assert float(scores["down"].mean()) > 0.0
    assert float(IMPORTANCES["magnitude"](model, groups, backward)["down"][3]) > 0.1
    assert all(len(s) == len(groups[k][0].idxs) for k, s in IMPORTANCES["magnitude"](model, groups, backward).items())
