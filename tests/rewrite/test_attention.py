"""Attention for phones: what each rule changes is exactly what it says, and costs less by what it should."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress import rewrite
from compress.errors import RecipeError, UnknownName
from compress.graph.trace import trace
from compress.rewrite import RewriteSettings
from compress.rewrite.attention import sites_of

WIDTH, HEADS, SIDE = 16, 4, 6
KEYS = SIDE * SIDE


class Attention(nn.Module):
    """x (N, C, H, W) and its self-attention, by one op or spelled out; then a GELU layer and a GELU call."""

    def __init__(self, fused: bool, added: bool = True, mask: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.act, self.last = nn.GELU(), nn.Linear(WIDTH, WIDTH)
        self.fused, self.added, self.mask = fused, added, mask

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)

        def heads(rows: Tensor) -> Tensor:
            return rows.view(count, height * width, HEADS, channels // HEADS).transpose(1, 2)

        q, k, v = heads(self.query(tokens)), heads(self.key(tokens)), heads(self.value(tokens))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.mask)
        else:
            mixed = (q @ k.transpose(-1, -2) * (channels // HEADS) ** -0.5).softmax(-1) @ v
        mixed = self.out(mixed.transpose(1, 2).reshape(count, height * width, channels))
        tokens = tokens + mixed if self.added else mixed
        tokens = tokens + F.gelu(self.last(self.act(tokens)))
        return tokens.transpose(1, 2).reshape(count, channels, height, width)


def made(net: nn.Module, **settings: Any) -> tuple[fx.GraphModule, rewrite.RewritePlan]:
    inputs = (torch.randn(1, WIDTH, SIDE, SIDE),)
    model = trace(net, inputs)
    plan = rewrite.plan(model, RewriteSettings(**settings), inputs)
    replayed = rewrite.RewritePlan.from_dict(plan.to_dict())
    return rewrite.apply(model, replayed, inputs), plan


def by_hand(net: Attention, x: Tensor, weigh: Any, key: nn.Linear | None = None) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = (
        layer(tokens).view(len(x), KEYS, HEADS, -1).transpose(1, 2) for layer in (net.query, key or net.key, net.value)
    )
    mixed = weigh(q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)) @ v
    tokens = tokens + net.out(mixed.transpose(1, 2).reshape(len(x), KEYS, WIDTH))
    tokens = tokens + F.gelu(net.last(F.gelu(tokens)))
    return tokens.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_found_in_both_forms_and_no_other_softmax_is(fused: bool) -> None:
    inputs = (torch.randn(1, WIDTH, SIDE, SIDE),)
    (site,) = sites_of(trace(Attention(fused).eval(), inputs), inputs)
    assert site.keys == KEYS and site.fused == fused
    over_channels = trace(nn.Sequential(nn.Softmax(1), nn.Conv2d(WIDTH, 4, 1), nn.Flatten(), nn.Softmax(-1)), inputs)
    assert sites_of(over_channels, inputs) == []


@pytest.mark.parametrize("fused", [True, False])
def test_relu_over_the_number_of_keys_stands_for_the_softmax(fused: bool) -> None:
    net = Attention(fused).eval()
    model, plan = made(net, attention="relu")
    x = torch.randn(3, WIDTH, SIDE, SIDE)
    torch.testing.assert_close(model(x), by_hand(net, x, lambda s: F.relu(s) / KEYS), rtol=1e-5, atol=1e-5)
    names = " ".join(str(node.target) for node in model.graph.nodes)
    assert "softmax" not in names and "scaled_dot_product" not in names and plan.sites[0].values["keys"] == KEYS


@pytest.mark.parametrize("fused", [True, False])
def test_keys_are_projected_as_values_are(fused: bool) -> None:
    net = Attention(fused).eval()
    model, plan = made(net, keys="share")
    x = torch.randn(3, WIDTH, SIDE, SIDE)
    wanted = by_hand(net, x, lambda s: s.softmax(-1), key=net.value)
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)
    assert plan.before["macs"] - plan.after["macs"] == KEYS * WIDTH * WIDTH
    assert plan.before["params"] - plan.after["params"] == WIDTH * WIDTH + WIDTH
    assert "key" not in dict(model.named_modules())


@pytest.mark.parametrize("fused", [True, False])
def test_attention_over_many_keys_is_left_out(fused: bool) -> None:
    net = Attention(fused).eval()
    model, plan = made(net, attention="drop", longest=KEYS - 1)
    x = torch.randn(3, WIDTH, SIDE, SIDE)
    tokens = x.flatten(2).transpose(1, 2)
    wanted = (tokens + F.gelu(net.last(F.gelu(tokens)))).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(model(x), wanted)
    assert not {"query", "key", "value", "out"} & set(dict(model.named_modules()))
    assert plan.after["macs"] == KEYS * WIDTH * WIDTH
    kept, plan = made(net, attention="drop", longest=KEYS)
    torch.testing.assert_close(kept(x), net(x), rtol=1e-5, atol=1e-5)
    assert "no more than 36 keys" in plan.sites[0].after


def test_gelus_of_both_kinds_become_silus() -> None:
    net = Attention(True).eval()
    model, plan = made(net, activations="silu")
    x = torch.randn(3, WIDTH, SIDE, SIDE)
    before = by_hand(net, x, lambda s: s.softmax(-1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "gelu", F.silu)
        torch.testing.assert_close(model(x), by_hand(net, x, lambda s: s.softmax(-1)), rtol=1e-5, atol=1e-5)
    assert len(plan.done) == 2 and float((model(x) - before).detach().abs().max()) > 1e-3


def test_rules_go_together() -> None:
    net = Attention(True).eval()
    model, plan = made(net, attention="relu", keys="share", activations="silu")
    assert {site.rewrite for site in plan.done} == {"keys", "attention", "activations"}
    x = torch.randn(2, WIDTH, SIDE, SIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "gelu", F.silu)
        wanted = by_hand(net, x, lambda s: F.relu(s) / KEYS, key=net.value)
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_rewritten_stays_and_says_why() -> None:
    x = torch.randn(2, WIDTH, SIDE, SIDE)
    masked = Attention(True, mask=True).eval()
    model, plan = made(masked, attention="relu")
    torch.testing.assert_close(model(x), masked(x), rtol=1e-5, atol=1e-5)
    assert any("it has a mask" in line for line in plan.warnings())
    alone = Attention(True, added=False).eval()
    model, plan = made(alone, attention="drop", longest=1)
    torch.testing.assert_close(model(x), alone(x), rtol=1e-5, atol=1e-5)
    assert any("nothing is added" in line for line in plan.warnings())
    other = Attention(True).eval()
    other.key = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
    model, plan = made(other, keys="share")
    assert any("not made by one layer each" in line for line in plan.warnings())


def test_wrong_settings_are_named() -> None:
    with pytest.raises(RecipeError, match=r"rewrite\.attention: 'linear' is none of keep, relu, drop"):
        RewriteSettings(attention="linear")
    with pytest.raises(UnknownName, match="somewhere"):
        made(Attention(True), attention="relu", sites={"attention": ("somewhere",)})
