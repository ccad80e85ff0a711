"""The multi-resolution STFT distance: its formula by numpy, what a second resolution adds, and its gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.errors import DataError
from compress.metrics import MultiResolutionStft

FLOOR = 1e-7


def noise(seed: int, level: float = 0.1, count: int = 4000) -> Tensor:
    return level * torch.randn(2, 1, count, generator=torch.Generator().manual_seed(seed))


def magnitudes(sound: np.ndarray, fft: int, window: int, hop: int) -> np.ndarray:
    """Frames cut by hand: mirrored ends, Hann's window in the middle of the frame."""
    padded = np.pad(sound, fft // 2, mode="reflect")
    shape = np.zeros(fft)
    left = (fft - window) // 2
    shape[left : left + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    starts = range(0, len(padded) - fft + 1, hop)
    power = np.abs(np.stack([np.fft.rfft(padded[start : start + fft] * shape) for start in starts])) ** 2
    return np.sqrt(np.maximum(power, FLOOR))


def test_against_the_formula() -> None:
    output, reference = noise(0), noise(1, 0.2)
    found = MultiResolutionStft()(output, reference)
    for sample in range(2):
        parts = []
        for fft, window, hop in ((1024, 600, 120), (2048, 1200, 240), (512, 240, 50)):
            x, y = (magnitudes(s[sample, 0].double().numpy(), fft, window, hop) for s in (reference, output))
            parts.append(np.linalg.norm(x - y) / np.linalg.norm(x) + np.abs(np.log(x) - np.log(y)).mean())
        assert found[sample].item() == pytest.approx(float(np.mean(parts)), rel=1e-9)


def test_twice_as_loud_is_one_plus_log_two_away() -> None:
    sound = noise(0)
    assert MultiResolutionStft()(2 * sound, sound).tolist() == pytest.approx([1 + math.log(2)] * 2, abs=1e-3)
    assert MultiResolutionStft()(sound, sound).tolist() == [0.0, 0.0]


def test_it_bears_a_shift_that_a_distance_of_samples_does_not() -> None:
    time = torch.arange(8000) / 8000
    chirp = torch.sin(2 * math.pi * (200 * time + 900 * time**2)).view(1, 1, -1)
    late, other = chirp.roll(2), noise(0, 0.7, 8000)[:1]
    metric = MultiResolutionStft()
    assert float((late - chirp).abs().mean()) > 0.5 * float((other - chirp).abs().mean())
    assert float(metric(late, chirp)) < 0.2 * float(metric(other, chirp))


def test_a_second_resolution_sees_what_one_cannot() -> None:
    """Ablation: a burst that dies away and the same burst backwards have one spectrum in a frame that spans both."""
    burst = 0.5 * torch.exp(-torch.arange(400) / 60.0) * torch.sin(torch.arange(400) / 3.0)
    forwards, backwards = torch.zeros(1, 8192), torch.zeros(1, 8192)
    forwards[:, 2048:2448], backwards[:, 1649:2049] = burst, burst.flip(0)
    one, two = (2048, 2048, 2048), (512, 240, 50)
    assert float(MultiResolutionStft([one])(forwards, backwards)) < 1e-6
    assert float(MultiResolutionStft([one, two])(forwards, backwards)) > 0.3


def test_gradients_lead_to_the_reference() -> None:
    metric, reference = MultiResolutionStft(), noise(1)
    sound = noise(0).requires_grad_()
    before = metric(sound.detach(), reference)
    optimizer = torch.optim.Adam([sound], lr=5e-3)
    for _ in range(25):
        optimizer.zero_grad()
        metric.distance(sound, reference).sum().backward()
        optimizer.step()
    assert bool((metric(sound.detach(), reference) < 0.7 * before).all())
    assert sound.dtype == metric.distance(sound, reference).dtype == torch.float32


def test_gradients_are_finite_where_nothing_differs_and_none_where_all_is_silent() -> None:
    metric = MultiResolutionStft()
    for sound, reference in ((noise(0), noise(0)), (torch.zeros(2, 1, 4000), noise(0))):
        leaf = sound.clone().requires_grad_()
        metric.distance(leaf, reference).sum().backward()
        assert leaf.grad is not None and float(leaf.grad.abs().max()) == 0.0
    assert not metric(noise(0).requires_grad_(), noise(1)).requires_grad


def test_what_is_below_the_floor_is_silence() -> None:
    assert MultiResolutionStft()(noise(0, 1e-6), torch.zeros(2, 1, 4000)).tolist() == [0.0, 0.0]
    assert float(MultiResolutionStft()(torch.zeros(2, 1, 4000), noise(0)).min()) > 1.0


def test_a_broken_sound_shows() -> None:
    broken = noise(0)
    broken[0, 0, 100] = math.inf
    found = MultiResolutionStft()(broken, noise(1))
    assert math.isnan(found[0]) and math.isfinite(found[1])


def test_sounds_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match="different shape"):
        MultiResolutionStft()(noise(0), noise(0)[..., :2000])
    with pytest.raises(DataError, match="1025 samples or more, not 1000"):
        MultiResolutionStft()(noise(0, count=1000), noise(1, count=1000))
