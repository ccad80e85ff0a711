"""BatchNorm statistics go through a cut: exactly where the cut is linear, and not at all where nothing was cut."""

from __future__ import annotations

import torch
from torch import nn

from compress.graph.surgery import cut_and_kept
from compress.graph.trace import trace
from compress.prune import refit
from compress.train.norms import recalibrate_norms
from compress.types import ChannelEdit
from tests.models import TinyResNet, randomize_norms


def _net() -> nn.Sequential:
    """Channels 4 to 7 put out twice what channels 0 to 3 do, all into one norm and another convolution and norm."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten())
    with torch.no_grad():
        net[0].weight[4:], net[0].bias[4:] = 2 * net[0].weight[:4], 2 * net[0].bias[:4]
        # The second layer reads each pair with the same weights: without the doubles it sees a third of the sum.
        net[1].weight[:, 4:] = net[1].weight[:, :4]
        net[1].bias.zero_()
    return randomize_norms(net).eval()


def test_a_norm_behind_a_cut_that_only_scales_takes_its_old_statistics_scaled() -> None:
    few = 0.1 * torch.randn(8, 3, 6, 6) + 3  # nothing like the unit images the statistics stand for
    uncut = trace(_net(), (few[:1],))
    cut, kept = cut_and_kept(uncut, [ChannelEdit("0", 8, (4, 5, 6, 7))], (few[:1],))
    old, new = uncut.get_submodule("2"), cut.get_submodule("2")
    refit(cut, uncut, kept, (few,), solve=False)
    assert torch.allclose(new.running_mean, old.running_mean / 3, atol=1e-4)
    assert torch.allclose(new.running_var, old.running_var / 9, rtol=1e-3)
    measured = trace(_net(), (few[:1],))
    recalibrate_norms(measured, [type("Batch", (), {"inputs": (few,)})])
    assert not torch.allclose(measured.get_submodule("2").running_mean, old.running_mean, atol=0.5)


def test_cut_channels_of_a_norm_keep_the_statistics_of_those_that_stay() -> None:
    torch.manual_seed(1)
    x = torch.randn(16, 1, 8, 8)
    uncut = trace(randomize_norms(TinyResNet()), (x[:1],))
    cut, kept = cut_and_kept(uncut, [ChannelEdit("block1.conv1", 16, (0, 3, 9))], (x[:1],))
    refit(cut, uncut, kept, (x,))
    left = [i for i in range(16) if i not in (0, 3, 9)]
    assert kept["block1.bn1"] == left
    before, after = uncut.get_submodule("block1.bn1"), cut.get_submodule("block1.bn1")
    assert torch.allclose(after.running_mean, before.running_mean[left], atol=1e-5)
    assert torch.allclose(after.running_var, before.running_var[left], rtol=1e-4)
    assert torch.equal(cut.get_submodule("norm").running_var, uncut.get_submodule("norm").running_var)
