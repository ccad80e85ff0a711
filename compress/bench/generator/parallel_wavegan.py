"""Parallel WaveGAN: are spectrograms a better measure of sound to learn by than samples, and several than one?"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from compress.bench.beds import sounds
from compress.bench.beds.seeds import seeded
from compress.bench.case import Case
from compress.bench.train import distil
from compress.distill.generator import METHODS
from compress.students import ParallelWaveGan
from compress.tasks import Batch, Vocoder

_EPOCHS = 8
_SIZES = (128, 16, 32)


class _Real(Vocoder):
    """A vocoder task whose training batches have the real sounds as their target."""

    def __init__(self) -> None:
        self.pieces = [sounds.tones(count, seed)[0] for seed, count in enumerate(_SIZES)]
        frames = [sounds.frames(pieces) for pieces in self.pieces]
        super().__init__(*frames, sample_rate=sounds.SAMPLE_RATE, batch_size=16, log_mel=sounds.log_mel())

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        return replace(super().train_batch(indices, generator), target=self.pieces[0][indices])


@cache
def _task() -> _Real:
    return _Real()


def _student() -> ParallelWaveGan:
    return ParallelWaveGan(sounds.BANDS, (8, 8), 16, 6, 1)


def _distance(seed: int, options: dict[str, object]) -> float:
    """The multi-resolution STFT distance of test sounds from the real ones; nobody's teacher takes part."""
    with seeded(seed):
        nobody = _student()
    found = distil(
        METHODS["parallel_wavegan"],
        {"gan": 0.0, "real": "target", "resolutions": sounds.RESOLUTIONS, **options},
        nobody,
        _student,
        _task(),
        seed=seed,
        epochs=_EPOCHS,
    )
    with torch.no_grad():
        made = torch.cat([found(*batch.inputs) for batch in _task().batches("test")])
    return float(sounds.stft()(made, _task().pieces[2]).mean())


_SETTING = (
    f"A small WaveNet makes tones of their log-mel frames; {_EPOCHS} epochs of {_SIZES[0]} sounds of a quarter second"
)
CASES = (
    Case(
        method="pwg",
        name="spectrograms",
        question=f"{_SETTING}: learned by the STFT distance at three resolutions, against L1 of samples.",
        metric="multi-resolution STFT distance from the real sounds",
        unit="",
        higher_is_better=False,
        card="magnitudes are learned where phases cannot be known.",
        run=lambda seed: (_distance(seed, {}), _distance(seed, {"stft": 0.0, "target": {"pixel": 1.0}})),
    ),
    Case(
        method="pwg",
        name="several resolutions",
        question=f"{_SETTING}: learned by the STFT distance at three resolutions, against the longest alone.",
        metric="multi-resolution STFT distance from the real sounds",
        unit="",
        higher_is_better=False,
        card="one resolution leaves errors at the others.",
        run=lambda seed: (_distance(seed, {}), _distance(seed, {"resolutions": [max(sounds.RESOLUTIONS)]})),
    ),
)
