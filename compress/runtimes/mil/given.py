"""What an operation's arguments say: tensors of the program, or the default of the parameter, as plain numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def ints(value: Any) -> list[int]:
    """A list of whole numbers from a vector, or from a default that is a list."""
    return [int(x) for x in (value.flatten().tolist() if isinstance(value, Tensor) else value)]


def flags(value: Any, count: int) -> list[bool]:
    """`count` truths from a vector; all False where there is none."""
    return [bool(x) for x in value.flatten().tolist()] if isinstance(value, Tensor) else [False] * count


def whole(value: Any) -> int:
    """A whole number from a scalar."""
    return int(value.item() if isinstance(value, Tensor) else value)


def number(value: Any) -> float:
    """A number from a scalar."""
    return float(value.item() if isinstance(value, Tensor) else value)


def flag(value: Any) -> bool:
    """A truth from a scalar."""
    return bool(value.item() if isinstance(value, Tensor) else value)


def along(values: Tensor, rank: int, axis: int) -> Tensor:
    """A vector shaped so that it runs along `axis` of a tensor of `rank`; a scalar as it is."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape) if values.dim() else values


def axes_of(value: Any, rank: int) -> list[int]:
    """Axes counted from the front, sorted; all of them where none are given."""
    return sorted(axis % rank for axis in ints(value)) if value is not None else list(range(rank))


def as_indices(value: Tensor) -> Tensor:
    """Indices as torch takes them."""
    return value.to(torch.int64)
