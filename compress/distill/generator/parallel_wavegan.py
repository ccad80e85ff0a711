"""Yamamoto et al. (2020, Parallel WaveGAN): sound is learned on spectrograms of several resolutions, then by a judge.

The spectrograms' phases are free: a sound a few samples late is as good. The discriminator begins late, once the
student makes sounds that are worth telling apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from compress.adversarial import AdversarySettings
from compress.distill.generator.base import GeneratorMethod, Options, Terms
from compress.metrics import MultiResolutionStft
from compress.metrics.stft import RESOLUTIONS
from compress.tasks import Task


@dataclass(frozen=True)
class ParallelWaveGanOptions(Options):
    """The paper's weights: 4 times the least-squares adversarial loss, from a quarter of the training on."""

    teacher: Terms = field(default_factory=lambda: Terms(pixel=0.0))
    stft: float = 1.0
    """The multi-resolution STFT distance to what the discriminator takes for real."""
    resolutions: tuple[tuple[int, int, int], ...] = RESOLUTIONS
    """(FFT, window, hop) of each spectrogram in samples; the default is for 24 kHz."""
    gan: float = 4.0
    gan_start: float = 0.25
    adversary: AdversarySettings = field(
        default_factory=lambda: AdversarySettings("dilated", loss="least_squares", penalty="none")
    )
    adversary_learning_rate: float = 5e-5


class ParallelWaveGan(GeneratorMethod):
    """The terms of `Options`, for students that make sound (N, 1, S)."""

    Options = ParallelWaveGanOptions
    options: ParallelWaveGanOptions

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        options: ParallelWaveGanOptions,
        task: Task,
    ) -> None:
        super().__init__(teacher, student, example_inputs, options, task)
        self.stft = MultiResolutionStft(options.resolutions)

    def output_terms(self, output: Tensor, wanted: Tensor, batch: Any) -> dict[str, Tensor]:
        """The distances of `Options`, with that of the spectrograms."""
        terms = super().output_terms(output, wanted, batch)
        distance_N = self.stft.to(output.device).distance(output, self.real(wanted, batch))
        terms["stft"] = self.options.stft * distance_N.mean()
        return terms
