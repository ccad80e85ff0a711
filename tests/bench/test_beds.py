"""Digits, photographs, shapes and sounds: what the beds promise to the cases."""

from __future__ import annotations

import sys

import pytest
import torch

from compress.bench.beds import digits, photos, shapes, sounds
from compress.errors import ToolMissing


def test_the_classifier_reads_digits_it_never_saw() -> None:
    train, held_out = digits.digits()
    assert (len(train), len(held_out)) == (1_297, 500)
    for classifier in (digits.classifier(), digits.judge()):
        right = classifier(held_out.images).argmax(1) == held_out.classes
        assert right.double().mean() > 0.93
    assert not any(p.requires_grad for p in digits.classifier().parameters())


def test_real_digits_are_nearer_than_blurred_ones_and_these_than_noise() -> None:
    train, _ = digits.digits()
    real = train.images[: digits.HELD_OUT]
    blurred = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert digits.distance(real) < digits.distance(blurred) < digits.distance(noise)
    assert digits.fidelity_and_diversity(real)[0] > 0.7 > 0.1 > digits.fidelity_and_diversity(noise)[0]


def test_a_missing_scikit_learn_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for load in (digits.digits, photos.photos):
        with pytest.raises(ToolMissing, match=r"scikit-learn.*\[examples\]"):
            load.__wrapped__()


def test_no_crop_is_in_two_splits_and_bicubic_beats_nearest() -> None:
    splits = photos.photos()
    assert all(split.shape[1:] == (3, 32, 32) and len(split) > 30 for split in splits)
    rows = torch.cat(splits).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)
    assert photos.psnr_of(photos.bicubic) > photos.psnr_of(lambda x: torch.nn.functional.interpolate(x, scale_factor=2))


def test_an_outline_decides_its_filled_shape() -> None:
    outlines, filled, kinds = shapes.draw(60, 5)
    assert kinds.unique().tolist() == [0, 1, 2]
    assert torch.equal(shapes.kinds_seen(filled * 2 - 1), kinds)
    again, _, _ = shapes.draw(60, 5)
    assert torch.equal(outlines, again) and not torch.equal(outlines, shapes.draw(60, 6)[0])
    assert outlines.min() >= 0 and outlines.max() <= 1


def test_recolouring_swaps_red_and_blue_and_pairs_nothing() -> None:
    task = shapes.recolouring()
    batch = task.train_batch(torch.arange(16), torch.Generator().manual_seed(0))
    assert batch.inputs[0].shape == batch.target.shape
    assert not torch.allclose(batch.inputs[0].flip(1), batch.target)


def test_the_teacher_fills_outlines_it_never_saw() -> None:
    blank = shapes.filling_error(lambda x: torch.full_like(x, -0.8))
    teacher = shapes.filling_teacher()
    assert shapes.filling_error(teacher) < blank / 3
    outlines, _, kinds = shapes.draw(64, 2)
    assert (shapes.kinds_seen(teacher(outlines * 2 - 1)) == kinds).double().mean() > 0.9


@pytest.mark.parametrize("chirps", [False, True])
def test_a_tone_has_its_pitch_and_a_chirp_rises_by_an_octave(chirps: bool) -> None:
    sound, pitch_hz = sounds.tones(16, 0, chirps)
    assert sound.shape == (16, 1, sounds.SAMPLES) and sound.abs().max() <= 1
    part = sounds.SAMPLES // 8
    bin_hz = sounds.SAMPLE_RATE / part
    first, last = sounds.pitch_of(sound[..., :part]), sounds.pitch_of(sound[..., -part:])
    expected = pitch_hz * 2 ** (15 / 16) if chirps else pitch_hz
    assert (first / (pitch_hz * (2 ** (1 / 16) if chirps else 1)) - 1).abs().mul(pitch_hz).max() < 1.5 * bin_hz
    assert (last - expected).abs().max() < 1.5 * bin_hz


def test_frames_have_one_column_per_hop() -> None:
    sound, _ = sounds.tones(2, 0)
    assert sounds.frames(sound).shape == (2, sounds.BANDS, sounds.SAMPLES // sounds.HOP)
