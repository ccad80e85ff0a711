"""Evolution finds the best candidate inside the limits, judges none outside them, and says so when there is none."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from compress.errors import Infeasible
from compress.graph.cost import cost_of
from compress.graph.groups import Block
from compress.profile.budget import CostModel, Limits
from compress.search.evolution import _Inside, evolve, predictor
from compress.search.run import SearchPlan
from compress.search.space import Draw, Space, make_space
from compress.types import BlockEdit, ChannelEdit, Edit, LatencyPrediction, Number, Scheme
from tests.search.nets import supernet

LAYERS = ("a", "b", "c", "d")
BLOCKS = [Block("add", "x", ("e",)), Block("add_1", "y", ("f",))]
SPACE = make_space({layer: (8, 16, 24, 32) for layer in LAYERS}, BLOCKS, (), "width_depth")
SCORES = {layer: torch.arange(32.0) for layer in LAYERS}
WORTH = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 1.5}
PRICE = {"a": 1.0, "b": 1.5, "c": 5.0, "d": 0.5}


def _figures(edits: tuple[Edit, ...]) -> dict[str, float]:
    """Latency falls with every channel, by each layer's price; peak memory with the channels of `c` alone."""
    removed = {edit.layer: len(edit.remove) / 32 for edit in edits if isinstance(edit, ChannelEdit)}
    latency = sum(price * (1 - removed.get(layer, 0.0)) for layer, price in PRICE.items())
    latency += 1.0 * (2 - sum(isinstance(edit, BlockEdit) for edit in edits))
    return {"latency_ms": latency, "peak_activation_bytes": 1000 * (1 - removed.get("c", 0.0))}


def _quality(edits: tuple[Edit, ...]) -> float:
    """Quality falls with every channel, by each layer's worth, and with blocks, `add_1` hardly."""
    removed = {edit.layer: len(edit.remove) / 32 for edit in edits if isinstance(edit, ChannelEdit)}
    gone = {edit.block for edit in edits if isinstance(edit, BlockEdit)}
    kept = sum(worth * (1 - removed.get(layer, 0.0)) for layer, worth in WORTH.items())
    return kept - 1.2 * ("add" in gone) - 0.1 * ("add_1" in gone)


def _all(space: Space = SPACE) -> list[tuple[Edit, ...]]:
    """Every candidate of the space."""
    widths = [[(f"width:{layer}", w) for w in space.widths[layer]] for layer in space.widths]
    keeps = [[(f"keep:{block.name}", kept) for kept in (0, 1)] for block in space.blocks]
    return [space.edits(dict(choice), SCORES) for choice in itertools.product(*widths, *keeps)]


def _evolve(limits: Mapping[str, float], quality: Any = _quality, figures: Any = _figures, **more: Any) -> SearchPlan:
    options: dict[str, Any] = {"trials": 250, "population": 20, "seed": 0, "higher_is_better": True} | more
    return evolve(SPACE, SCORES, quality, figures, Limits(limits), **options)


@pytest.mark.parametrize("limits", [{"latency_ms": 6.0}, {"latency_ms": 8.0, "peak_activation_bytes": 500.0}])
def test_the_known_best_is_found_in_a_fraction_of_the_space(limits: dict[str, float]) -> None:
    inside = [edits for edits in _all() if Limits(limits).excess(_figures(edits)) == 0]
    best = max(_quality(edits) for edits in inside)
    asked: list[tuple[Edit, ...]] = []

    def quality(edits: tuple[Edit, ...]) -> float:
        asked.append(edits)
        return _quality(edits)

    plan = _evolve(limits, quality)
    assert _quality(plan.edits) == pytest.approx(best)
    assert len(asked) == len(set(asked)) <= 250 < len(_all()) / 4
    assert set(asked) <= set(inside)  # none is judged that could not be chosen
    front = sorted((row for row in plan.trials if row["on_front"]), key=lambda row: row["latency_ms"])
    assert [row["quality"] for row in front] == sorted({row["quality"] for row in front})
    assert plan.trials[plan.chosen]["on_front"] and len(front) >= 4


def test_a_low_quality_can_be_the_good_one() -> None:
    up = _evolve({"latency_ms": 6.0}, trials=40)
    down = _evolve({"latency_ms": 6.0}, lambda edits: -_quality(edits), trials=40, higher_is_better=False)
    assert up.edits == down.edits


def test_the_seed_decides_everything() -> None:
    plans = [_evolve({"latency_ms": 6.0}, trials=40, seed=seed) for seed in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert [row["choice"] for row in plans[0].trials] != [row["choice"] for row in plans[2].trials]


def test_an_impossible_limit_is_found_out_before_anything_is_judged() -> None:
    def quality(edits: tuple[Edit, ...]) -> float:
        raise AssertionError("nothing is to be judged")

    least = min((_figures(edits) for edits in _all()), key=lambda figures: figures["latency_ms"])
    with pytest.raises(Infeasible, match=f"the closest .* has latency_ms {least['latency_ms']:g}") as caught:
        _evolve({"latency_ms": 1.0}, quality)
    assert caught.value.limit == f"latency_ms {least['latency_ms']:g} (limit 1)"
    assert _figures(SearchPlan.from_dict(caught.value.closest).edits) == least


def test_a_space_smaller_than_the_trials_comes_to_an_end() -> None:
    for space in (make_space({"a": (8, 16)}, (), (), "width"), make_space({}, (), (), "width")):
        options: dict[str, Any] = {"trials": 5, "population": 2, "seed": 0, "higher_is_better": True}
        plan = evolve(space, SCORES, _quality, _figures, Limits({"latency_ms": 20.0}), **options)
        assert (len(plan.trials), plan.edits) == (5, ())


def test_what_fits_is_found_where_the_smallest_does_not() -> None:
    def figures(edits: tuple[Edit, ...]) -> dict[str, float]:
        awkward = not any(isinstance(edit, ChannelEdit) and edit.layer == "a" for edit in edits)
        return {"latency_ms": 1.0 if awkward else 9.0}

    plan = _evolve({"latency_ms": 5.0}, figures=figures)
    assert _quality(plan.edits) == max(_quality(e) for e in _all() if figures(e)["latency_ms"] < 5)


def test_a_candidate_outside_is_shrunk_no_further_than_the_limit_asks_and_comes_once() -> None:
    limits = Limits({"latency_ms": 6.0})

    def latency(choice: Mapping[str, int]) -> float:
        return _figures(SPACE.edits(choice, SCORES))["latency_ms"]

    inside = _Inside(**vars(SPACE), excess=lambda choice: limits.excess({"latency_ms": latency(choice)}))
    whole, small = Draw(lambda name, last: last), Draw(lambda name, last: 0)
    drawn = [inside.sample(whole) for _ in range(20)]
    assert all(6.0 - max(PRICE.values()) / 4 <= latency(choice) <= 6.0 for choice in drawn[:1])  # one step at most
    assert all(latency(choice) <= 6.0 for choice in drawn)
    assert inside.sample(small) == SPACE.sample(small)
    again = inside.sample(small)
    assert len({str(choice) for choice in [*drawn, SPACE.sample(small), again]}) == 22


class Macs:
    """A latency model that counts: one millisecond for a million MACs."""

    name, channel_multiple = "macs", 1

    def predict(self, ops: Any, scheme: Scheme) -> LatencyPrediction:
        return LatencyPrediction(Number(sum(op.macs or 0 for op in ops) / 1e6, "ms", "predicted", interval=(0.0, 1.0)))


def test_a_subnet_is_predicted_to_cost_what_it_costs_once_cut_out() -> None:
    net = supernet("affine")
    cost = CostModel(Macs(), "float32")
    figures, generator = predictor(net, cost), torch.Generator().manual_seed(0)
    for subnet in [net.sample("random", generator) for _ in range(3)]:
        counted = cost_of(net.physical(subnet.edits), net.example_inputs)
        peak = {"peak_activation_bytes": float(counted.peak_activation_bytes)}
        assert figures(subnet.edits) == cost.figures(counted.ops) | peak


def test_the_subnets_of_a_supernet_evolve_under_a_limit_on_memory() -> None:
    net = supernet("instance").eval()
    figures, x = predictor(net, CostModel(Macs(), "float32")), torch.randn(4, 3, 8, 8)
    whole, least = figures(()), figures(net.edits("smallest"))
    limit = (whole["peak_activation_bytes"] + least["peak_activation_bytes"]) / 2
    answer = net(x)

    def quality(edits: tuple[Edit, ...]) -> float:
        with torch.no_grad():
            return float((net.subnet(edits)(x) - answer).square().mean())

    limits = Limits({"peak_activation_bytes": limit, "macs": 0.7 * whole["macs"]})
    plan = evolve(
        net.space, net.scores, quality, figures, limits, trials=12, population=6, seed=0, higher_is_better=False
    )
    cut = cost_of(net.physical(plan.edits), net.example_inputs)
    assert cut.peak_activation_bytes <= limit and cut.macs <= 0.7 * whole["macs"]
    assert quality(plan.edits) == min(row["quality"] for row in plan.trials)
