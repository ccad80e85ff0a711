"""The log-mel distance: loudness in dB, pitch in the right band, and silence that does not count."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from compress.errors import DataError
from compress.metrics import LogMel

RATE = 22050


def noise(level: float, seed: int = 0) -> Tensor:
    return level * torch.randn(2, 1, 8192, generator=torch.Generator().manual_seed(seed))


def sine(hz: float, count: int = 8192) -> Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(count) / RATE).view(1, 1, -1)


def test_twice_as_loud_is_six_decibels_away() -> None:
    metric = LogMel(high_hz=8000.0)
    lowest = metric.filters_BF.sum(1).argmin()  # narrow bands at the bottom may lie between two bins of the FFT
    heard = metric.filters_BF.sum(1) > 0
    share = float(heard.double().mean())
    distance = metric.distance_db(noise(0.2), noise(0.1))
    assert distance.tolist() == pytest.approx([20 * math.log10(2) * math.sqrt(share)] * 2, abs=1e-6)
    assert lowest < 10 and share > 0.9


def test_equal_sounds_have_no_distance_and_it_is_symmetric() -> None:
    metric = LogMel()
    assert metric.distance_db(noise(0.1), noise(0.1)).tolist() == [0.0, 0.0]
    one, other = noise(0.1), noise(0.3, seed=1)
    assert torch.equal(metric.distance_db(one, other), metric.distance_db(other, one))


def test_what_is_below_the_floor_is_silence() -> None:
    quiet, none = noise(1e-7), torch.zeros(2, 1, 8192)
    assert LogMel().distance_db(quiet, none).tolist() == [0.0, 0.0]
    assert LogMel(floor_db=-160.0).distance_db(quiet, none).min() > 1.0


@pytest.mark.parametrize("hz", [300.0, 1000.0, 5000.0])
def test_a_full_scale_sine_shows_at_its_pitch_near_zero(hz: float) -> None:
    metric = LogMel()
    levels_B = metric(sine(hz))[0, :, 8:-8].mean(1)
    edges = 700 * (10 ** (torch.linspace(0, 1, 82) * math.log10(1 + 8000 / 700)) - 1)
    nearest = int((edges[1:-1] - hz).abs().argmin())
    assert abs(int(levels_B.argmax()) - nearest) <= 1
    assert -3.0 < float(levels_B.max()) < 2.0


def test_a_broken_sound_is_as_far_as_it_can_be() -> None:
    broken = noise(0.1)
    broken[0, 0, 100] = math.nan
    found = LogMel().distance_db(broken, noise(0.1))
    assert found.tolist() == [80.0, 0.0]


def test_sounds_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match="different shape"):
        LogMel().distance_db(noise(0.1), noise(0.1)[:, :, :4096])
    with pytest.raises(DataError, match=r"not \(2, 2, 4096\)"):
        LogMel()(noise(0.1).view(2, 2, 4096))
