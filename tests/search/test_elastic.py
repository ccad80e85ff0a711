"""What a subnet reads of shared weights is what cutting leaves of them, and sorting channels changes no answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from compress.errors import CheckFailed, ModelError
from compress.graph.cost import cost_of
from compress.graph.groups import WidthModel
from compress.graph.surgery import apply_edits
from compress.search import elastic
from compress.search.elastic import Numbered, leading, same_channels, sort_channels
from compress.types import BlockEdit, ChannelEdit, KernelEdit
from tests.search.nets import MODELS, SUPERNETS, traced


@pytest.mark.parametrize("name", SUPERNETS)
@pytest.mark.parametrize("scattered", [True, False])
def test_every_tensor_is_the_part_that_cutting_leaves(name: str, scattered: bool) -> None:
    base, inputs = traced(name)
    free = WidthModel(base, inputs).free
    gone = {g.layer: range(1, g.width, 3) if scattered else range(g.width // 2, g.width) for g in free}
    edits = [ChannelEdit(g.layer, g.width, tuple(gone[g.layer])) for g in free]
    structure, cut = Numbered(base, inputs).structure(edits), apply_edits(base, edits, inputs)
    whole = {**dict(base.named_parameters()), **dict(base.named_buffers())}
    want = {**dict(cut.named_parameters()), **dict(cut.named_buffers())}
    assert structure.picks.keys() == want.keys()
    parts = {name: structure.part(name, whole[name]) for name in want}
    assert all(torch.equal(parts[name], want[name]) for name in want)
    views = [part.data_ptr() == whole[name].data_ptr() for name, part in parts.items()]
    assert not all(views) if scattered or name == "concatenating" else all(views)  # leading channels are read in place


def test_blocks_and_kernels_are_parts_too_and_stand_ins_cost_what_the_cut_costs() -> None:
    base, inputs = traced("affine")
    edits = [BlockEdit("add"), KernelEdit("first", 3, 7), ChannelEdit("first", 8, (5,))]
    structure, cut = Numbered(base, inputs).structure(edits), apply_edits(base, edits, inputs)
    first = structure.part("first.weight", base.get_submodule("first").weight)
    assert torch.equal(first, cut.get_submodule("first").weight)
    assert not any("blocks.0" in name for name in structure.picks)
    assert cost_of(structure.network, inputs) == cost_of(cut, inputs)
    assert all(p.untyped_storage().nbytes() == p.element_size() for p in structure.network.parameters())


def test_large_tensors_are_numbered_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    base, inputs = traced("batch")
    edits = [ChannelEdit("first", 8, (0, 5))]
    single = Numbered(base, inputs).structure(edits)
    monkeypatch.setattr(elastic, "_EXACT_IN_FLOAT32", 100)
    numbered = Numbered(base, inputs)
    assert next(numbered.network.parameters()).dtype == torch.float64
    double = numbered.structure(edits)
    whole = dict(base.named_parameters())
    assert all(torch.equal(single.part(name, p), double.part(name, p)) for name, p in whole.items())
    assert cost_of(double.network, inputs) == cost_of(single.network, inputs)


@pytest.mark.parametrize("name", SUPERNETS)
def test_sorted_channels_lie_by_importance_and_the_network_answers_as_before(name: str) -> None:
    base, inputs = traced(name)
    generator = torch.Generator().manual_seed(4)
    scores = {g.layer: torch.rand(g.width, generator=generator) for g in WidthModel(base, inputs).free}
    assert len(scores) >= 3
    ordered = sort_channels(base, inputs, scores)
    x = torch.randn(3, *MODELS[name][1])
    torch.testing.assert_close(ordered(x), base(x), atol=1e-5, rtol=1e-5)
    for layer, score in scores.items():
        module: Any = base.get_submodule(layer)
        axis = 1 if isinstance(module, nn.ConvTranspose2d) else 0
        bias = module.bias if module.bias is not None else module.weight.movedim(axis, 0).flatten(1).sum(1)
        after: Any = ordered.get_submodule(layer)
        got = after.bias if module.bias is not None else after.weight.movedim(axis, 0).flatten(1).sum(1)
        torch.testing.assert_close(got, bias[score.argsort(descending=True)])


def test_what_stays_of_sorted_channels_are_the_most_important_ones() -> None:
    base, inputs = traced("batch")
    scores = {"first": torch.tensor([3.0, 9.0, 1.0, 7.0, 2.0, 8.0, 0.0, 5.0])}
    by_score = apply_edits(base, [ChannelEdit("first", 8, (0, 2, 4, 6))], inputs)
    ordered = sort_channels(base, inputs, scores)
    gone = torch.sort(leading({"first": 8})["first"]).indices[:4]
    by_place = apply_edits(ordered, [ChannelEdit("first", 8, tuple(sorted(gone.tolist())))], inputs)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(by_place(x), by_score(x), atol=1e-6, rtol=1e-5)


def test_a_reader_that_is_forgotten_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    base, inputs = traced("batch")
    whole = elastic._held_by
    monkeypatch.setattr(elastic, "_held_by", lambda graph, dep: whole(graph, dep)[:1])  # leaves shifts and statistics
    with pytest.raises(CheckFailed):
        sort_channels(base, inputs, {"up": torch.arange(8.0)})


def test_scores_of_another_network_are_refused_by_name() -> None:
    base, inputs = traced("instance")
    for scores in ({"nowhere": torch.ones(8)}, {"up": torch.ones(9)}):
        with pytest.raises(ModelError, match=f"'{next(iter(scores))}'.*no group of this model"):
            sort_channels(base, inputs, scores)


def test_the_layers_of_one_sum_stand_for_each_other() -> None:
    base, inputs = traced("instance")
    same = same_channels(base, inputs, ["blocks.1.conv2", "first"])
    assert set(same["blocks.1.conv2"]) == {"blocks.0.conv2", "down"} and same["first"] == ()
