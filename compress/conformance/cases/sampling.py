"""Sampling at computed places, and the transforms of sound written as convolutions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.conformance.case import DIFFUSION, GENERATOR, IMAGE, VISION, VOCODER, Case, Made, bare, case

_GRID = (1, 10, 9, 2)
_WAVE = (1, 1, 256)


def _grid(name: str, mode: str, padding_mode: str, align_corners: bool) -> Case:
    """Places are up to twice as far out as the border, so that the padding shows."""
    return case(
        name,
        lambda x, places: F.grid_sample(x, places, mode, padding_mode, align_corners),
        IMAGE,
        _GRID,
        kinds=(GENERATOR, VISION),
    )


class Warp(nn.Module):
    """An affine map's grid and the samples on it (spatial transformer, Jaderberg et al., 2015)."""

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        """X (1, 8, H, W), theta (1, 2, 3) -> (1, 8, H, W)."""
        grid = F.affine_grid(theta, [x.shape[0], 8, 12, 12], align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)


class Spectrum(nn.Module):
    """The magnitudes of a short-time Fourier transform: a strided convolution with windowed waves."""

    def __init__(self, size: int = 32, hop: int = 8) -> None:
        super().__init__()
        self.transform = nn.Conv1d(1, size + 2, size, stride=hop, bias=False)
        angle = 2 * math.pi / size * torch.outer(torch.arange(size // 2 + 1.0), torch.arange(float(size)))
        waves = torch.cat([angle.cos(), angle.sin()]) * torch.hann_window(size)
        self.transform.weight = nn.Parameter(waves[:, None])
        self.pad, self.bins = size // 2, size // 2 + 1

    def forward(self, wave: Tensor) -> Tensor:
        """Wave (1, 1, samples) -> magnitudes (1, bins, frames)."""
        both = self.transform(F.pad(wave, (self.pad, self.pad), mode="reflect"))
        real, imaginary = both[:, : self.bins], both[:, self.bins :]
        return torch.sqrt(real.square() + imaginary.square() + 1e-6)


class Mel(nn.Module):
    """Log-mel frames: the spectrum, a constant filter bank, a clamp and a logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = Spectrum()
        self.register_buffer("bank", torch.rand(8, 17))

    def forward(self, wave: Tensor) -> Tensor:
        """Wave (1, 1, samples) -> (1, 8, frames)."""
        return torch.log(torch.matmul(self.get_buffer("bank"), self.spectrum(wave)).clamp(min=1e-5))


class Inverse(nn.Module):
    """The inverse short-time Fourier transform: a transposed convolution over magnitude and phase (iSTFTNet)."""

    def __init__(self, size: int = 16, hop: int = 4) -> None:
        super().__init__()
        self.transform = nn.ConvTranspose1d(size + 2, 1, size, stride=hop, padding=size // 2, bias=False)
        self.bins = size // 2 + 1

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (1, 18, L) -> wave (1, 1, samples)."""
        magnitude, phase = torch.exp(frames[:, : self.bins].clamp(max=2.0)), frames[:, self.bins :]
        wave: Tensor = self.transform(torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], 1))
        return wave


class Fourier(nn.Module):
    """torch.stft itself, with its complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 1, 1)
        self.register_buffer("window", torch.hann_window(32))

    def forward(self, wave: Tensor) -> Tensor:
        """Wave (1, 1, samples) -> magnitudes (1, 17, frames)."""
        window = self.get_buffer("window")
        return torch.stft(self.stem(wave).squeeze(1), 32, 8, window=window, return_complex=True).abs()


CASES = (
    _grid("grid_sample", "bilinear", "zeros", False),
    _grid("grid_sample_aligned", "bilinear", "zeros", True),
    _grid("grid_sample_border", "bilinear", "border", False),
    _grid("grid_sample_reflection", "bilinear", "reflection", False),
    _grid("grid_sample_nearest", "nearest", "zeros", False),
    _grid("grid_sample_bicubic", "bicubic", "zeros", False),
    case("affine_warp", Made(Warp), IMAGE, (1, 2, 3), kinds=(GENERATOR, VISION)),
    bare("stft_by_convolution", Spectrum, _WAVE, kinds=(VOCODER,)),
    bare("mel_by_convolution", Mel, _WAVE, kinds=(VOCODER,)),
    bare("istft_by_convolution", Inverse, (1, 18, 12), kinds=(VOCODER,)),
    bare("stft", Fourier, _WAVE, kinds=(VOCODER, DIFFUSION)),
)
