"""The least-squares refit: exact where the cut channels were redundant, better than nothing where they were not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.errors import DataError
from compress.graph.groups import residual_blocks
from compress.graph.surgery import apply_edits, cut_and_kept
from compress.graph.trace import trace
from compress.prune import refit
from compress.types import BlockEdit, ChannelEdit
from tests.models import TinyResNet, randomize_norms


def _redundant() -> nn.Sequential:
    """Channels 4 to 7 of the first layer are twice channels 0 to 3: everything behind can do without them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1), nn.ReLU())
    net.append(nn.Flatten()).append(nn.Linear(5 * 36, 4))
    with torch.no_grad():
        net[0].weight[4:] = 2 * net[0].weight[:4]
        net[0].bias[4:] = 2 * net[0].bias[:4]
    return net.eval()


def test_redundant_channels_are_made_up_for_exactly() -> None:
    x, held = torch.randn(512, 3, 6, 6), torch.randn(16, 3, 6, 6)
    uncut = trace(_redundant(), (x[:1],))
    edits = [ChannelEdit(next(p for p, m in uncut.named_modules() if isinstance(m, nn.Conv2d)), 8, (4, 5, 6, 7))]
    cut, kept = cut_and_kept(uncut, edits, (x[:1],))
    with torch.no_grad():
        want = uncut(held)
        before = (cut(held) - want).abs().max()
        done = refit(cut, uncut, kept, (x,), ridge=1e-6)
        after = (cut(held) - want).abs().max()
    assert len(done) == 2  # the second convolution, and the linear layer behind it; the first reads what it always read
    assert before > 1e-2
    assert after < 1e-3 * before


def test_less_is_lost_on_held_data_and_nothing_else_moves() -> None:
    torch.manual_seed(1)
    x, held = torch.randn(128, 1, 8, 8), torch.randn(64, 1, 8, 8)
    uncut = trace(randomize_norms(TinyResNet(width=32)), (x[:1],))
    edits = [ChannelEdit("block1.conv1", 32, tuple(range(16))), ChannelEdit("stem", 32, tuple(range(0, 32, 4)))]
    cut, kept = cut_and_kept(uncut, edits, (x[:1],))
    assert kept["block1.conv1"] == list(range(16, 32))
    assert kept["stem"] == [i for i in range(32) if i % 4]
    stem = cut.get_submodule("stem").weight.clone()
    with torch.no_grad():
        want = uncut(held)
        before = (cut(held) - want).square().mean()
        refit(cut, uncut, kept, (x,))
        after = (cut(held) - want).square().mean()
    assert after < 0.5 * before
    assert torch.equal(cut.get_submodule("stem").weight, stem)  # it reads the image, which nobody cut


def test_what_stands_behind_a_removed_block_learns_to_do_without_it() -> None:
    torch.manual_seed(1)
    x, held = torch.randn(128, 1, 8, 8), torch.randn(64, 1, 8, 8)
    uncut = trace(randomize_norms(TinyResNet(width=16)), (x[:1],))
    edits = [BlockEdit(residual_blocks(uncut, (x[:1],))[0].name)]
    cut = apply_edits(uncut, edits, (x[:1],))
    with torch.no_grad():
        want = uncut(held)
        before = (cut(held) - want).square().mean()
        done = refit(cut, uncut, {}, (x,))
        after = (cut(held) - want).square().mean()
    assert done  # layers behind the block, which read another tensor than before
    assert after < 0.8 * before


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), (6, 9, 9)),
        (nn.Conv2d(6, 4, (3, 1), padding="same", dilation=2, groups=2), (6, 9, 7)),
        (nn.Conv2d(6, 4, 3, padding=1, stride=2, padding_mode="reflect", bias=False), (6, 9, 9)),
        (nn.Conv1d(6, 4, 5, padding=2, stride=2), (6, 20)),
        (nn.Linear(6, 3), (7, 6)),
    ],
    ids=["depthwise", "grouped-same", "reflect-no-bias", "one-dimensional", "linear-over-tokens"],
)
def test_a_layer_finds_the_weights_that_made_the_answers(layer: nn.Module, shape: tuple[int, ...]) -> None:
    from compress.prune.refit import _solve

    torch.manual_seed(2)
    given = torch.randn(64, *shape)
    with torch.no_grad():
        wanted = layer(given)
        true = layer.weight.clone()
        layer.weight.mul_(0.5)
        if layer.bias is not None:
            layer.bias.add_(1.0)
        _solve(layer, given, wanted, ridge=0.0)
        assert torch.allclose(layer.weight, true, atol=1e-4)
        assert torch.allclose(layer(given), wanted, atol=1e-4)


def test_damaged_data_is_refused() -> None:
    model = trace(_redundant(), (torch.randn(1, 3, 6, 6),))
    with pytest.raises(DataError, match="NaN"):
        refit(model, model, {}, (torch.full((2, 3, 6, 6), float("nan")),))
