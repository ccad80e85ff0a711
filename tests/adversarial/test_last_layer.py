"""The direction has length 1, learns from the Wasserstein term alone, and leaves the logits what they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from compress.adversarial import LOSSES, SlicedHead, build, slice_heads
from compress.adversarial.last_layer import split_logits


@pytest.mark.parametrize("name", ["patch", "r3gan"])
def test_slicing_changes_no_logit(name: str) -> None:
    discriminator, x = build(name, 3, 32, 8), torch.randn(2, 3, 32, 32)
    before = discriminator(x)[0]
    slice_heads(discriminator)
    assert torch.allclose(discriminator(x)[0], before, atol=1e-5)
    function, direction = split_logits(discriminator, x)
    assert torch.allclose(function[0], before, atol=1e-5) and not torch.equal(function[0], direction[0])


def test_the_direction_has_length_one_wherever_training_takes_it() -> None:
    head, hidden = SlicedHead(nn.Linear(6, 1)), torch.randn(8, 6)
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    for _ in range(5):
        head.split(hidden)[1].sum().backward()
        optimizer.step()
        assert head.direction.norm().item() == pytest.approx(1, abs=1e-6)


def test_each_half_teaches_its_own_part() -> None:
    head, hidden = SlicedHead(nn.Linear(6, 1)), torch.randn(8, 6, requires_grad=True)
    function, direction = head.split(hidden)
    asked = [head.layer.weight, head.scale, head.offset, hidden]
    taught = [g is not None for g in torch.autograd.grad(function.sum(), asked, allow_unused=True)]
    assert taught == [False, True, True, True]
    taught = [g is not None for g in torch.autograd.grad(direction.sum(), asked, allow_unused=True)]
    assert taught == [True, False, False, False]


def test_the_direction_turns_to_where_the_sets_differ_most_even_where_the_loss_has_none_left() -> None:
    """Beyond the hinge's margin the plain head stops learning; the sliced one turns to the true difference."""
    difference = torch.tensor([1.0, 2.0, -2.0]) / 3
    real, fake = 5 * difference + 0.1 * torch.randn(200, 3), -5 * difference + 0.1 * torch.randn(200, 3)
    head = nn.Linear(3, 1, bias=False)
    head.weight.data = torch.tensor([[2.0, 1.0, 0.0]])
    hinge = LOSSES["hinge"]
    (slope,) = torch.autograd.grad(hinge.discriminator(head(real), head(fake)), head.weight)
    assert not slope.any()
    sliced = SlicedHead(head)
    optimizer = torch.optim.SGD(sliced.parameters(), lr=0.1)
    for _ in range(50):
        (real_function, real_direction), (fake_function, fake_direction) = sliced.split(real), sliced.split(fake)
        loss = hinge.discriminator(real_function, fake_function)
        loss = loss + LOSSES["wasserstein"].discriminator(real_direction, fake_direction)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (sliced.direction[0] @ difference).item() > 0.999


def test_a_norm_on_the_layer_is_taken_off_with_its_weight_kept() -> None:
    layer, hidden = spectral_norm(nn.Conv2d(4, 1, 3)).eval(), torch.randn(2, 4, 5, 5)
    before = layer(hidden)
    head = SlicedHead(layer)
    assert torch.allclose(head(hidden), before, atol=1e-5) and not hasattr(layer, "parametrizations")
