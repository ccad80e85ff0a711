"""How different two sounds are on spectrograms of several resolutions: a figure, and a loss to train vocoders with.

Legend: N sounds, S samples, F frequencies, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.errors import DataError
from compress.metrics.log_mel import sound_pair

# (FFT, window, hop) in samples: Yamamoto et al. (2020), table 1, for 24 kHz.
RESOLUTIONS = ((1024, 600, 120), (2048, 1200, 240), (512, 240, 50))

# The power below which a bin counts as silent; sounds are in [-1, 1]. It keeps the logarithm finite and rounding noise
# in pauses from outweighing what is heard. A bin of the output below it gets no gradient.
FLOOR_POWER = 1e-7


class MultiResolutionStft(nn.Module):
    """The multi-resolution STFT distance of Parallel WaveGAN (Yamamoto et al., 2020); 0 is equal, it has no unit.

    At each resolution two parts are added: the spectral convergence | |X| - |Y| | / |X| in the Frobenius norm, and the
    mean absolute difference of the natural logarithms of the magnitudes; then the resolutions are averaged. X is the
    reference. Powers are clamped to `FLOOR_POWER` first: an output that is silent where the reference sounds is told
    apart, but gets no gradient there, so start no training from digital silence. Windows are Hann's; sounds are
    mirrored at their ends.

    Args:
        resolutions: (FFT, window, hop) of each, in samples; the default is for 24 kHz.
    """

    def __init__(self, resolutions: Sequence[tuple[int, int, int]] = RESOLUTIONS) -> None:
        super().__init__()
        self.resolutions = tuple(resolutions)
        for number, (_, window, _) in enumerate(self.resolutions):
            self.register_buffer(f"window_{number}", torch.hann_window(window, dtype=torch.float64))

    def distance(self, output: Tensor, reference: Tensor) -> Tensor:
        """The distance of each pair of sounds (N, S) or (N, 1, S) in [-1, 1]: (N,), differentiable.

        A sound that holds NaN or infinities is at NaN.

        Raises:
            DataError: the shapes differ, or the sounds are shorter than half the longest FFT.
        """
        output_NS, reference_NS = sound_pair(output, reference)
        shortest = max(fft for fft, _, _ in self.resolutions) // 2 + 1
        if output_NS.shape[1] < shortest:
            raise DataError(f"the STFT distance needs sounds of {shortest} samples or more, not {output_NS.shape[1]}")
        parts = [
            _one_distance(self._magnitudes(output_NS, number), self._magnitudes(reference_NS, number))
            for number in range(len(self.resolutions))
        ]
        return torch.stack(parts).mean(0)

    @torch.no_grad()
    def forward(self, output: Tensor, reference: Tensor) -> Tensor:
        """The distance of each pair of sounds, to measure with: float64 (N,), no gradients; see `distance`."""
        return self.distance(output.double(), reference.double())

    def _magnitudes(self, sound_NS: Tensor, number: int) -> Tensor:
        """The magnitudes (N, F, T) at one resolution, at least the root of the floor."""
        fft, window, hop = self.resolutions[number]
        shape = getattr(self, f"window_{number}").to(sound_NS.dtype)
        spectrum = torch.stft(sound_NS, fft, hop, window, shape, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square()).clamp(min=FLOOR_POWER).sqrt()


def _one_distance(output_NFT: Tensor, reference_NFT: Tensor) -> Tensor:
    """Spectral convergence plus log-magnitude distance of each sound: (N,)."""
    difference_N = torch.linalg.vector_norm(reference_NFT - output_NFT, dim=(1, 2))
    convergence_N = difference_N / torch.linalg.vector_norm(reference_NFT, dim=(1, 2))
    return convergence_N + (reference_NFT.log() - output_NFT.log()).abs().mean((1, 2))
