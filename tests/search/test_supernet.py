"""Subnets on shared weights are the nets that cutting makes, train only what they use, and are better for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import ModelError, UnknownName
from compress.graph.groups import Block, WidthModel
from compress.graph.surgery import apply_edits
from compress.search import shared
from compress.search.shared import SharedWeights
from compress.search.space import make_space
from compress.search.supernet import Remembering, Supernet, sandwich_loss
from compress.train.norms import recalibrate_norms
from compress.types import BlockEdit, ChannelEdit, KernelEdit, ResolutionEdit
from tests.search.nets import MODELS, SUPERNETS, supernet, traced


@dataclass(frozen=True)
class Pair:
    """What a task hands to a loss."""

    inputs: tuple[Tensor, ...]
    target: Tensor


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", SUPERNETS)
def test_every_sampled_subnet_is_the_net_that_cutting_makes(name: str) -> None:
    net = supernet(name).eval()
    generator, x = _seeded(), torch.randn(2, *MODELS[name][1])
    drawn = [net.sample("random", generator) for _ in range(8)] + [net.sample("smallest"), net.sample("largest")]
    assert len({subnet.edits for subnet in drawn}) == 10
    for subnet in drawn:
        cut = apply_edits(net.base, subnet.edits, net.example_inputs)  # raises if it is not the masked net
        torch.testing.assert_close(subnet(x), cut(x), atol=1e-5, rtol=1e-5)
        assert torch.equal(net.physical(subnet.edits)(x), cut(x))
    sizes = [sum(tensor.numel() for tensor in subnet.tensors().values()) for subnet in drawn]
    assert sizes[-2] == min(sizes) < max(sizes) == sizes[-1]
    torch.testing.assert_close(net.sample("largest")(x), net(x))


def test_resolution_goes_with_the_rest_and_the_order_of_channels_is_free() -> None:
    base, inputs = traced("large resnet")
    edits = (ResolutionEdit((8, 8), (16, 16)), ChannelEdit("block1.conv1", 16, (0, 3, 9)), KernelEdit("down", 1, 3))
    net = SharedWeights(base, inputs).eval()
    x = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(net.subnet(edits)(x), apply_edits(base, edits, inputs)(x), atol=1e-6, rtol=1e-5)


def test_the_smallest_subnet_loses_its_stream_too_when_all_blocks_are_gone() -> None:
    net = supernet("instance")
    smallest = net.sample("smallest")
    assert {edit.block for edit in smallest.edits if isinstance(edit, BlockEdit)} == {"add", "add_1"}
    assert smallest.tensors()["down.weight"].shape == (2, 2, 3, 3)


@pytest.mark.parametrize("norm", ["affine", "batch"])
def test_gradients_reach_the_used_elements_and_no_other(norm: str) -> None:
    net = supernet(norm).train()
    subnet = net.sample("random", _seeded(3))
    assert {type(edit) for edit in subnet.edits} == {BlockEdit, KernelEdit, ChannelEdit}
    subnet(torch.randn(4, 3, 8, 8)).square().mean().backward()
    for name, whole in net.base.named_parameters():
        used = torch.zeros_like(whole)
        if name in subnet.structure.picks:
            subnet.structure.part(name, used).fill_(1.0)  # views: it writes where the subnet reads
            assert whole.grad is not None
            assert not whole.grad[used == 0].any(), name
            assert whole.grad[used == 1].any(), name
        else:
            assert whole.grad is None


def test_a_step_of_the_smallest_moves_the_largest_and_what_it_does_not_use_stays() -> None:
    net = supernet("instance").train()
    x, before = torch.randn(2, 3, 8, 8), {name: p.detach().clone() for name, p in net.base.named_parameters()}
    said = net.sample("largest")(x).detach()
    net.sample("smallest")(x).square().mean().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert not torch.allclose(net.sample("largest")(x), said, atol=1e-4)
    first = net.base.get_submodule("first").weight
    assert not torch.equal(first[:2, :, 2:5, 2:5], before["first.weight"][:2, :, 2:5, 2:5])
    assert torch.equal(first[2:], before["first.weight"][2:])
    assert torch.equal(first[:, :, :2], before["first.weight"][:, :, :2])


def test_batch_statistics_are_a_rungs_own_or_nobodys() -> None:
    net = supernet("batch").train()
    mean = net.base.get_submodule("norm1").running_mean
    before = mean.clone()
    x = 3 * torch.randn(8, 3, 8, 8) + 1
    for _ in range(60):
        net.sample("smallest")(x)
        net.sample("random", _seeded(0))(x)
    assert torch.equal(mean, before)
    own = net.sample("smallest").tensors()["norm1.running_mean"]
    assert own.shape == (2,) and not torch.allclose(own, before[:2], atol=1e-3)
    net.sample("largest")(x)
    assert not torch.equal(mean, before)
    trained = net.sample("smallest")(x)
    net.eval()
    torch.testing.assert_close(net.sample("smallest")(x), trained, atol=0.05, rtol=0)  # its statistics are these by now
    torch.testing.assert_close(net.physical("smallest")(x), net.sample("smallest")(x), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(
        net.physical(net.edits("smallest"))(x), trained, atol=0.05
    )  # the whole network's do not fit


def test_a_subnet_without_a_name_is_recalibrated_once_it_is_cut_out() -> None:
    net = supernet("batch").train()
    subnet, x = net.sample("random", _seeded(1)), torch.randn(16, 3, 8, 8)
    seen = subnet(x)
    cut = net.physical(subnet.edits)
    assert not torch.allclose(cut(x), seen, atol=0.05)
    recalibrate_norms(cut, [Pair((x,), x)])
    torch.testing.assert_close(cut(x), seen, atol=0.01, rtol=0)


def test_a_saved_supernet_comes_back_with_its_rungs() -> None:
    net = supernet("batch").train()
    x = torch.randn(4, 3, 8, 8)
    net.sample("smallest")(x)
    again = supernet("batch")
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval().sample("smallest")(x), net.eval().sample("smallest")(x))


def test_few_structures_are_kept_and_a_forgotten_one_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "STRUCTURES_KEPT", 2)
    net = supernet("instance")
    edits = [(ChannelEdit("first", 8, tuple(range(k, 8))),) for k in (2, 4, 6)]
    first = net.subnet(edits[0]).structure
    assert net.subnet(edits[0]).structure is first
    for other in edits:
        net.subnet(other)
    assert len(net._structures) == 2
    again = net.subnet(edits[0]).structure
    assert again is first or again.picks.keys() == first.picks.keys()
    assert net.subnet(edits[2]).structure is not first


def test_edits_and_rungs_that_are_not_there_are_refused_by_name() -> None:
    net = supernet("instance")
    with pytest.raises(ModelError, match="cuts layer 'nowhere'"):
        net.subnet([ChannelEdit("nowhere", 8, (0,))])
    for ask in (net.rung, net.physical):
        with pytest.raises(UnknownName, match="unknown rung 'smalest'; did you mean smallest"):
            ask("smalest")


def test_a_sandwich_is_the_ends_and_the_generators_draws() -> None:
    net = supernet("instance")
    once, again, other = (net.sandwich(_seeded(seed), randoms=2) for seed in (5, 5, 6))
    assert [subnet.edits for subnet in once] == [subnet.edits for subnet in again]
    assert [subnet.edits for subnet in once] != [subnet.edits for subnet in other]
    assert (once[0].edits, once[-1].edits, len(once)) == ((), net.edits("smallest"), 4)


def test_imitation_moves_the_student_and_not_its_example() -> None:
    net = supernet("instance").train()
    batch = Pair((torch.randn(2, 3, 8, 8),), torch.zeros(2, 3, 16, 16))
    asked: list[int] = []

    def loss_of(subnet: Any, batch: Pair) -> dict[str, Tensor]:
        asked.append(1)
        return {"task": F.mse_loss(subnet(*batch.inputs), batch.target)}

    subnets = [net.sample("largest"), net.sample("smallest")]
    apart = F.mse_loss(subnets[1](*batch.inputs), subnets[0](*batch.inputs))
    terms = sandwich_loss(subnets, batch, loss_of, imitate=F.mse_loss)
    assert len(asked) == 1 and terms.keys() == {"task", "imitation"}
    torch.testing.assert_close(terms["imitation"], apart / 2)
    terms["imitation"].backward()
    assert not net.base.get_submodule("first").weight.grad[2:].any()  # only the largest uses these
    plain = sandwich_loss(subnets, batch, loss_of)
    alone = [F.mse_loss(subnet(*batch.inputs), batch.target) for subnet in subnets]
    assert plain.keys() == {"task"}
    torch.testing.assert_close(plain["task"], sum(alone) / 2)


def test_a_network_that_remembers_answers_once_for_the_same_tensors() -> None:
    asked: list[Tensor] = []

    def net(x: Tensor) -> Tensor:
        asked.append(x)
        return x + 1

    remembering, x = Remembering(net), torch.zeros(3)
    assert remembering(x) is remembering(x)
    assert remembering(x.clone()) is not remembering(x)
    assert len(asked) == 2


def _stripes(generator: torch.Generator) -> Pair:
    """Noisy images of stripes, lying or standing, wide or narrow: four classes."""
    kind = torch.randint(4, (32,), generator=generator)
    wave = torch.tensor([1.0, -1.0]).repeat(4), torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(2)
    images = torch.stack([wave[int(k) % 2].expand(8, 8) if k < 2 else wave[int(k) % 2].expand(8, 8).T for k in kind])
    return Pair((images[:, None] + torch.randn(32, 1, 8, 8, generator=generator),), kind)


def _classify(net: Any, batch: Pair) -> dict[str, Tensor]:
    return {"task": F.cross_entropy(net(*batch.inputs), batch.target)}


def _closeness(student: Tensor, example: Tensor) -> Tensor:
    return F.kl_div(student.log_softmax(1), example.softmax(1), reduction="batchmean")


def _trained(sandwich: bool, imitate: Any = None) -> list[float]:
    """The losses of the largest, three random and the smallest subnet (half as wide) after a short training."""
    base, inputs = traced("resnet")
    widths = {group.layer: tuple(range(8, group.width + 1, 2)) for group in WidthModel(base, inputs).free}
    net = Supernet(base, inputs, make_space(widths, (), (), "width")).train()
    generator, optimizer = _seeded(7), torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(40):
        subnets = net.sandwich(generator) if sandwich else [net.sample("largest")]
        terms = sandwich_loss(subnets, _stripes(generator), _classify, imitate)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    probe, drawn = _stripes(_seeded(9)), _seeded(8)
    judged = [net.sample("largest"), *(net.sample("random", drawn) for _ in range(3)), net.sample("smallest")]
    with torch.no_grad():
        return [float(_classify(subnet, probe)["task"]) for subnet in judged]


def test_sandwich_training_makes_small_subnets_good_at_no_cost_to_the_largest() -> None:
    alone = _trained(sandwich=False)
    for together in (_trained(sandwich=True), _trained(sandwich=True, imitate=_closeness)):
        assert all(shared < 0.5 * single for shared, single in zip(together[1:], alone[1:], strict=True))
        assert together[0] < alone[0] + 0.05


def test_a_space_takes_kernels_and_leaves_out_blocks_inside_removed_ones() -> None:
    blocks = [Block("outer", "x", ("a", "b", "c")), Block("inner", "y", ("b",))]
    space = make_space({"a": (4, 8)}, blocks, (), "width_depth_kernel", {"b": (3, 5), "d": (3, 5)}, {"a": ("c", "e")})
    assert space.size == 2 * 4 * 4
    scores = {"a": torch.arange(8, 0, -1.0)}
    choice = {"keep:outer": 0, "keep:inner": 0, "width:a": 4, "kernel:b": 3, "kernel:d": 3}
    cut = ChannelEdit("e", 8, (4, 5, 6, 7))
    assert space.edits(choice, scores) == (BlockEdit("outer"), KernelEdit("d", 3, 5), cut)
    kept = space.edits(choice | {"keep:outer": 1}, scores)
    assert kept == (BlockEdit("inner"), KernelEdit("d", 3, 5), ChannelEdit("a", 8, (4, 5, 6, 7)))
    assert space.uniform(0.5) == {"keep:outer": 1, "keep:inner": 1, "width:a": 0, "kernel:b": 1, "kernel:d": 1}
    assert len(space.seeds(100)) == space.size
