"""A cut model equals the masked one, a plan replays on a fresh model, and the width model predicts the cut's shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.errors import CheckFailed, ModelError
from compress.graph.cost import cost_of
from compress.graph.groups import WidthModel, channel_groups, residual_blocks
from compress.graph.surgery import apply_edits, check_equal
from compress.graph.trace import trace
from compress.types import BlockEdit, ChannelEdit, edit_from_dict, edit_to_dict
from tests.models import Concatenating, TinyResNet, Upsampling, randomize_norms

CASES = [(TinyResNet, (1, 8, 8)), (Concatenating, (3, 8, 8))]


def _traced(kind: type[nn.Module], shape: tuple[int, ...]):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    x = torch.randn(1, *shape)
    return trace(randomize_norms(kind()), (x,)), (x,)


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_cutting_every_group_matches_the_mask_and_the_width_model(
    kind: type[nn.Module], shape: tuple[int, ...]
) -> None:
    model, inputs = _traced(kind, shape)
    widths = WidthModel(model, inputs)
    edits = [ChannelEdit(g.layer, g.width, tuple(range(1, g.width, 3))) for g in widths.free]
    assert len(edits) >= 3
    cut = apply_edits(model, edits, inputs)  # raises if it does not equal the masked model
    real, predicted = cost_of(cut, inputs).ops, widths.ops({e.layer: len(e.remove) for e in edits})
    for op, guess in zip(real, predicted, strict=True):
        assert (op.macs, op.output_shape, op.weight_count) == (guess.macs, guess.output_shape, guess.weight_count)
    assert cost_of(cut, inputs).macs < cost_of(model, inputs).macs


def test_the_check_catches_a_cut_that_is_not_clean() -> None:
    model, inputs = _traced(TinyResNet, (1, 8, 8))
    edits = [ChannelEdit("block1.conv1", 16, (0, 5))]
    good = apply_edits(model, edits, inputs)
    bad = apply_edits(model, [ChannelEdit("block1.conv1", 16, (0, 6))], inputs)
    assert check_equal(good, apply_edits(model, edits, inputs), inputs) == 0
    with pytest.raises(CheckFailed, match="differs from the masked one"):
        check_equal(bad, good, inputs)


def test_edits_replay_from_json_on_a_fresh_model() -> None:
    model, inputs = _traced(TinyResNet, (1, 8, 8))
    blocks = residual_blocks(model, inputs)
    edits = [BlockEdit(blocks[0].name), ChannelEdit("block2.conv1", 16, (1, 2, 3))]
    again, _ = _traced(TinyResNet, (1, 8, 8))
    replayed = apply_edits(again, [edit_from_dict(edit_to_dict(e)) for e in edits], inputs)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(apply_edits(model, edits, inputs)(x), replayed(x))


def test_no_edits_change_nothing_and_the_original_is_left_alone() -> None:
    model, inputs = _traced(TinyResNet, (1, 8, 8))
    x = torch.randn(2, 1, 8, 8)
    before = model(x)
    assert torch.equal(apply_edits(model, [], inputs)(x), before)
    apply_edits(model, [ChannelEdit("stem", 16, (0,))], inputs)
    assert torch.equal(model(x), before)


def test_blocks_are_found_and_their_removal_leaves_the_skip_path() -> None:
    model, inputs = _traced(TinyResNet, (1, 8, 8))
    blocks = residual_blocks(model, inputs)
    assert [b.inside[0] for b in blocks] == ["block1.conv1", "block2.conv1"]
    short = apply_edits(model, [BlockEdit(b.name) for b in blocks], inputs)
    for block in ("block1", "block2"):  # a branch that adds nothing is the same as no branch
        getattr(model, block).bn2.weight.data.zero_()
        getattr(model, block).bn2.bias.data.zero_()
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(short(x), model(x), atol=1e-6)
    assert not any("block" in name for name in short.state_dict())


def test_pinned_groups_say_why() -> None:
    model, inputs = _traced(TinyResNet, (1, 8, 8))
    assert {g.layer: g.pinned for g in channel_groups(model, inputs)}["head"] == "its channels are the model's output"
    model, inputs = _traced(Upsampling, (3, 8, 8))
    reasons = {g.layer: g.pinned for g in channel_groups(model, inputs)}
    assert "GroupNorm" in reasons["up"]


def test_a_plan_for_another_model_is_refused_by_name() -> None:
    model, inputs = _traced(TinyResNet, (1, 8, 8))
    with pytest.raises(ModelError, match="'stem' to have 32 channels; this model has 16"):
        apply_edits(model, [ChannelEdit("stem", 32, (0,))], inputs)
    with pytest.raises(ModelError, match="cuts layer 'nowhere'"):
        apply_edits(model, [ChannelEdit("nowhere", 32, (0,))], inputs)
    with pytest.raises(ModelError, match="removes block 'add_9'"):
        apply_edits(model, [BlockEdit("add_9")], inputs)
