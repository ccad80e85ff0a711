"""Sound at 8 kHz: steady tones and chirps with known pitch, and the log-mel frames a vocoder makes them from."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from compress.metrics import LogMel, MultiResolutionStft

SAMPLE_RATE = 8_000
SAMPLES = 2_048
HOP = 64
BANDS = 32
LOWEST_HZ, HIGHEST_HZ = 150.0, 600.0  # a chirp's third partial ends at 3,600 Hz, below half the rate
_HISS = 1e-3  # real sound is never silent between its harmonics, where logarithms would tell rounding errors apart
RESOLUTIONS = ((512, 300, 60), (1024, 600, 120), (256, 120, 25))  # (FFT, window, hop): half of those for 24 kHz


def tones(count: int, seed: int, chirps: bool = False) -> tuple[Tensor, Tensor]:
    """(sounds (N, 1, 2048) in [-1, 1], their pitch in Hz (N,)): a tone with two overtones at a random phase.

    Pitches are even in octaves from 150 to 600 Hz. A chirp rises by an octave from its pitch.
    """
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(count, generator=generator)
    pitch_hz = LOWEST_HZ * (HIGHEST_HZ / LOWEST_HZ) ** share
    phase, loudness = (
        torch.rand(count, generator=generator) * 2 * math.pi,
        0.4 + 0.4 * torch.rand(count, generator=generator),
    )
    time_s = torch.arange(SAMPLES) / SAMPLE_RATE
    length_s = SAMPLES / SAMPLE_RATE
    # The integral of pitch * 2^(t / length) for a chirp, of a constant pitch for a tone.
    cycles_S = length_s / math.log(2) * (2 ** (time_s / length_s) - 1) if chirps else time_s
    angle_NS = 2 * math.pi * pitch_hz[:, None] * cycles_S + phase[:, None]
    overtones = sum(angle_NS.mul(k).sin() * gain for k, gain in ((1, 1.0), (2, 0.3), (3, 0.15)))
    hiss_NS = _HISS * torch.randn(count, SAMPLES, generator=generator)
    return (loudness[:, None] * overtones / 1.45 + hiss_NS)[:, None], pitch_hz


@cache
def log_mel() -> LogMel:
    """The spectrogram of this bed: 32 bands up to 4 kHz, a frame every 64 samples."""
    return LogMel(SAMPLE_RATE, fft=256, hop=HOP, bands=BANDS, high_hz=SAMPLE_RATE / 2)


def frames(sounds_N1S: Tensor) -> Tensor:
    """Log-mel frames (N, 32, S / 64) around [-1, 1]: what a vocoder gets to see of a sound."""
    levels_NBT = log_mel()(sounds_N1S)[..., : sounds_N1S.shape[-1] // HOP]
    return (levels_NBT / 40 + 1).float()


@cache
def stft() -> MultiResolutionStft:
    """The multi-resolution STFT distance with windows for this rate."""
    return MultiResolutionStft(RESOLUTIONS)


def pitch_of(sounds_N1S: Tensor) -> Tensor:
    """The strongest frequency of each sound in Hz, (N,)."""
    window_S = torch.hann_window(sounds_N1S.shape[-1])
    power_NF = torch.fft.rfft(sounds_N1S[:, 0] * window_S).abs()
    return power_NF.argmax(1) * (SAMPLE_RATE / sounds_N1S.shape[-1])
