"""Samples that are a function of their number alone, and the generators that make them so.

What is drawn for sample 17 does not depend on the batch it stands in, on the samples before it or on the process: that
is what lets two runs, or two batch sizes, be compared sample by sample, and a teacher's answers be remembered.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def generator_of(*names: object) -> torch.Generator:
    """A generator seeded by the names alone; hashed, so that neighbouring numbers give unrelated streams."""
    digest = hashlib.sha256("/".join(str(name) for name in names).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True)
class Noise:
    """Standard normal latents of one shape, drawn when asked for: sample i of a stream is always the same."""

    shape: tuple[int, ...]
    count: int
    seed: int
    stream: str

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.randn(self.shape, generator=generator_of(self.seed, self.stream, _inside(index, self.count)))


@dataclass(frozen=True)
class AskedClasses:
    """The class that each latent is drawn for, one after the other, so that all are asked for equally often.

    Each is a one-hot row (classes,), or a class number where `one_hot` is False.
    """

    classes: int
    count: int
    one_hot: bool = True

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        number = torch.tensor(_inside(index, self.count) % self.classes)
        return torch.nn.functional.one_hot(number, self.classes).float() if self.one_hot else number


def _inside(index: int, count: int) -> int:
    if not 0 <= index < count:
        raise IndexError(f"sample {index} of {count}")
    return index
