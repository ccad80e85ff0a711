"""ParallelWaveGan: the spectrograms' term, the late discriminator, several resolutions against one, and training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from compress.distill import Learner
from compress.distill.generator.parallel_wavegan import ParallelWaveGan
from compress.graph.trace import trace
from compress.metrics import LogMel
from compress.students import ParallelWaveGan as Student
from compress.tasks import Vocoder
from tests.distill.generator.small import same, state, taught

FRAMES = (torch.zeros(1, 4, 16),)
RESOLUTIONS = ((128, 64, 16), (64, 32, 8))
LIGHT = {"resolutions": RESOLUTIONS, "adversary": {"width": 8}}


class Oscillator(nn.Module):
    """Frames (N, 4, 16) to sound (N, 1, 256): two tones, as loud as the first two channels say on average."""

    def __init__(self) -> None:
        super().__init__()
        time = torch.arange(256) / 256
        tones = [(2 * math.pi * hertz * time).sin() for hertz in (16, 48)]
        self.register_buffer("tones", torch.stack(tones))

    def forward(self, frames: Tensor) -> Tensor:
        level = frames[:, :2].mean(2).sigmoid() * 0.4
        return (level[..., None] * self.tones).sum(1, keepdim=True)


def method(options: dict[str, Any] | None = None) -> tuple[ParallelWaveGan, fx.GraphModule]:
    """The method for a small WaveNet, and the WaveNet."""
    frames = torch.randn(48, 4, 16, generator=torch.Generator().manual_seed(0))
    teacher = trace(Oscillator().eval(), FRAMES)
    mel = LogMel(8_000, fft=128, hop=16, bands=8, high_hz=4_000.0)
    task = Vocoder(frames[:32], frames[32:40], frames[40:], sample_rate=8_000, batch_size=8, log_mel=mel)
    torch.manual_seed(0)
    student = trace(Student(4, (4, 4), 8, 4, 1).eval(), FRAMES)
    settings = ParallelWaveGan.options_from({**LIGHT, **(options or {})})
    return ParallelWaveGan(teacher, student, FRAMES, settings, task.with_teacher(teacher)), student


def batch(found: ParallelWaveGan, count: int = 8) -> Any:
    return found.task.train_batch(torch.arange(count), torch.Generator())


def test_its_terms_are_the_distance_on_spectrograms_and_four_times_the_judge_s() -> None:
    found, student = method({"gan_start": 0.0})
    learner, samples = Learner(student, found.extra), batch(found)
    terms = found.loss(learner, samples)
    assert set(terms) == {"stft", "gan"}
    output, wanted = student(*samples.inputs), found.reference(samples)
    assert terms["stft"].item() == pytest.approx(found.stft.distance(output, wanted).mean().item(), rel=1e-4)
    logits = found.adversary.discriminator(output)[0]
    assert terms["gan"].item() == pytest.approx(4 * (logits - 1).square().mean().item(), rel=1e-4)


def test_the_discriminator_starts_late(tmp_path: Path) -> None:
    found, student = method({"gan_start": 0.5})
    before = state(found.adversary.discriminator)
    result = taught(found, student, tmp_path, epochs=4)
    played = ["student.gan" in row for row in result.history]
    assert played == [False, False, True, True]
    assert [row.get("discriminator.waiting") for row in result.history[:2]] == [0.0, 0.0]
    assert not same(state(found.adversary.discriminator), before)


def test_until_then_it_stays_as_it_is(tmp_path: Path) -> None:
    found, student = method({"gan_start": 1.0})
    before = state(found.adversary.discriminator)
    taught(found, student, tmp_path, epochs=1)
    assert same(state(found.adversary.discriminator), before)


def test_a_shifted_sound_is_nearly_as_good_and_another_pitch_is_not() -> None:
    found, _ = method()
    sound = found.reference(batch(found))
    other = Oscillator()
    other.tones = other.tones.flip(1)[:, ::2].repeat(1, 2)  # an octave up
    wrong = other(*batch(found).inputs)
    shifted, off = (found.stft.distance(s, sound).mean() for s in (sound.roll(1, 2), wrong))
    assert float(shifted) < 0.25 * float(off)


def test_a_second_resolution_sees_what_one_cannot() -> None:
    """A click and the same click backwards in a frame have one spectrum; a shorter frame tells them apart."""
    click = 0.5 * torch.exp(-torch.arange(64.0) / 8)
    forwards, backwards = torch.zeros(1, 1, 512), torch.zeros(1, 1, 512)
    forwards[..., 128:192], backwards[..., 65:129] = click, click.flip(0)
    one, _ = method({"resolutions": ((128, 128, 128),)})
    two, _ = method({"resolutions": ((128, 128, 128), (32, 16, 4))})
    assert float(one.stft(forwards, backwards)) < 1e-6
    assert float(two.stft(forwards, backwards)) > 0.3


def test_it_learns_and_more_than_without_its_term(tmp_path: Path) -> None:
    def distance(weight: float) -> float:
        found, student = method({"stft": weight, "gan": 0.0})
        taught(found, student, tmp_path / str(weight), epochs=16, rate=1e-2)
        with torch.no_grad():
            return float(found.stft.distance(student(*batch(found).inputs), found.reference(batch(found))).mean())

    trained, untrained = distance(1.0), distance(0.0)
    assert trained < 0.7 * untrained
