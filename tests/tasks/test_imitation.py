"""Tasks that judge by the teacher's own output: every sample once, several inputs, and figures that mean something."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.errors import DataError
from compress.metrics import Features
from compress.tasks import Generation, ImageToImage, Vocoder

IMAGES = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NUMBERS = torch.arange(10.0)


def plain(image: Tensor) -> Tensor:
    return image * 0.5 + 0.25


def worse(image: Tensor) -> Tensor:
    """Off by 0.1 in every second sample of IMAGES, by 0.01 in the others."""
    where = torch.stack([(row == IMAGES).flatten(1).all(1).long().argmax() for row in image])
    off = torch.where(where % 2 == 0, 0.1, 0.01).view(-1, 1, 1, 1)
    return plain(image) + off


@pytest.mark.parametrize("size", [1, 3, 10, 64])
def test_quality_is_the_mean_over_samples_whatever_the_batch_size(size: int) -> None:
    task = ImageToImage(IMAGES, IMAGES, IMAGES, batch_size=size).with_teacher(plain)
    found = task.quality(worse)
    assert found.value == pytest.approx(30.0, abs=1e-3)  # 20 dB and 40 dB, five times each
    assert (found.n, found.unit, found.origin, task.higher_is_better) == (10, "dB", "measured", True)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_limit_counts_samples_and_not_batches(size: int) -> None:
    task = ImageToImage(IMAGES, IMAGES, IMAGES, batch_size=size).with_teacher(plain)
    found = task.quality(worse, limit=3)
    assert (found.n, found.value) == (3, pytest.approx((20 + 40 + 20) / 3, abs=1e-3))


def test_the_teacher_is_asked_once_for_each_sample() -> None:
    asked = []

    def teacher(image: Tensor) -> Tensor:
        asked.append(len(image))
        return plain(image)

    task = ImageToImage(IMAGES, IMAGES, IMAGES, batch_size=4).with_teacher(teacher)
    assert task.quality(plain, limit=4).value == 100.0 and asked == [4]
    task.quality(worse)
    task.more_qualities(worse)
    assert asked == [4, 4, 2]


def test_several_inputs_stay_together() -> None:
    data = (IMAGES, NUMBERS)
    task = ImageToImage(data, data, data, batch_size=3, prepare=lambda x: x + 1).with_teacher(lambda x, t: x)
    batch = task.train_batch(torch.tensor([7, 2]), torch.Generator())
    assert batch.inputs[1].tolist() == [7.0, 2.0] and torch.equal(batch.inputs[0], IMAGES[[7, 2]] + 1)
    assert [x.shape for x in task.example_inputs()] == [(1, 3, 16, 16), (1,)]
    # A model that mixes the numbers up is found out.
    numbered = task.with_teacher(lambda x, t: x + t.view(-1, 1, 1, 1))
    assert numbered.quality(lambda x, t: x + t.view(-1, 1, 1, 1)).value == 100.0
    assert (numbered.quality(lambda x, t: x + t.flip(0).view(-1, 1, 1, 1)).value or 0) < 50


def test_augmentation_follows_the_generator() -> None:
    task = ImageToImage(IMAGES, IMAGES, IMAGES, augment=lambda x, g: x + torch.rand(x.shape, generator=g))
    first, again, other = (task.train_batch(torch.arange(3), torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first.inputs[0], again.inputs[0]) and not torch.equal(first.inputs[0], other.inputs[0])


def test_a_range_that_nobody_knows_is_the_teachers() -> None:
    task = ImageToImage(IMAGES, IMAGES, IMAGES, data_range=None).with_teacher(lambda x: 10 * x)
    low, width = task.span()
    assert low == pytest.approx(10 * float(IMAGES.min())) and width == pytest.approx(
        10 * float(IMAGES.max() - IMAGES.min())
    )
    assert task.quality(lambda x: 10 * x + width / 10).value == pytest.approx(20.0, abs=1e-4)
    assert task.with_teacher(plain).span()[1] < 1  # another teacher, another range


def test_a_perceptual_distance_is_handed_pictures_in_its_own_range() -> None:
    seen = []

    def perceptual(a: Tensor, b: Tensor) -> Tensor:
        seen.append((float(a.min()), float(a.max())))
        return (a - b).abs().flatten(1).mean(1)

    task = ImageToImage(IMAGES, IMAGES, IMAGES, data_range=4.0, lowest=-2.0, perceptual=perceptual)
    found = task.with_teacher(lambda x: 4 * x - 2).more_qualities(lambda x: 4 * x - 2)
    assert set(found) == {"SSIM", "LPIPS"} and found["LPIPS"].value == 0.0
    assert found["SSIM"].value == pytest.approx(1.0)
    assert seen[0] == (pytest.approx(2 * float(IMAGES.min()) - 1), pytest.approx(2 * float(IMAGES.max()) - 1))


def test_samples_show_input_and_outputs_side_by_side() -> None:
    task = ImageToImage(IMAGES, IMAGES, IMAGES).with_teacher(plain)
    rows = task.samples({"teacher": plain, "grey": lambda x: x.mean(1, keepdim=True)}, count=2)
    assert len(rows) == 2 and torch.allclose(rows[1].image, IMAGES[1])
    assert torch.allclose(rows[1].outputs["teacher"], plain(IMAGES[1]))
    assert rows[0].outputs["grey"].shape == (3, 16, 16)


def test_a_generator_is_judged_as_a_distribution_too() -> None:
    latents = torch.randn(12, 3, 12, 12, generator=torch.Generator().manual_seed(4)).clamp(-3, 3) / 3
    colours = Features("mean colours", lambda images: images.mean((2, 3)))
    task = Generation(latents, latents, latents, batch_size=5, features=colours).with_teacher(lambda z: z)
    own, darker = task.more_qualities(lambda z: z), task.more_qualities(lambda z: (z - 0.4).clamp(-1, 1))
    name = "Fréchet distance on mean colours"
    assert own[name].value == pytest.approx(0.0, abs=1e-9) and own[name].n == 12
    assert (darker[name].value or 0) == pytest.approx(3 * 0.2**2, rel=0.35)  # three colours, 0.2 of [0, 1] darker
    # The same pictures for other latents: another answer to each, the same distribution.
    turned = task.more_qualities(lambda z: z.flip(3))
    assert turned[name].value == pytest.approx(0.0, abs=1e-9) and (task.quality(lambda z: z.flip(3)).value or 0) < 30
    against = Generation(latents, latents, latents, features=colours, real=torch.zeros(4, 3, 12, 12))
    assert "4 real images" in against.with_teacher(lambda z: z).more_qualities(lambda z: z)[name].source


def test_a_vocoder_is_better_where_the_distance_is_lower() -> None:
    latents = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))

    def sound(z: Tensor) -> Tensor:
        return 0.1 * z.repeat_interleave(128, 2).flatten(1).unsqueeze(1)

    task = Vocoder(latents, latents, latents, batch_size=3).with_teacher(sound)
    own, louder = task.quality(sound), task.quality(lambda z: 2 * sound(z))
    assert own.value == 0.0 and own.unit == "dB" and not task.higher_is_better
    assert 5.0 < (louder.value or 0) <= 6.03
    picture = task.samples({"teacher": sound}, count=1)[0].outputs["teacher"]
    assert isinstance(picture, Tensor) and picture.shape[:2] == (3, 80)
    assert 0 <= float(picture.min()) < float(picture.max()) <= 1


def test_splits_that_hold_nothing_or_do_not_match_are_refused() -> None:
    with pytest.raises(DataError, match="the test split holds no samples"):
        ImageToImage(IMAGES, IMAGES, IMAGES[:0])
    with pytest.raises(DataError, match=r"train split hold \[3, 10\] samples"):
        ImageToImage((IMAGES, NUMBERS[:3]), IMAGES, IMAGES)
    with pytest.raises(DataError, match="no teacher to compare with"):
        ImageToImage(IMAGES, IMAGES, IMAGES).quality(plain)


def test_the_teacher_is_not_asked_again_for_its_own_figures() -> None:
    asked = []

    def teacher(image: Tensor) -> Tensor:
        asked.append(len(image))
        return plain(image)

    task = ImageToImage(IMAGES, IMAGES, IMAGES, batch_size=4).with_teacher(teacher)
    assert task.quality(teacher).value == 100 and task.quality(teacher, limit=3).n == 3
    task.more_qualities(teacher)
    assert asked == [4, 4, 2]
    task.quality(lambda image: teacher(image))  # another function: nobody knows that it is the same
    assert sum(asked) == 20
