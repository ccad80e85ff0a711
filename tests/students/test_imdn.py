"""Imdn: shapes, its three attentions, the anchor, tiles that are exact without attention, and what can be pruned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compress.graph.groups import WidthModel, channel_groups, residual_blocks
from compress.graph.trace import trace
from compress.rewrite.receptive import receptive_field
from compress.rewrite.tiling import tiled
from compress.students import Imdn
from compress.students.imdn import Block, ChannelAttention
from tests.students.common import FORMATS, check_file, cost, noise, traced

MODES = ("contrast", "mean", "none")


def net(attention: str = "contrast", scale: int = 2, anchor: bool = False) -> Imdn:
    torch.manual_seed(0)
    return Imdn(16, 2, scale, attention, anchor).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", MODES)
@pytest.mark.parametrize("scale", [2, 3])
def test_it_traces_and_enlarges(attention: str, scale: int) -> None:
    x = noise(1, 3, 10, 14)
    assert traced(net(attention, scale), x)(x).shape == (1, 3, 10 * scale, 14 * scale)


def test_the_published_size() -> None:
    found = cost(Imdn(), torch.zeros(1, 3, 8, 8))
    assert 690e3 < found.params < 720e3
    assert found.macs / 64 == pytest.approx(found.params, rel=0.02)  # every weight once per pixel of the input


def test_a_block_keeps_a_quarter_after_each_convolution() -> None:
    torch.manual_seed(0)
    block, x = Block(8, "none"), noise(1, 8, 5, 5)
    with torch.no_grad():
        first = F.leaky_relu(block.conv1(x), 0.05)
        second = F.leaky_relu(block.conv2(first[:, 2:]), 0.05)
        third = F.leaky_relu(block.conv3(second[:, 2:]), 0.05)
        kept = torch.cat([first[:, :2], second[:, :2], third[:, :2], block.conv4(third[:, 2:])], 1)
        torch.testing.assert_close(block(x), x + block.fuse(kept))


def test_contrast_is_the_standard_deviation_beside_the_mean() -> None:
    torch.manual_seed(0)
    contrast, mean = ChannelAttention(8), ChannelAttention(8, contrast=False)
    mean.load_state_dict(contrast.state_dict())
    x = noise(2, 8, 6, 6)
    with torch.no_grad():
        level = x.mean((2, 3)) + x.std((2, 3), correction=0)
        gate = contrast.excite(contrast.squeeze(level[:, :, None, None]).relu()).sigmoid()
        torch.testing.assert_close(contrast(x), x * gate)
        flat = x.mean((2, 3), keepdim=True).expand_as(x)  # without contrast both are one
        torch.testing.assert_close(contrast(flat), mean(flat), rtol=1e-4, atol=1e-5)
        assert float((contrast(x) - mean(x)).abs().max()) > 1e-3


def test_with_an_anchor_a_network_of_zeros_enlarges_without_interpolation() -> None:
    model, x = net(anchor=True), noise(1, 3, 4, 4)
    torch.nn.init.zeros_(model.last.weight)
    torch.nn.init.zeros_(model.last.bias)
    with torch.no_grad():
        assert torch.equal(model(x), F.interpolate(x, scale_factor=2))


def tiles(model: Imdn, picture: Tensor) -> tuple[Tensor, Tensor]:
    """(the output in tiles with the halo that its receptive field asks for, the output at once)."""
    graph = trace(model, (picture,))
    field = receptive_field(graph, (picture,))
    with torch.no_grad():
        return tiled(graph, picture, (44, 44), field.halo_px, field.scale), graph(picture)


def test_tiles_are_exact_without_attention_and_only_then() -> None:
    picture = noise(1, 3, 72, 60) + torch.linspace(0, 4, 60)  # brighter to the right
    got, whole = tiles(net("none"), picture)
    torch.testing.assert_close(got, whole, rtol=1e-5, atol=1e-6)
    attentive = net("mean")
    for block in attentive.blocks:
        block.attention.excite.weight.data *= 20  # as drawn, it hardly acts
    graph = trace(attentive, (picture,))
    assert not receptive_field(graph, (picture,)).exact
    halo = receptive_field(trace(net("none"), (picture,)), (picture,)).halo_px
    with torch.no_grad():
        apart = (tiled(graph, picture, (44, 44), halo, (2, 2)) - graph(picture)).abs().max()
    assert float(apart) > 1e-4  # the means of a tile are not those of the picture


def test_slices_pin_the_trunk() -> None:
    """A cut would move the border between what a block keeps and what goes on: only what lies beside it is free."""
    x = noise(1, 3, 12, 12)
    graph = trace(net(), (x,))
    free = {group.layer for group in WidthModel(graph, (x,)).free}
    inside = {f"blocks.{block}.attention.squeeze" for block in (0, 1)}
    assert free == inside | {"gather", "middle"}
    assert len(channel_groups(graph, (x,))) > len(free)
    assert residual_blocks(graph, (x,)) != []


@pytest.mark.parametrize("format", FORMATS)
def test_its_file(format: str, tmp_path: Path) -> None:
    check_file(net(), noise(1, 3, 12, 12), format, tmp_path)


def test_without_a_slope_its_activations_are_plain_relus() -> None:
    torch.manual_seed(0)
    leaky, plain = Imdn(8, 2, attention="none"), Imdn(8, 2, attention="none", slope=0.0)
    plain.load_state_dict(leaky.state_dict())
    x = torch.rand(1, 3, 8, 8)
    ops = {str(node.target) for node in trace(plain, (x,)).graph.nodes}
    assert "aten.relu.default" in ops and not any("leaky" in op for op in ops)
    assert not torch.allclose(leaky(x), plain(x), atol=1e-5)
