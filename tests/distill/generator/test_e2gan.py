"""E2gan: few low-rank numbers learn, and what leaves is the network that came in with other weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from compress.distill.generator.e2gan import (
    E2gan,
    crucial_layers,
    near_centroids,
    sensitivity,
)
from compress.distill.lora import add_lora, loras, merge_lora
from compress.errors import DataError, RecipeError
from tests.distill.generator.small import INPUTS, LIGHT, error, learner_of, pair, paired, pictures, same, state, taught

PAIRS = {"gan": 0.0, "adversary": LIGHT, "trial_steps": 5}


def built(**options: Any) -> tuple[E2gan, fx.GraphModule]:
    """The method for a base generator and a copy of it, its student, that is to learn the pairs of the task."""
    teacher, student = pair(cut=False)
    return E2gan(teacher, student, INPUTS, E2gan.options_from({**PAIRS, **options}), paired()), student


def test_a_new_change_changes_nothing() -> None:
    model, x = pair(cut=False)[0], pictures(4)
    before = model(x)
    add_lora(model, ["encoder.0", "decoder.2"], 2)
    assert torch.equal(model(x), before) and len(loras(model)) == 2


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3), nn.Linear(4, 6)])
def test_merged_and_unmerged_compute_the_same_and_the_change_has_its_rank(layer: nn.Module) -> None:
    model = nn.Sequential(copy.deepcopy(layer))
    x = torch.randn(3, 4) if isinstance(layer, nn.Linear) else torch.randn(3, 4, 7, 7)
    add_lora(model, ["0"], 2)
    nn.init.normal_(loras(model)[0].b)
    unmerged = model(x)
    merge_lora(model)
    assert torch.allclose(model(x), unmerged, atol=1e-5) and not loras(model)
    assert type(model[0]) is type(layer) and model.state_dict().keys() == {"0.weight", "0.bias"}
    change = (model[0].weight - layer.weight).detach().flatten(1)  # type: ignore[operator]
    assert int(torch.linalg.matrix_rank(change, tol=1e-4)) == 2


def test_only_the_changes_learn_and_what_leaves_is_plain(tmp_path: Path) -> None:
    method, student = built(crucial=0.5, ranks=(2,))
    before = state(pair(cut=False)[1])
    taught(method, student, tmp_path, 2)
    after = state(student)
    assert after.keys() == before.keys() and not loras(student)
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed == {f"{path}.weight" for path in method.crucial}
    assert copy.deepcopy(student)(pictures(2)).shape == (2, 1, 8, 8)


def test_few_numbers_learn() -> None:
    method, student = built(crucial=0.5, ranks=(1,))
    learner = learner_of(method, student)
    method.players(learner, None)  # type: ignore[arg-type]
    trained = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    wanted = 0
    for path in method.crucial:
        rows, columns = student.get_submodule(path).weight.flatten(1).shape  # type: ignore[operator, union-attr]
        wanted += rows + columns
    assert trained == wanted < 0.1 * sum(p.numel() for p in pair(cut=False)[1].parameters())


def test_the_sensitivity_is_the_gain_of_the_best_change_of_rank_1() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(5, 3, 2, 2, generator=generator), torch.randn(5, 3, 2, 2, generator=generator)
    got = sensitivity(weight, gradient)
    size = float(torch.linalg.matrix_norm(weight.flatten(1), 2))
    u, _, vh = torch.linalg.svd(gradient.flatten(1))
    best = size * torch.outer(u[:, 0], vh[0])
    assert got == pytest.approx(float((best * gradient.flatten(1)).sum()), rel=1e-5)
    for _ in range(50):
        other = torch.outer(torch.randn(5, generator=generator), torch.randn(12, generator=generator))
        other *= size / torch.linalg.matrix_norm(other, 2)
        assert float((other * gradient.flatten(1)).sum()) <= got


def test_the_fewest_layers_with_the_share_are_crucial() -> None:
    found = {"a": 1.0, "b": 6.0, "c": 3.0}
    assert crucial_layers(found, 0.5) == ["b"] and crucial_layers(found, 0.9) == ["b", "c"]
    assert crucial_layers(found, 1.0) == ["b", "c", "a"]
    assert crucial_layers({"a": 0.0, "b": 0.0}, 0.5) == ["a"]


def test_crucial_layers_learn_more_than_the_others(tmp_path: Path) -> None:
    """The ablation: as many changes at the least sensitive layers."""
    errors = {}
    for name in ("crucial", "others"):
        method, student = built(crucial=0.3, ranks=(2,))
        if name == "others":
            merge_lora(student)
            order = sorted(found := method.sensitivities(student), key=lambda path: found[path])
            method.crucial = order[: len(method.crucial)]
            add_lora(student, method.crucial, 2)
        taught(method, student, tmp_path / name, 10, 2e-2)
        errors[name] = error(student, method.task)  # type: ignore[arg-type]
    assert errors["crucial"] < errors["others"]


@pytest.mark.parametrize(
    ("losses", "saturation", "rank"),
    [((1.0, 0.5, 0.48, 0.1), 0.1, 2), ((1.0, 0.5, 0.3, 0.1), 0.1, 8), ((1.0, 1.0, 0.1, 0.1), 0.1, 1)],
)
def test_the_rank_goes_up_until_a_larger_one_gains_little(
    losses: tuple[float, ...], saturation: float, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_rank = dict(zip((1, 2, 4, 8), losses, strict=True))
    monkeypatch.setattr(E2gan, "trial", lambda self, student, rank: by_rank[rank])
    assert built(saturation=saturation)[0].rank == rank


def test_the_search_is_the_same_each_time_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    first = built()[0]
    torch.manual_seed(6)
    before = torch.get_rng_state()
    second, student = built()
    torch.manual_seed(0)  # what `pair` sets, before anything else is drawn
    assert (first.crucial, first.rank) == (second.crucial, second.rank)
    assert same(state(student), state(built()[1])) and before is not None


def test_near_centroids_keeps_the_typical_samples_of_every_cluster() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    sizes = (60, 30, 30)
    rows = [centre + torch.randn(size, 2, generator=generator) for centre, size in zip(centres, sizes, strict=True)]
    features = torch.cat(rows)
    kept = near_centroids(features, keep=24, clusters=3)
    assert kept.equal(kept.unique()) and len(kept) == 24
    counts = [int(((kept >= low) & (kept < high)).sum()) for low, high in ((0, 60), (60, 90), (90, 120))]
    assert counts == [12, 6, 6]
    for low, high in ((0, 60), (60, 90), (90, 120)):
        away = (features[low:high] - features[low:high].mean(0)).norm(dim=1)
        inside = torch.isin(torch.arange(low, high), kept)
        assert away[inside].max() <= away[~inside].min() + 1e-6
    assert near_centroids(features, keep=120, clusters=3).equal(torch.arange(120))


def test_kept_samples_stand_for_all_better_than_random_ones() -> None:
    """The ablation: the mean distance of every sample to the nearest kept one, against random picks of as many."""
    features = pictures(200, 4).flatten(1)
    random = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:20]
    chosen = near_centroids(features, 20, 20)
    near, far = (float(torch.cdist(features, features[kept]).amin(1).mean()) for kept in (chosen, random))
    assert near < far


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(RecipeError, match="give one rank or more"):
        built(ranks=())
    with pytest.raises(RecipeError, match="has to be above 0 and at most 1"):
        built(crucial=0)
    with pytest.raises(RecipeError, match="e2gan learns from real outputs"):
        built(target={"pixel": 0.0})
    with pytest.raises(DataError, match="5 of 3 samples cannot be kept"):
        near_centroids(torch.zeros(3, 2), 5, 1)


def test_learning_the_pairs_brings_the_base_nearer_to_them(tmp_path: Path) -> None:
    method, student = built(crucial=1.0)
    before = error(student, method.task)  # type: ignore[arg-type]
    with torch.no_grad():
        assert F.l1_loss(student(pictures(2)), method.teacher(pictures(2))) < 1e-6
    taught(method, student, tmp_path, 10, 2e-2)
    assert error(student, method.task) < 0.7 * before  # type: ignore[arg-type]
