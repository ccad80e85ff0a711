"""The HiFi-GAN vocoder of a Piper voice (see examples/parity/hifigan.py), four times as cheap.

It learns from the voice's own latents: sentences of words that the voice can say, put together at random. No recording
is needed. Judged by the log-mel distance from the teacher's sound and by the multi-resolution STFT distance.
"""

import torch
from torch import Tensor

from compress.tasks import Vocoder
from examples.parity import hifigan

WORDS, FRAMES = 8, 64
teacher = hifigan.teacher


def task(path: str = "", sentences: int = 400) -> Vocoder:
    """Windows of 64 frames (0.74 s) of the voice's own latents.

    The test sentences are written ones; the training's are put together of the words of others.
    """
    voice = hifigan.encoder(path)
    train = [hifigan.windows(voice, sentence, path, FRAMES) for sentence in shuffled(sentences)]
    written = [hifigan.windows(voice, sentence, path, FRAMES) for sentence in hifigan.SENTENCES]
    middle = len(written) // 2
    return Vocoder(
        torch.cat(train), torch.cat(written[:middle]), torch.cat(written[middle:]),
        sample_rate=hifigan.SAMPLE_RATE, batch_size=16,
    )  # fmt: skip


def shuffled(count: int) -> list[str]:
    """Sentences of words from the first half of the written ones, which train nothing else and test nothing."""
    written = hifigan.SENTENCES[: len(hifigan.SENTENCES) // 2]
    words = [word.strip(".,?") for sentence in written for word in sentence.split()]
    generator = torch.Generator().manual_seed(0)
    draws: Tensor = torch.randint(len(words), (count, WORDS), generator=generator)
    return [" ".join(words[int(number)] for number in row) + "." for row in draws]
