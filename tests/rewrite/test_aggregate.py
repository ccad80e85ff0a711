"""Dense connections: sums are exact and need less memory where they are made; thinned blocks keep their weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress import rewrite
from compress.graph.cost import cost_of
from compress.rewrite import RewriteSettings
from compress.rewrite.concats import live_bytes
from tests.rewrite.nets import Dense, Generator, UNet, close, ops, traced


def rewritten(net: nn.Module, **settings) -> tuple[fx.GraphModule, rewrite.RewritePlan, tuple[Tensor, ...]]:
    module, inputs = traced(net, 1, 3, 16, 16)
    plan = rewrite.plan(module, RewriteSettings(**settings), inputs)
    return rewrite.apply(module, plan, inputs), plan, inputs


@pytest.mark.parametrize(
    "net", [Dense(), Dense(growing=True), Dense(4, 16, 4), UNet()], ids=["flat", "nested", "narrow", "unet"]
)
def test_sums_are_exact_and_need_less_memory(net: nn.Module) -> None:
    module, plan, inputs = rewritten(net, aggregate="accumulate")
    assert not any("cat" in op for op in ops(module))
    assert not plan.warnings()
    assert plan.after["macs"] == plan.before["macs"] and plan.after["params"] == plan.before["params"]
    assert plan.after["peak_activation_bytes"] < plan.before["peak_activation_bytes"]
    assert plan.after["peak_activation_bytes"] == cost_of(module, inputs).peak_activation_bytes
    x = torch.randn(2, 3, 10, 12)
    close(module(x), net(x))


def test_a_term_is_summed_as_soon_as_its_part_is_there() -> None:
    """What a growing convolution gives is read by the next one and all later sums before anything else is computed."""
    module, _, _ = rewritten(Dense(), aggregate="accumulate")
    order = [str(n.target) for n in module.graph.nodes if n.op == "call_module"]
    assert order.index("fuse.part1") < order.index("grow.2.part2")  # grow.0's share of the last sum comes early
    # The block's input lives on to its end, so that its share comes last and the sums begin no sooner than they must.
    assert order[-2:] == ["fuse.part0", "last"]


def test_sums_made_as_late_as_can_be_need_more() -> None:
    """Ablation: the same sums, with every term and sum directly in front of the first that reads it."""
    module, _, inputs = rewritten(Dense(16, 16, 4), aggregate="accumulate")
    late = copy.deepcopy(module)
    for node in reversed(list(late.graph.nodes)):
        if ".part" in str(node.target) or (node.name.startswith("add_tensor")):
            order = {other: i for i, other in enumerate(late.graph.nodes)}
            min(node.users, key=lambda user: order[user]).prepend(node)
    late.recompile()
    close(late(inputs[0]), module(inputs[0]))
    assert cost_of(late, inputs).peak_activation_bytes > cost_of(module, inputs).peak_activation_bytes


@pytest.mark.parametrize("net", [Dense(), Dense(growing=True), UNet(), Generator()])
def test_the_largest_of_the_live_bytes_is_the_counted_peak(net: nn.Module) -> None:
    module, inputs = traced(net, 1, 3, 16, 16)
    assert max(live_bytes(module, inputs).values()) == cost_of(module, inputs).peak_activation_bytes


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("reads", ["last", "input_and_last"])
def test_a_thinned_block_is_the_block_with_zeros_for_what_it_reads_no_more(reads: str, growing: bool) -> None:
    net = Dense(width=6, growth=5, count=4, growing=growing)
    module, plan, inputs = rewritten(net, aggregate="thin", thin_reads=reads)
    thinned = [site.place for site in plan.sites if site.form == "thin"]
    assert thinned == (["grow.1"] if reads == "last" else []) + ["grow.2", "grow.3"]
    assert "fuse" in [site.place for site in plan.sites if site.form == "accumulate"]
    for i in (1, 2, 3):
        weight = net.grow[i].weight.data
        weight[:, 6 : 6 + 5 * (i - 1)] = 0
        if reads == "last":
            weight[:, :6] = 0
    close(module(inputs[0]), net(inputs[0]))
    assert plan.after["macs"] < plan.before["macs"]
    _, exact, _ = rewritten(net, aggregate="accumulate")
    assert (
        plan.after["peak_activation_bytes"]
        < exact.after["peak_activation_bytes"]
        < exact.before["peak_activation_bytes"]
    )


def test_what_closes_no_block_is_not_thinned_and_says_so() -> None:
    _, plan, _ = rewritten(UNet(), aggregate="thin")
    assert [site.form for site in plan.sites] == ["accumulate"]
    assert "not thinned: no later convolution" in plan.sites[0].after


class Joined(nn.Module):
    """A convolution of a concatenation, at the end of which some function reads the concatenation too."""

    def __init__(self, function, groups: int = 1) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(3, 4, 3, 1, 1)
        self.join, self.function = nn.Conv2d(8, 8, 3, 1, 1, groups=groups), function

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.a(x), self.b(x)], 1)
        return self.function(self.join, both)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (Dense(16, 4, 4), "no fewer than"),  # sums of 16 channels weigh more than concatenations of 4
        (Joined(lambda join, both: join(both) + both), "no fewer than"),  # the concatenation stays anyway
        (Joined(lambda join, both: join(both), groups=2), "2 groups"),
        (Joined(lambda join, both: join(F.relu(join(both)))), "several places"),
    ],
)
def test_what_saves_nothing_stays_and_says_why(net: nn.Module, reason: str) -> None:
    module, plan, inputs = rewritten(net, aggregate="accumulate")
    assert not plan.done and reason in plan.sites[0].after
    torch.testing.assert_close(module(inputs[0]), net(inputs[0]))


def test_a_part_may_be_the_models_input() -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.join = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(14, 4, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.join(torch.cat([x, F.relu(self.a(x)), x], 1))

    net = Early()
    module, plan, inputs = rewritten(net, aggregate="accumulate")
    assert [site.form for site in plan.sites] == ["accumulate"]
    close(module(inputs[0]), net(inputs[0]))
