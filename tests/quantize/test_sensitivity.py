"""Mixed precision: what each layer's rounding costs, and the fewest layers that must be spared it."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import Tensor, fx, nn

from compress.errors import Infeasible
from compress.quantize import Choice, apply, calibrate, choose_kept, plan, prepare, sensitivities, weight_bytes
from compress.quantize.sensitivity import groups_behind, noise_share
from tests.quantize.nets import sqnr_db, traced

PLANTED = ("4", "10", "14")


def fragile_net() -> tuple[fx.GraphModule, Tensor]:
    """Eleven layers; three have a huge weight in every row, for an input that is always zero: it wastes their scale."""
    torch.manual_seed(0)
    model = nn.Sequential(*[m for _ in range(10) for m in (nn.Linear(24, 24), nn.ReLU())], nn.Linear(24, 4))
    with torch.no_grad():
        for layer in model[::2]:
            nn.init.kaiming_normal_(layer.weight)
        for path in PLANTED:
            before, layer = model[int(path) - 2], model[int(path)]
            before.weight[0], before.bias[0] = 0.0, -1.0
            layer.weight[:, 0] = 4.0
    return traced(model, torch.randn(4, 24)), torch.randn(256, 24)


@pytest.fixture(scope="module")
def fragile() -> tuple[fx.GraphModule, Tensor]:
    torch.set_num_threads(1)
    return fragile_net()


def test_the_planted_layers_are_found_first(fragile) -> None:
    folded, x = fragile
    prepared = prepare(folded, "w4")
    calibrate(prepared, [x])
    before = prepared.eval()(x)
    found = sensitivities(prepared, folded, [x])
    assert {one.layer for one in found[:3]} == set(PLANTED), found
    assert found[0].alone_db < found[-1].alone_db and found[0].without_db > found[-1].without_db
    assert torch.equal(prepared(x), before), "measuring leaves the network as it was"


def test_the_measures_are_those_of_a_network_with_only_that_layer_rounded(fragile) -> None:
    """Weights alone, so that a plan with all other layers at float32 is the very same network."""
    folded, x = fragile
    prepared = prepare(folded, "palette4")
    calibrate(prepared, [x])
    layers = [str(node.target) for node in folded.graph.nodes if node.op == "call_module"]
    one = next(s for s in sensitivities(prepared, folded, [x]) if s.layer == "4")
    only = plan(folded, "palette4", [x], schemes={path: "float32" for path in layers if path != "4"})
    but = plan(folded, "palette4", [x], schemes={"4": "float32"})
    with torch.no_grad():
        goal = folded(x)
        assert sqnr_db(goal, apply(folded, only)(x)) == pytest.approx(one.alone_db, abs=0.01)
        assert sqnr_db(goal, apply(folded, but)(x)) == pytest.approx(one.without_db, abs=0.01)


def test_a_layers_groups_lie_behind_it_or_its_activation(build) -> None:
    residual = build("residual")
    prepared = prepare(residual.folded, "w8a8")
    behind = groups_behind(prepared)
    assert set(behind) == {"stem.0", "a.0", "b.0", "c.0", "d.0", "skip.0", "fc"}
    assert all(len(groups) == 1 for groups in behind.values()), behind
    assert len({group for groups in behind.values() for group in groups}) == 7


def stated(harms: dict[str, float]):
    """A judge whose quality is 1 minus the harm of all layers that are not kept."""
    asked: list[tuple[str, ...]] = []

    def judge(kept: tuple[str, ...]) -> Choice:
        asked.append(kept)
        return Choice(kept, 1.0 - sum(h for layer, h in harms.items() if layer not in kept), 100 + 10 * len(kept))

    return judge, asked


def test_layers_are_kept_in_order_until_the_quality_will_do_and_no_further() -> None:
    harms = {"a": 0.2, "b": 0.1, "c": 0.01, "d": 0.001}
    judge, asked = stated(harms)
    chosen, looks = choose_kept("abcd", judge, lambda quality: quality >= 0.98)
    assert chosen.kept == ("a", "b") and asked[:3] == [(), ("a",), ("a", "b")]
    assert [look.kept for look in looks] == asked and looks[0].size_bytes == 100
    chosen, looks = choose_kept("abcd", judge, lambda quality: quality >= 0.5)
    assert chosen.kept == () and len(looks) == 1


def test_a_layer_kept_in_vain_is_given_back() -> None:
    judge, _ = stated({"a": 0.2, "b": 0.1, "c": 0.0})
    chosen, _ = choose_kept("cab", judge, lambda quality: quality >= 0.95)
    assert chosen.kept == ("a", "b")


def test_what_cannot_be_met_is_said_with_the_best_look() -> None:
    judge, _ = stated({"a": 0.2, "b": 0.1})
    with pytest.raises(Infeasible, match="no choice of layers") as caught:
        choose_kept("ab", judge, lambda quality: quality >= 1.5)
    assert caught.value.closest["kept"] == ["a", "b"] and caught.value.limit == "max_quality_drop"


def test_the_search_needs_as_few_layers_as_the_best_choice_and_beats_random_ones(fragile) -> None:
    folded, x = fragile
    with torch.no_grad():
        goal = folded(x)
    prepared = prepare(folded, "w4")
    calibrate(prepared, [x])
    order = [one.layer for one in sensitivities(prepared, folded, [x])]

    def quality(kept: tuple[str, ...]) -> float:
        made = plan(folded, "w4", [x], schemes=dict.fromkeys(kept, "float16"))
        with torch.no_grad():
            return sqnr_db(goal, apply(folded, made)(x))

    def judge(kept: tuple[str, ...]) -> Choice:
        return Choice(kept, quality(kept), weight_bytes(folded, "w4", dict.fromkeys(kept, "float16")))

    best_of_three = quality(tuple(order[:3]))
    chosen, looks = choose_kept(order, judge, lambda q: q >= best_of_three - 0.5)
    assert len(chosen.kept) <= 3
    assert all(quality(kept) < best_of_three - 0.5 for kept in itertools.combinations(order[:4], len(chosen.kept) - 1))
    draw = random.Random(0)
    others = [quality(tuple(draw.sample(order, len(chosen.kept)))) for _ in range(6)]
    assert chosen.quality > max(others) and chosen.quality > sum(others) / len(others) + 2.0, (chosen, others)
    sizes = [look.size_bytes for look in looks[: len(chosen.kept) + 1]]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_bytes_are_those_of_the_schemes() -> None:
    folded = traced(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8, bias=False)), torch.randn(2, 64))
    first, bias, second = 64 * 32, 4 * 32, 32 * 8
    assert weight_bytes(folded, "float32", {}) == 4 * first + bias + 4 * second
    assert weight_bytes(folded, "w8a8", {}) == first + bias + 4 * 32 + second + 4 * 8
    assert weight_bytes(folded, "w8a8", {"0": "float16"}) == 2 * first + bias + second + 4 * 8
    assert weight_bytes(folded, "w4", {}) == first // 2 + bias + 4 * first // 32 + second // 2 + 4 * second // 32
    assert weight_bytes(folded, "palette4", {}) == first // 2 + bias + 64 + second // 2 + 64


def test_noise_is_a_share_of_the_signal() -> None:
    goals = [torch.full((4,), 2.0), torch.full((4,), 2.0)]
    assert noise_share(goals, iter(goals)) == 0.0
    assert noise_share(goals, [goal + 0.2 for goal in goals]) == pytest.approx(0.01, rel=1e-5)
