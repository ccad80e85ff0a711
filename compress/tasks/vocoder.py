"""Latents or spectrograms to sound: a vocoder, judged by the log-mel distance from the teacher's sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from compress.metrics import LogMel, MultiResolutionStft
from compress.tasks.base import Reference, Sample
from compress.tasks.imitation import Augment, Compare, Imitation, Inputs, Prepare


class Vocoder(Imitation):
    """Feature frames (N, C, T) in, sound (N, 1, S) in [-1, 1] out; a lower distance is better, and 0 is the teacher's.

    The multi-resolution STFT distance is reported beside it. Sounds of a folder become frames by
    `Vocoder(*split_sounds(...), prepare=spectrogram)`.

    Args:
        train, validation, test, prepare, augment: see `Imitation`.
        sample_rate: samples per second of the sound.
        batch_size: see `Imitation`.
        log_mel: the spectrogram to judge on; by default `LogMel` at its own settings.
        references: see `Imitation`.
    """

    quality_name = "log-mel distance from the teacher"
    quality_unit = "dB"
    higher_is_better = False

    def __init__(
        self,
        train: Inputs,
        validation: Inputs,
        test: Inputs,
        *,
        prepare: Prepare | None = None,
        augment: Augment | None = None,
        sample_rate: int = 22050,
        batch_size: int = 16,
        log_mel: LogMel | None = None,
        references: Mapping[str, Reference] | None = None,
    ) -> None:
        super().__init__(
            train, validation, test,
            prepare=prepare, augment=augment, batch_size=batch_size, references=references,
        )  # fmt: skip
        self.sample_rate = sample_rate
        self.log_mel = log_mel or LogMel(sample_rate)
        self.stft = MultiResolutionStft()

    def span(self) -> tuple[float, float]:
        """Full scale: what is beyond is clipped wherever it is played."""
        return -1.0, 2.0

    def output_range(self) -> tuple[float, float]:
        """Full scale."""
        return -1.0, 1.0

    def compare(self, output: Tensor, reference: Tensor) -> Tensor:
        """The log-mel distance of each sound, in dB: (N,)."""
        return self.log_mel.to(output.device).distance_db(output, reference)

    def more_comparisons(self) -> Mapping[str, tuple[str, Compare]]:
        """The multi-resolution STFT distance."""
        return {"multi-resolution STFT distance": ("", lambda a, b: self.stft.to(a.device)(a, b))}

    def perceptual_loss(self, output: Tensor, reference: Tensor) -> Tensor:
        """The multi-resolution STFT distance of each sound: (N,), differentiable."""
        return self.stft.to(output.device).distance(output, reference)

    def picture(self, output: Tensor) -> Tensor:
        """The log-mel spectrogram of one sound (1, S): low bands at the bottom, silence black, full scale white."""
        levels_BT = self.log_mel.to(output.device)(output.unsqueeze(0))[0]
        light = 1 - levels_BT.flip(0) / self.log_mel.floor_db
        return light.clamp(0, 1).float().repeat_interleave(2, 1).expand(3, -1, -1)

    def sample(self, inputs: tuple[Tensor, ...], wanted: Tensor, outputs: Mapping[str, Tensor]) -> Sample:
        """The spectrogram of each model's sound, and the sound itself to listen to."""
        sounds = {name: output.detach().reshape(-1).cpu() for name, output in outputs.items()}
        return replace(super().sample(inputs, wanted, outputs), sounds=sounds, sample_rate=self.sample_rate)
