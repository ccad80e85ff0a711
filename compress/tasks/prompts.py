"""Texts as what a denoiser is asked for: a vocabulary, and a network that makes a row of numbers of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import DataError
from compress.tasks.base import Companion
from compress.tasks.wordpiece import FIRST, LAST, PAD, UNKNOWN, pieces


class Prompts:
    """Texts to condition rows.

    Args:
        encoder: token numbers (N, L), int64, to rows (N, K).
        vocabulary: the pieces, in the order of their numbers; BERT's special ones among them.
        length: L, what texts are cut or padded to.
        examples: texts that the encoder is calibrated and verified with when it is exported.
    """

    def __init__(self, encoder: nn.Module, vocabulary: Sequence[str], length: int, examples: Sequence[str]) -> None:
        self.numbers = {piece: number for number, piece in enumerate(vocabulary)}
        missing = [piece for piece in (PAD, UNKNOWN, FIRST, LAST) if piece not in self.numbers]
        if missing:
            raise DataError(f"the vocabulary has no {missing[0]}: it is not a BERT vocabulary")
        self.encoder, self.vocabulary, self.length = encoder.eval(), list(vocabulary), length
        self.examples = list(examples)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Token numbers (N, L)."""
        return torch.tensor([pieces(text, self.numbers, self.length) for text in texts])

    @torch.no_grad()
    def rows(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Condition rows (N, K)."""
        return torch.cat([self.encoder(part) for part in self.tokens(texts).split(batch_size)])

    def companion(self) -> Companion:
        """The encoder, as it is shipped."""
        return Companion("text_encoder", self.encoder, [(row[None],) for row in self.tokens(self.examples)])

    def manifest(self) -> dict[str, Any]:
        """What a runner needs to know of texts."""
        return {"vocabulary": self.vocabulary, "length": self.length}
