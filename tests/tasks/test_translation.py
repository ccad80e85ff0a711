"""Translation with real pictures of the other kind, the choice of the quality, references and outputs out of range."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.errors import DataError, UnknownName
from compress.metrics import Features, Lpips
from compress.tasks import ImageToImage, PairedTranslation, Reference, UnpairedTranslation

IMAGES = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(0))
STORED = (IMAGES * 255).round().to(torch.uint8)
RIGHT = 255 - STORED  # the other kind: negatives


def negative(image: Tensor) -> Tensor:
    return 1 - image


def teacher(image: Tensor) -> Tensor:
    return (1 - image) * 0.9


def distance(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).abs().flatten(1).mean(1)


def paired(**settings: object) -> PairedTranslation:
    split = (STORED, RIGHT)
    return PairedTranslation(split, split, split, batch_size=4, **settings)


def test_the_quality_can_be_the_perceptual_distance() -> None:
    task = ImageToImage(IMAGES, IMAGES, IMAGES, perceptual=distance, quality="lpips").with_teacher(negative)
    found = task.quality(lambda x: 1 - x + 0.01)
    assert (task.quality_name, task.quality_unit, task.higher_is_better) == ("LPIPS against the teacher", "", False)
    assert 0.01 < (found.value or 0) <= 0.02 and task.quality(negative).value == 0.0
    assert set(task.more_qualities(negative)) == {"SSIM", "PSNR"}
    assert task.quality(lambda x: x * torch.nan).value == torch.inf  # the worst there is, never the best
    with pytest.raises(DataError, match="needs a perceptual distance"):
        ImageToImage(IMAGES, IMAGES, IMAGES, quality="lpips")
    with pytest.raises(UnknownName, match="unknown quality 'psrn'; did you mean psnr"):
        ImageToImage(IMAGES, IMAGES, IMAGES, quality="psrn")


def test_the_mean_has_an_interval_that_tells_samples_apart() -> None:
    task = ImageToImage(IMAGES, IMAGES, IMAGES).with_teacher(negative)
    low, high = task.quality(lambda x: 1 - x + 0.1).interval or (0, 0)
    assert high - low < 1e-3  # every sample is off by the same
    strength = torch.linspace(0.01, 0.5, 9).view(-1, 1, 1, 1)
    found = task.quality(lambda x: 1 - x + strength)
    low, high = found.interval or (0, 0)
    assert low < (found.value or 0) < high and high - low > 2


def test_the_photograph_itself_is_a_reference_where_shapes_agree() -> None:
    own = Reference.of(nn.Identity())
    task = ImageToImage(IMAGES, IMAGES, IMAGES, data_range=2.0, lowest=-1.0, references={"own": own})
    task.with_teacher(lambda x: 2 * x - 1)
    found = task.references()
    assert list(found) == ["the photograph itself", "own"]
    assert task.quality(found["the photograph itself"].predict).value == 100.0  # brought into the outputs' range
    assert list(task.with_teacher(lambda x: x.repeat_interleave(2, 2)).references()) == ["own"]


def test_outputs_out_of_range_are_counted_and_named() -> None:
    task = ImageToImage(IMAGES, IMAGES, IMAGES, batch_size=4).with_teacher(negative)
    name = "values outside [0, 1]"
    assert name not in task.more_qualities(negative) and name not in task.more_qualities(lambda x: 1 - x + 1e-6)

    def bright(x: Tensor) -> Tensor:
        y = negative(x).clone()
        y[:, 0, 0, :4] = 1.5
        return y

    found = task.more_qualities(bright)[name]
    assert found.value == pytest.approx(4 / (3 * 16 * 16)) and found.unit == "fraction" and found.n == 9
    assert "the teacher's own: 0.00%" in found.source
    assert task.more_qualities(lambda x: x * torch.nan)[name].value == 1.0
    unknown = ImageToImage(IMAGES, IMAGES, IMAGES, data_range=None).with_teacher(negative)
    assert set(unknown.more_qualities(bright)) == {"SSIM"}  # nobody said what the range is


def test_ids_are_there_where_inputs_never_change() -> None:
    indices = torch.tensor([5, 2])
    plain = ImageToImage(IMAGES, IMAGES, IMAGES).train_batch(indices, torch.Generator())
    assert plain.sample_ids is not None and torch.equal(plain.sample_ids, indices)
    turned = ImageToImage(IMAGES, IMAGES, IMAGES, augment=lambda x, g: x.flip(3))
    assert turned.train_batch(indices, torch.Generator()).sample_ids is None


def test_a_target_stays_with_its_input() -> None:
    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        turn = torch.rand(len(images), generator=generator) < 0.5
        return torch.where(turn.view(-1, 1, 1, 1), images.flip(3), images)

    task = paired(augment=augment, data_range=2.0, lowest=-1.0)
    indices = torch.arange(9)
    batch = task.train_batch(indices, torch.Generator().manual_seed(0))
    assert torch.allclose(batch.target, (1 - batch.inputs[0]) * 2 - 1, atol=1e-6)
    flipped = [torch.equal(x, y / 255) for x, y in zip(batch.inputs[0], STORED.flip(3), strict=True)]
    assert 0 < sum(flipped) < 9
    held = next(iter(task.batches("test")))
    assert held.target.shape == (4, 3, 16, 16) and task.labelled
    plain = paired().train_batch(indices, torch.Generator())
    assert plain.sample_ids is not None and torch.allclose(plain.target, RIGHT / 255)


def test_paired_quality_is_the_teachers_and_the_real_one_stands_beside() -> None:
    task = paired(perceptual=distance).with_teacher(teacher)
    assert task.quality(teacher).value == 100.0
    found = task.more_qualities(negative)
    real = {name: found[f"{name} against the real picture"].value for name in ("PSNR", "SSIM", "LPIPS")}
    assert real["PSNR"] == 100.0 and real["SSIM"] == pytest.approx(1.0) and real["LPIPS"] == pytest.approx(0, abs=1e-6)
    assert (found["LPIPS"].value or 0) > 0.01  # against the teacher, who is not right
    rows = task.samples({"student": teacher}, count=9)
    assert len(rows) == 9
    shown = rows[8].outputs["the real picture"]
    assert isinstance(shown, Tensor) and torch.allclose(shown, RIGHT[8] / 255)
    with pytest.raises(DataError, match="the validation split has 9 inputs but 3 targets"):
        PairedTranslation((STORED, RIGHT), (STORED, RIGHT[:3]), (STORED, RIGHT))


def test_unpaired_targets_are_drawn_by_the_generator() -> None:
    split = (STORED, RIGHT[:4])
    task = UnpairedTranslation(split, split, split)
    indices = torch.arange(9)
    first, again, other = (task.train_batch(indices, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first.target, again.target) and not torch.equal(first.target, other.target)
    assert torch.allclose(first.inputs[0], STORED / 255) and first.target.shape == (9, 3, 16, 16)
    known = (RIGHT[:4] / 255).flatten(1)
    drawn = [int((row == known).all(1).long().argmax()) for row in first.target.flatten(1)]
    assert all((known[number] == row).all() for number, row in zip(drawn, first.target.flatten(1), strict=True))
    assert len(set(drawn)) > 1 and not task.labelled


def test_unpaired_outputs_are_compared_with_the_second_kind_as_a_set() -> None:
    colours = Features("mean colours", lambda images: images.mean((2, 3)))
    split = (STORED, RIGHT)
    task = UnpairedTranslation(split, split, split, features=colours, batch_size=4).with_teacher(teacher)
    right, wrong = task.more_qualities(negative), task.more_qualities(lambda x: x * 0.3)
    name = "Fréchet distance on mean colours"
    assert right[name].value == pytest.approx(0, abs=1e-6) and (wrong[name].value or 0) > 0.1
    assert "9 pictures of the second kind" in right[name].source
    assert right["recall on mean colours"].value == 1.0 and wrong["recall on mean colours"].value == 0.0


def test_a_perceptual_network_can_be_trained_with() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 3, 11), (8, 8, 5), (8, 8, 3), (8, 8, 3), (8, 8, 3)]
    layers = [(0.1 * torch.randn(o, i, k, k, generator=generator), torch.ones(o)) for o, i, k in shapes]
    lpips = Lpips("alex", layers, [torch.ones(8)] * 5)
    images = torch.rand(2, 3, 32, 32, generator=generator)
    task = ImageToImage(images, images, images, perceptual=lpips)
    output = (images * 0.5 + 0.8).requires_grad_(True)  # in part above the range
    task.perceptual_loss(output, images).sum().backward()
    assert output.grad is not None and bool((output.grad[output > 1] != 0).any())
    maps = task.perceptual_features(images)
    assert len(maps) == 5 and maps[0].shape[:2] == (2, 8)
    with pytest.raises(DataError, match=r"teaches=, a compress\.metrics\.Lpips"):
        ImageToImage(images, images, images, perceptual=distance).perceptual_loss(output, images)
