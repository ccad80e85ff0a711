"""Texts as token numbers, the same as a well-kept library makes, and as rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.errors import DataError
from compress.tasks import Prompts
from compress.tasks.wordpiece import pieces

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
VOCABULARY = [
    *SPECIAL,
    "grin",
    "##ning",
    "face",
    "with",
    "big",
    "eyes",
    "a",
    "##b",
    "##c",
    "cafe",
    "!",
    "-",
    "$",
    "猫",
    "e",
]
TEXTS = [
    "Grinning face with BIG eyes!", "grin-ning", "café", "abc abd", "", "  spaces\tand\nlines ", "a" * 120, "$a",
    "猫face", "“quoted”", "naïve e\u0301", "x\u200by", "big " * 30,
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_those_of_the_library(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers comes with the diffusion extra")
    numbers = {piece: number for number, piece in enumerate(VOCABULARY)}
    known = tokenizers.BertWordPieceTokenizer(vocab=numbers, lowercase=True)
    known.enable_truncation(16)
    known.enable_padding(length=16, pad_id=0, pad_token="[PAD]")
    assert pieces(text, numbers, 16) == known.encode(text).ids


def test_rows_are_the_encoder_s_and_the_companion_is_given_single_texts() -> None:
    table = nn.Embedding(len(VOCABULARY), 3)

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = table

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.table(tokens).sum(1)

    prompts = Prompts(Sum(), VOCABULARY, 8, ["grin", "a face"])
    rows = prompts.rows(["face", "a b", "face"], batch_size=2)
    wanted = table.weight[2] + table.weight[6] + table.weight[3] + 5 * table.weight[0]  # padded to 8
    torch.testing.assert_close(rows[0], wanted.detach())
    torch.testing.assert_close(rows[0], rows[2])
    companion = prompts.companion()
    assert companion.name == "text_encoder" and [x.shape for (x,) in companion.examples] == [(1, 8), (1, 8)]
    assert prompts.manifest() == {"vocabulary": VOCABULARY, "length": 8}


def test_another_kind_of_vocabulary_is_refused() -> None:
    with pytest.raises(DataError, match=r"no \[CLS\]"):
        Prompts(nn.Identity(), ["[PAD]", "[UNK]", "a"], 8, [])
