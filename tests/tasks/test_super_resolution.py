"""Super-resolution: judged by the real picture, on low-resolution pictures that never change for the same number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from compress.errors import DataError
from compress.metrics import psnr_db
from compress.tasks import Bicubic, Blind, Reference, SuperResolution, split_pictures

SMALL = torch.rand(7, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LARGE = F.interpolate(SMALL, scale_factor=4, mode="bicubic").clamp(0, 1)  # 48 x 48


def bicubic(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bicubic", antialias=True).clamp(0, 1)


def nearest(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def task_of(**settings: object) -> SuperResolution:
    return SuperResolution(LARGE, LARGE[:5], LARGE, scale=2, batch_size=3, **settings)


def test_quality_is_the_psnr_from_the_real_picture() -> None:
    task = task_of()
    small = torch.stack([Bicubic(2)(picture, torch.Generator()) for picture in LARGE])
    wanted = float(psnr_db(nearest(small), LARGE, 1.0).mean())
    found = task.quality(nearest)  # no teacher is needed
    assert found.value == pytest.approx(wanted, abs=1e-6) and (found.n, found.unit) == (7, "dB")
    assert found.interval is not None and found.interval[0] < wanted < found.interval[1]
    assert task.quality_name == "PSNR against the real picture" and task.higher_is_better
    assert (task.quality(bicubic).value or 0) > wanted + 3


def test_bicubic_is_always_a_reference() -> None:
    own = Reference.of(torch.nn.Upsample(scale_factor=2))
    task = task_of(references={"published": own})
    found = task.references()
    assert list(found) == ["bicubic", "published"] and found["published"] is own and own.module is not None
    batch = next(iter(task.batches("test")))
    assert torch.allclose(found["bicubic"].predict(*batch.inputs), bicubic(batch.inputs[0]), atol=1e-6)
    assert torch.equal(own.predict(*batch.inputs), nearest(batch.inputs[0]))
    signed = task_of(input_range=(-1.0, 2.0), data_range=2.0, lowest=-1.0)
    assert signed.quality(signed.references()["bicubic"].predict).value == pytest.approx(
        task.quality(bicubic).value, abs=1e-4
    )


def test_the_teacher_is_reported_beside() -> None:
    task = task_of()
    assert "PSNR against the teacher" not in task.more_qualities(nearest)
    found = task.with_teacher(nearest).more_qualities(nearest)
    assert found["PSNR against the teacher"].value == 100.0 and (found["SSIM"].value or 1) < 0.999
    with_distance = task_of(perceptual=lambda a, b: (a - b).abs().flatten(1).mean(1)).more_qualities(bicubic)
    assert set(with_distance) == {"SSIM", "LPIPS"}


def test_targets_are_the_real_pictures_in_the_outputs_range() -> None:
    stored = (LARGE * 255).round().to(torch.uint8)
    task = SuperResolution(stored, stored, stored, scale=2, data_range=2.0, lowest=-1.0, vary=False)
    batch = task.train_batch(torch.tensor([4, 1]), torch.Generator())
    assert torch.allclose(batch.target, stored[[4, 1]].float() / 255 * 2 - 1)
    assert batch.sample_ids is not None and batch.sample_ids.tolist() == [4, 1]
    assert task.labelled and float(task.loss(batch.target + 0.5, batch.target)) == pytest.approx(0.5)


def test_test_pictures_are_degraded_alike_whatever_the_batch() -> None:
    blind = Blind(2)
    task = task_of(degrade=blind)
    first = torch.cat([batch.inputs[0] for batch in task.batches("test")])
    task.batch_size = 5
    again = torch.cat([batch.inputs[0] for batch in task.batches("test")])
    assert torch.equal(first, again) and first.shape == (7, 3, 24, 24)
    other = torch.cat([batch.inputs[0] for batch in task_of(degrade=blind, seed=1).batches("test")])
    assert not torch.equal(first, other)
    validation = next(iter(task.batches("validation"))).inputs[0]
    assert not torch.equal(first[:5], validation)  # the same pictures, drawn for another split


def test_training_varies_small_and_large_together() -> None:
    task = task_of(crop=16)
    indices = torch.arange(7)
    batch = task.train_batch(indices, torch.Generator().manual_seed(3))
    assert batch.sample_ids is None
    assert batch.inputs[0].shape == (7, 3, 8, 8) and batch.target.shape == (7, 3, 16, 16)
    again = task.train_batch(indices, torch.Generator().manual_seed(3))
    other = task.train_batch(indices, torch.Generator().manual_seed(4))
    assert torch.equal(batch.target, again.target) and not torch.equal(batch.target, other.target)
    for small, large in zip(batch.inputs[0], batch.target, strict=True):
        assert torch.equal(Bicubic(2)(large, torch.Generator()), small)  # they belong together


def test_all_eight_positions_are_drawn() -> None:
    ramp = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4) / 16
    for pictures, positions in ((ramp, 8), (ramp[:, :, :2], 4)):
        task = SuperResolution(pictures, pictures, pictures, scale=2)
        drawn = task.train_batch(torch.zeros(80).long(), torch.Generator().manual_seed(0)).target[:, 0]
        assert len({tuple(picture.flatten().tolist()) for picture in drawn}) == positions


def test_tiles_of_a_folder_go_in_as_they_are(tmp_path: Path) -> None:
    for number, picture in enumerate(LARGE):
        pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{number}.png")
    splits = split_pictures(tmp_path, 16, shares=(1, 1, 1))
    task = SuperResolution(*splits, scale=2)
    assert task.train_size() == len(splits[0]) and task.example_inputs()[0].shape == (1, 3, 8, 8)
    assert (task.quality(bicubic).value or 0) > 25
    rows = task.samples({"student": nearest}, count=2)
    assert set(rows[0].outputs) == {"student", "the real picture"} and rows[0].image.shape == (3, 8, 8)
    shown = rows[1].outputs["the real picture"]
    assert isinstance(shown, Tensor) and torch.allclose(shown, splits[2][1] / 255)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="no 1/5 of its size"):
        SuperResolution(LARGE, LARGE, LARGE, scale=5)
    for settings in ({"crop": 64}, {"crop": 15}, {"crop": 16, "vary": False}):
        with pytest.raises(DataError, match=r"crop=\d+ needs vary=True"):
            task_of(**settings)
    with pytest.raises(DataError, match="leave augment out"):
        task_of(augment=lambda x, g: x)
