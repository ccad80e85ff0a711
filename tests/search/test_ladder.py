"""Rungs share their leading channels, keep their own norms, learn from the next wider one, and are what is cut out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import InputError, ModelError
from compress.graph.groups import WidthModel
from compress.graph.trace import trace
from compress.search.ladder import Ladder, ladder_loss, norm_scales, uniform
from tests.search.nets import MODELS, traced


@dataclass(frozen=True)
class Noise:
    """A batch of what a generator starts from, and what should come of it."""

    inputs: tuple[Tensor, ...]
    target: Tensor


def _ladder(name: str = "batch", **more: Any) -> Ladder:
    base, inputs = traced(name)
    return Ladder(base, inputs, **more)


def _noise(generator: torch.Generator) -> Noise:
    x = torch.randn(4, 3, 8, 8, generator=generator)
    return Noise((x,), F.interpolate(x.sign(), scale_factor=2))


def _loss_of(net: Any, batch: Noise) -> dict[str, Tensor]:
    return {"task": F.mse_loss(net(*batch.inputs), batch.target)}


@pytest.mark.parametrize("name", ["resnet", "affine", "batch"])
def test_a_trained_rung_is_what_is_cut_out(name: str) -> None:
    ladder = _ladder(name).train()
    x = torch.randn(8, *MODELS[name][1])
    optimizer = torch.optim.Adam(ladder.parameters(), 1e-2)
    for _ in range(5):
        sum(ladder.rung(i)(x).square().mean() for i in range(4)).backward()  # type: ignore[union-attr]
        optimizer.step()
    ladder.eval()
    sizes = []
    for i in range(4):
        cut = ladder.physical(i)
        torch.testing.assert_close(cut(x), ladder.rung(i)(x), atol=1e-6, rtol=1e-6)
        assert torch.equal(ladder.rung(("0.25", "0.5", "0.75", "1")[i])(x), ladder.rung(i)(x))
        sizes.append(sum(p.numel() for p in cut.parameters()))
    assert sizes == sorted(set(sizes))
    assert torch.equal(ladder(x), ladder.rung(3)(x))


def test_all_rungs_together_are_hardly_larger_than_the_widest() -> None:
    ladder = _ladder("resnet")
    widest = sum(p.numel() for p in ladder.physical(3).parameters())
    assert widest < sum(p.numel() for p in ladder.parameters()) <= 1.05 * widest


def test_widths_are_shares_of_every_free_group_in_multiples() -> None:
    base, inputs = traced("resnet")
    free = WidthModel(base, inputs).free
    for multiple in (1, 4):
        ladder = Ladder(base, inputs, multiple=multiple)
        for i, share in enumerate(ladder.shares):
            cut = ladder.physical(i)
            for group in free:
                width = cut.get_submodule(group.layer).out_channels
                assert width % multiple == 0 and abs(width - share * group.width) <= multiple / 2
    assert [len(edit.remove) for edit in uniform(free, 0.01, 8)] == [group.width - 8 for group in free]


def test_a_leading_channel_is_in_all_rungs_and_a_trailing_one_in_the_widest_alone() -> None:
    ladder, x = _ladder("instance").eval(), torch.randn(2, 3, 8, 8)
    before = [ladder.rung(i)(x) for i in range(4)]
    weight = ladder.base.get_submodule("first").weight

    def moved() -> list[bool]:
        return [not torch.equal(ladder.rung(i)(x), before[i]) for i in range(4)]

    with torch.no_grad():
        weight[-1] += torch.randn_like(weight[-1])
        assert moved() == [False, False, False, True]
        weight[0] += torch.randn_like(weight[0])
        assert moved() == [True, True, True, True]


@pytest.mark.parametrize("name", ["affine", "batch"])
def test_norms_are_each_rungs_own(name: str) -> None:
    ladder, x = _ladder(name), torch.randn(4, 3, 8, 8)
    assert {"norm1.weight", "norm1.bias", "blocks.1.norm2.bias"} <= set(norm_scales(ladder.base))
    ladder.train()
    before = [ladder.rung(i)(x) for i in range(4)]
    with torch.no_grad():
        ladder.rung(1).tensors()["norm3.weight"].mul_(3.0)
    after = [ladder.rung(i)(x) for i in range(4)]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True, True]
    ladder.rung(0)(x).square().mean().backward()
    assert ladder.rung(0).tensors()["norm1.weight"].grad.any()
    assert ladder.base.get_parameter("norm1.weight").grad is None
    assert ladder.base.get_parameter("first.weight").grad.any()


def test_statistics_of_one_rung_do_not_serve_another() -> None:
    ladder = _ladder("batch").train()
    x = torch.randn(16, 3, 8, 8)
    with torch.no_grad():
        for _ in range(60):
            trained = [ladder.rung(i)(x) for i in range(4)]
        ladder.eval()
        own = [float(F.mse_loss(ladder.rung(i)(x), trained[i])) for i in range(4)]
        stranger = ladder.subnet(ladder.rungs["0.25"])  # the same scales so far, the whole network's statistics
        assert 10 * max(own) < F.mse_loss(stranger(x), trained[0])


def test_each_rung_learns_from_the_next_wider_one_which_is_held_fixed() -> None:
    ladder = _ladder("batch", shares=(0.5, 1.0)).train()
    batch = _noise(torch.Generator().manual_seed(1))
    narrow, wide = (ladder.rung(i)(*batch.inputs).detach() for i in range(2))
    terms = ladder_loss(ladder, batch, _loss_of, alpha=20.0)
    torch.testing.assert_close(terms["stepwise"], 20 * F.mse_loss(narrow, wide) / 2)
    torch.testing.assert_close(terms["task"], (F.mse_loss(narrow, batch.target) + F.mse_loss(wide, batch.target)) / 2)
    terms["stepwise"].backward()
    weight = ladder.base.get_parameter("first.weight")
    assert weight.grad[:4].any() and not weight.grad[4:].any()
    assert ladder_loss(ladder, batch, _loss_of, alpha=0.0).keys() == {"task"}


def _white(net: Any, batch: Noise) -> dict[str, Tensor]:
    """A task that, as a discriminator's, asks for a distribution: any rotation of white colours answers it."""
    colours = net(*batch.inputs).movedim(1, 0).flatten(1)
    covariance = colours @ colours.T / colours.shape[1]
    return {"task": F.mse_loss(covariance, torch.eye(3)) + colours.mean(1).square().mean()}


def test_distillation_makes_rungs_agree_that_are_free_to_differ_at_no_cost_to_the_task() -> None:
    probe = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(6))
    apart, missed = {}, {}
    for alpha in (0.0, 1.0):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 16, 4, 2, 1)]
        model = nn.Sequential(*layers, nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 3, 3, 1, 1))
        ladder = Ladder(trace(model, (probe[:1],)), (probe[:1],)).train()
        generator, optimizer = torch.Generator().manual_seed(5), torch.optim.Adam(ladder.parameters(), 3e-3)
        for _ in range(80):
            batch = Noise((torch.randn(16, 3, 8, 8, generator=generator),), probe)
            optimizer.zero_grad()
            torch.stack(list(ladder_loss(ladder, batch, _white, alpha).values())).sum().backward()
            optimizer.step()
        with torch.no_grad():
            apart[alpha] = float(F.mse_loss(ladder.rung(0)(probe), ladder.rung(3)(probe)))
            missed[alpha] = max(float(_white(ladder.rung(i), Noise((probe,), probe))["task"]) for i in range(4))
    assert apart[1.0] < 0.5 * apart[0.0]
    assert max(missed.values()) < 0.02


@pytest.mark.parametrize("shares", [(), (0.5, 0.25, 1.0), (0.5, 0.75), (0.0, 1.0), (0.5, 0.5, 1.0)])
def test_widths_that_are_no_ladder_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="rise from above 0 to 1"):
        _ladder("batch", shares=shares)


def test_a_network_that_cannot_be_narrowed_is_refused_with_the_reason() -> None:
    x = torch.randn(1, 3, 8, 8)
    model = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 3, 3)), (x,))
    with pytest.raises(ModelError, match=r"cannot be a ladder \(1 \(GroupNorm\) normalizes over"):
        Ladder(model, (x,))
