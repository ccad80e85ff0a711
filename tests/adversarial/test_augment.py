"""Augmentations do what they say with the probability they say, pass gradients, and do not leak up to p = 0.8."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.adversarial import OPERATIONS, Augment
from compress.adversarial.controller import LEAK_FREE
from compress.errors import DataError, UnknownName


def images(count: int = 16, side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_probability_zero_changes_nothing_and_half_changes_some(name: str) -> None:
    x, augment = images(64), Augment([name])
    assert torch.equal(augment(x, 0.0), x)
    changed = (augment(x, 0.5) != x).flatten(1).any(1).float().mean().item()
    assert 0 < changed < 0.75


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_generator_decides_alone(name: str) -> None:
    x, augment = images(), Augment([name])
    first = augment(x, 0.7, torch.Generator().manual_seed(1))
    torch.manual_seed(99)
    assert torch.equal(augment(x, 0.7, torch.Generator().manual_seed(1)), first)


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    x = images(3, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: OPERATIONS[name](x, torch.Generator().manual_seed(5)), x, fast_mode=True)


def test_a_shifted_image_is_the_image_with_zeros_behind_it() -> None:
    x = images(200) + 5  # no zeros of its own
    moved = OPERATIONS["translation"](x, torch.Generator().manual_seed(0))
    found = set()
    for before, after in zip(x, moved, strict=True):
        fits = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(after, _shifted(before, down, right))
        ]
        assert len(fits) == 1
        found.add(fits[0])
    assert len(found) == 25  # an eighth of 16 pixels to either direction, all of them drawn


def _shifted(image: Tensor, down: int, right: int) -> Tensor:
    side = image.shape[1]
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    return padded[:, 2 - down : 2 - down + side, 2 - right : 2 - right + side]


def test_a_cut_is_a_rectangle_of_half_a_side() -> None:
    x = torch.ones(300, 1, 16, 16)
    gone = (OPERATIONS["cutout"](x) == 0).sum((1, 2, 3))
    assert gone.max().item() == 64 and gone.min().item() >= 16  # a quarter of it is left at a corner


def test_turns_and_mirrors_are_exact_and_equally_likely() -> None:
    x = images(1).expand(2000, -1, -1, -1)
    turned, flipped = OPERATIONS["rotation"](x), OPERATIONS["flip"](x)
    for quarter in range(4):
        share = (turned == torch.rot90(x, quarter, (2, 3))).flatten(1).all(1).float().mean().item()
        assert share == pytest.approx(0.25, abs=0.04)
    assert (flipped == x.flip(3)).flatten(1).all(1).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert OPERATIONS["rotation"](torch.rand(4, 1, 6, 8)).shape == (4, 1, 6, 8)


def orientations(x: Tensor) -> Tensor:
    """How often each of the four borders is the bright one."""
    borders = torch.stack([x[:, 0, 0].mean(1), x[:, 0, :, 0].mean(1), x[:, 0, -1].mean(1), x[:, 0, :, -1].mean(1)], 1)
    return torch.bincount(borders.argmax(1), minlength=4) / len(x)


def arrows(counts: Tensor) -> Tensor:
    """Images with a bright border, so many of each orientation."""
    arrow = torch.zeros(1, 1, 4, 4)
    arrow[:, :, 0] = 1
    turned = [torch.rot90(arrow, k, (2, 3)).expand(int(n), -1, -1, -1) for k, n in enumerate(counts)]
    return torch.cat(turned)


def learned_histogram(probability: float) -> Tensor:
    """The orientations of a generator that matches the augmented data after its own samples are augmented alike."""
    data, augment = arrows(torch.tensor([7000, 2000, 800, 200])), Augment(["rotation"])
    seen = orientations(augment(data, probability))
    mixing = torch.stack([orientations(augment(arrows(20_000 * row), probability)) for row in torch.eye(4)])
    logits = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(400):
        loss = -(seen * (logits.softmax(0) @ mixing).log()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits.detach().softmax(0)


def test_no_orientation_leaks_up_to_the_limit_and_all_do_at_one() -> None:
    data = torch.tensor([0.7, 0.2, 0.08, 0.02])
    for probability in (0.4, LEAK_FREE):
        assert (learned_histogram(probability) - data).abs().max().item() < 0.06
    assert (learned_histogram(1.0) - data).abs().max().item() > 0.3


def test_what_cannot_be_augmented_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean cutout"):
        Augment(["cutuot"])
    with pytest.raises(DataError, match=r"leave adversary\.augment out"):
        Augment(["colour"])(torch.zeros(2, 1, 100), 0.5)
