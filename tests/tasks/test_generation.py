"""Generators without data: latents by number, and figures of sets beside those of single pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compress.metrics import Features
from compress.tasks import Generation, Reference

COLOURS = Features("mean colours", lambda images: images.mean((2, 3)))
SIDE = 12


def paint(colours: Tensor) -> Tensor:
    """Colours (N, 3) as plain pictures in [-1, 1] with a grain that SSIM can be taken of."""
    grain = torch.linspace(-0.1, 0.1, SIDE * SIDE).view(1, 1, SIDE, SIDE)
    return (colours.tanh().view(-1, 3, 1, 1) * 0.9 + grain).clamp(-1, 1)


def teacher(latents: Tensor) -> Tensor:
    return paint(latents)


def collapsed(latents: Tensor) -> Tensor:
    """Paints well, but half of all there is: no dark pictures."""
    return paint(latents.abs())


def of_class(latents: Tensor, classes: Tensor) -> Tensor:
    return paint(0.3 * latents + 2 * classes - 1)


def judge(images: Tensor) -> Tensor:
    """The strongest colour as the class."""
    return images.mean((2, 3))


def test_latents_are_a_function_of_seed_and_number_alone() -> None:
    task = Generation.from_noise(5, train_size=100, test_size=20, seed=3)
    task.batch_size = 7
    first = torch.cat([batch.inputs[0] for batch in task.batches("test")])
    task.batch_size = 20
    assert torch.equal(first, next(iter(task.batches("test"))).inputs[0]) and first.shape == (20, 5)
    longer = Generation.from_noise(5, train_size=3, test_size=400, seed=3)
    test = torch.cat([batch.inputs[0] for batch in longer.batches("test")])
    assert torch.equal(test[:20], first)  # asking for more moves none
    assert abs(float(test.mean())) < 0.1 and float(test.std()) == pytest.approx(1.0, abs=0.05)
    others = [
        next(iter(Generation.from_noise(5, test_size=20, seed=4).batches("test"))),
        next(iter(task.batches("validation"))),
        task.train_batch(torch.arange(20), torch.Generator()),
    ]
    assert all(not bool((batch.inputs[0][:16] == first[:16]).any()) for batch in others)
    ids = others[2].sample_ids
    assert ids is not None and torch.equal(ids, torch.arange(20)) and task.train_size() == 100
    assert Generation.from_noise((4, 2, 2), test_size=2).example_inputs()[0].shape == (1, 4, 2, 2)


def test_fresh_latents_are_others_in_every_epoch_and_the_same_after_a_resume() -> None:
    kept, fresh = (Generation.from_noise(5, train_size=40, test_size=8, seed=3, fresh=f) for f in (False, True))
    draws = [torch.Generator().manual_seed(number) for number in (0, 1, 0)]
    first, later, again = (fresh.train_batch(torch.arange(40), draw) for draw in draws)
    assert not bool((first.inputs[0] == later.inputs[0]).any()) and torch.equal(first.inputs[0], again.inputs[0])
    assert first.sample_ids is None  # what is seen once is not kept
    assert abs(float(first.inputs[0].std()) - 1) < 0.2
    old, new = (next(iter(task.batches("test"))).inputs[0] for task in (kept, fresh))
    assert torch.equal(old, new)


@pytest.mark.parametrize("one_hot", [True, False])
def test_classes_are_asked_for_equally_often(one_hot: bool) -> None:
    task = Generation.from_noise(3, classes=3, one_hot=one_hot, train_size=30, test_size=30)
    latents, asked = task.train_batch(torch.arange(30), torch.Generator()).inputs
    assert latents.shape == (30, 3) and asked.shape == ((30, 3) if one_hot else (30,))
    assert (asked.sum(0).tolist() if one_hot else asked.bincount().tolist()) == [10, 10, 10]


def test_a_student_that_draws_half_of_it_loses_recall_and_not_precision() -> None:
    task = Generation.from_noise(3, test_size=200, features=COLOURS, batch_size=50).with_teacher(teacher)
    own, half = task.more_qualities(teacher), task.more_qualities(collapsed)
    recall, precision, coverage = (f"{what} on mean colours" for what in ("recall", "precision", "coverage"))
    assert 0.8 < (own[recall].value or 0) < 1.0  # other latents: the teacher itself does not reach 1
    assert (half[recall].value or 1) < 0.4 * (own[recall].value or 0)
    assert (half[precision].value or 0) > 0.9 * (own[precision].value or 1)
    assert (half[coverage].value or 1) < 0.4 * (own[coverage].value or 0)
    assert f"the teacher's own: {own[recall].value:.3f}" in half[recall].source
    assert "200 other latents" in half[recall].source
    for figure in (half[recall], half["density on mean colours"], half["kernel distance on mean colours"]):
        low, high = figure.interval or (1, 0)
        assert figure.n == 200 and low <= (figure.value or 0) <= high


def test_distances_are_what_the_student_adds() -> None:
    task = Generation.from_noise(3, test_size=64, features=COLOURS).with_teacher(teacher)
    own, half = task.more_qualities(teacher), task.more_qualities(collapsed)
    for name in ("Fréchet distance on mean colours", "kernel distance on mean colours"):
        low, high = half[name].interval or (1, 0)
        assert (own[name].value or 0) < 1e-3 < (half[name].value or 0) and low < (half[name].value or 0) < high
        assert low > 1e-3  # the interval tells them apart


def test_real_images_take_the_teachers_place() -> None:
    real = paint(torch.randn(80, 3, generator=torch.Generator().manual_seed(9)).abs()) / 2 + 0.5
    task = Generation.from_noise(3, test_size=60, features=COLOURS, real=real).with_teacher(teacher)
    found = task.more_qualities(collapsed)
    assert "80 real images" in found["recall on mean colours"].source
    assert "the teacher's own" in found["precision on mean colours"].source
    own = task.more_qualities(teacher)
    name = "Fréchet distance on mean colours"
    assert (found[name].value or 1) < (own[name].value or 0)  # here the half is right


def test_what_the_rows_do_not_allow_is_unknown_with_the_reason() -> None:
    few = Generation.from_noise(3, test_size=3, features=COLOURS).with_teacher(teacher).more_qualities(teacher)
    assert few["recall on mean colours"].value is None and "at least" in few["recall on mean colours"].source
    assert few["Fréchet distance on mean colours"].interval is None  # a figure, but no halves to take
    broken = Generation.from_noise(3, test_size=20, features=COLOURS).with_teacher(teacher)
    found = broken.more_qualities(lambda z: teacher(z) * torch.nan)["kernel distance on mean colours"]
    assert found.value is None and "NaN" in found.source


@pytest.mark.parametrize("one_hot", [True, False])
def test_the_class_asked_for_is_looked_for(one_hot: bool) -> None:
    def model(latents: Tensor, asked: Tensor) -> Tensor:
        return of_class(latents, asked if one_hot else F.one_hot(asked, 3).float())

    task = Generation.from_noise(3, classes=3, one_hot=one_hot, test_size=60, classifier=judge).with_teacher(model)
    name = "pictures of the class asked for"
    found = task.more_qualities(model)[name]
    assert found.value == 1.0 and (found.n, found.unit) == (60, "fraction")
    deaf = task.more_qualities(lambda z, asked: model(z, asked.roll(1, 0) if one_hot else asked.roll(1)))[name]
    assert deaf.value is not None and deaf.value < 0.5 and deaf.interval is not None
    mixed = task.more_qualities(lambda z, asked: paint(z))[name]
    assert 0.15 < (mixed.value or 0) < 0.5  # by chance a third


def test_without_classes_the_teachers_are_looked_for() -> None:
    task = Generation.from_noise(3, test_size=60, classifier=judge).with_teacher(teacher)
    name = "pictures of the class in the teacher's"
    assert task.more_qualities(teacher)[name].value == 1.0
    assert (task.more_qualities(lambda z: teacher(z.flip(1)))[name].value or 1) < 0.7


def test_a_latent_is_no_reference() -> None:
    images = torch.rand(4, 3, SIDE, SIDE)
    task = Generation(images, images, images).with_teacher(lambda x: x)
    assert dict(task.references()) == {}
    own = Reference.of(torch.nn.Identity())
    assert Generation.from_noise(3, test_size=2, references={"published": own}).references() == {"published": own}


def test_another_teacher_has_other_rows() -> None:
    task = Generation.from_noise(3, test_size=40, features=COLOURS).with_teacher(teacher)
    name = "recall on mean colours"
    assert (task.more_qualities(teacher)[name].value or 0) > 0.5
    assert (task.with_teacher(lambda z: paint(z - 9)).more_qualities(teacher)[name].value or 0) < 0.5
