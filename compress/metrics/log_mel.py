"""How different two sounds are: the distance of their log-mel spectrograms, in dB.

Legend: N sounds, S samples, B mel bands, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.errors import DataError


class LogMel(nn.Module):
    """A log-mel spectrogram, and the distance of two sounds on it.

    The settings are those that HiFi-GAN (Kong et al., 2020) trains with at 22.05 kHz: 80 bands up to 8 kHz, a Hann
    window of 1,024 samples every 256. Levels are in dB below a full-scale sine; what is under `floor_db` counts as
    silence, or inaudible rounding noise in pauses would outweigh everything that can be heard.
    """

    window: Tensor
    filters_BF: Tensor

    def __init__(
        self,
        sample_rate: int = 22050,
        fft: int = 1024,
        hop: int = 256,
        bands: int = 80,
        high_hz: float = 8000.0,
        floor_db: float = -80.0,
    ) -> None:
        super().__init__()
        self.fft, self.hop, self.floor_db = fft, hop, floor_db
        self.register_buffer("window", torch.hann_window(fft, dtype=torch.float64))
        self.register_buffer("filters_BF", _filters(sample_rate, fft, bands, min(high_hz, sample_rate / 2)))

    @torch.no_grad()
    def forward(self, sound: Tensor) -> Tensor:
        """The levels (N, B, T) in dB of sounds (N, S) or (N, 1, S) in [-1, 1], T = S // hop + 1; float64.

        Raises:
            DataError: the sounds have another shape.
        """
        flat_NS = flat_sounds(sound)
        spectrum = torch.stft(
            flat_NS.double(), self.fft, self.hop, window=self.window, pad_mode="constant", return_complex=True
        )
        amplitude_NFT = spectrum.abs() * (2 / self.window.sum())  # of a full-scale sine: 1
        power_NBT = torch.einsum("bf,nft->nbt", self.filters_BF, amplitude_NFT.square())
        return 10 * torch.log10(power_NBT.clamp(min=10 ** (self.floor_db / 10)))

    def distance_db(self, output: Tensor, reference: Tensor) -> Tensor:
        """The log-mel distance of each pair of sounds: float64 (N,), 0 is equal.

        The root mean square over the bands of the levels' difference, averaged over frames. A sound that holds NaN or
        infinities gets the distance from silence to full scale.

        Raises:
            DataError: the shapes differ.
        """
        output_NS, reference_NS = sound_pair(output, reference)
        difference_NBT = self(output_NS) - self(reference_NS)
        distance_N = difference_NBT.square().mean(1).sqrt().mean(1)
        return torch.nan_to_num(distance_N, nan=-self.floor_db, posinf=-self.floor_db)


def sound_pair(output: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both sounds as (N, S).

    Raises:
        DataError: they are no sounds, or of different shape.
    """
    if output.shape != reference.shape:
        shapes = f"{tuple(output.shape)} and {tuple(reference.shape)}"
        raise DataError(f"two sounds of different shape cannot be compared: {shapes}")
    return flat_sounds(output), flat_sounds(reference)


def flat_sounds(sound: Tensor) -> Tensor:
    """Sounds (N, S) or (N, 1, S) as (N, S); raises DataError for another shape."""
    if sound.dim() == 3 and sound.shape[1] == 1:
        sound = sound[:, 0]
    if sound.dim() != 2:
        raise DataError(f"sounds come as (N, samples) or (N, 1, samples), not {tuple(sound.shape)}")
    return sound


def _filters(sample_rate: int, fft: int, bands: int, high_hz: float) -> Tensor:
    """Triangles of height 1, evenly spaced in mel (O'Shaughnessy, 1987), as weights of FFT bins: (B, fft // 2 + 1)."""
    top = 2595 * torch.log10(torch.tensor(1 + high_hz / 700, dtype=torch.float64))
    edges_hz = 700 * (10 ** (torch.linspace(0, 1, bands + 2, dtype=torch.float64) * top / 2595) - 1)
    bins_hz = torch.arange(fft // 2 + 1, dtype=torch.float64) * (sample_rate / fft)
    low, middle, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    return torch.minimum((bins_hz - low) / (middle - low), (high - bins_hz) / (high - middle)).clamp(min=0)
