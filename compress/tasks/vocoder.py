"""Latents or spectrograms to sound: a vocoder, judged by the log-mel distance from the teacher's sound."""

from __future__ import annotations

from torch import Tensor

from compress.metrics import LogMel
from compress.tasks.imitation import Imitation, Inputs


class Vocoder(Imitation):
    """Feature frames (N, C, T) in, sound (N, 1, S) in [-1, 1] out; a lower distance is better, and 0 is the teacher's.

    Args:
        train, validation, test: see `Imitation`.
        sample_rate: samples per second of the sound.
        batch_size: see `Imitation`.
        log_mel: the spectrogram to judge on; by default `LogMel` at its own settings.
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
        sample_rate: int = 22050,
        batch_size: int = 16,
        log_mel: LogMel | None = None,
    ) -> None:
        super().__init__(train, validation, test, batch_size=batch_size)
        self.sample_rate = sample_rate
        self.log_mel = log_mel or LogMel(sample_rate)

    def compare(self, output: Tensor, reference: Tensor) -> Tensor:
        """The log-mel distance of each sound, in dB: (N,)."""
        return self.log_mel.distance_db(output, reference)

    def picture(self, output: Tensor) -> Tensor:
        """The log-mel spectrogram of one sound (1, S): low bands at the bottom, silence black, full scale white."""
        levels_BT = self.log_mel(output.unsqueeze(0))[0]
        light = 1 - levels_BT.flip(0) / self.log_mel.floor_db
        return light.clamp(0, 1).float().repeat_interleave(2, 1).expand(3, -1, -1)
