"""Which tensor of a TFLite model is which value of the torch program? Answered by running both on the same input.

The converter fuses, reorders to channels-last, and renames, so names and order say little. The values say it: two
tensors that agree in every element on a random input are the same tensor. What agrees with nothing, or with two
values of different range, is reported and never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compress.export.qdq import Range

# Float kernels of two libraries, summed in different order: 1e-4 of the tensor's own range is far above what they
# differ by (1e-6 on the nets measured) and far below what two different tensors do.
_TOLERANCE = 1e-4
# In a large tensor single sums come out worse: behind a relu6, 1 element of 600,000 was 1.2e-4 of the range apart, for
# before the cut the values went up to 28. So few may lie outside, and none far.
_STRAY_SHARE, _STRAY_TOLERANCE = 1e-4, 10


@dataclass(slots=True)
class Match:
    """TFLite tensor index -> the range of the value it holds; what could not be told lies in `ambiguous`."""

    ranges: dict[int, Range] = field(default_factory=dict)
    ambiguous: dict[int, tuple[str, ...]] = field(default_factory=dict)


def layouts(value: np.ndarray) -> list[np.ndarray]:
    """The orders a converter may store `value` in: as it is, and channels last; axes of size 1 left out."""
    orders = [value]
    if value.ndim >= 3:
        orders.append(np.moveaxis(value, 1, -1))
    return [order.squeeze() for order in orders]


def same(tensor: np.ndarray, value: np.ndarray, tolerance: float = _TOLERANCE) -> bool:
    """Whether `tensor` holds `value` in one of its layouts, to `tolerance` of its range but for a few strays."""
    if tensor.size != value.size:
        return False
    limit = tolerance * float(np.abs(value).max(initial=0.0)) + 1e-9
    flat = tensor.squeeze()
    return any(flat.shape == order.shape and _agree(np.abs(flat - order), limit) for order in layouts(value))


def _agree(differences: np.ndarray, limit: float) -> bool:
    largest = float(differences.max(initial=0.0))
    if largest <= limit or not largest <= _STRAY_TOLERANCE * limit:
        return largest <= limit
    return bool((differences > limit).sum() <= _STRAY_SHARE * differences.size)


def match(
    tensors: Mapping[int, np.ndarray], values: Mapping[str, np.ndarray], ranges: Mapping[str, Sequence[Range]]
) -> Match:
    """Pairs TFLite tensors with the program's ranged values.

    Args:
        tensors: float tensors of one TFLite run, by index.
        values: what each node of the program computed on the same input, by node name.
        ranges: the ranges of the nodes that have any. A node has more than one where its users disagree.

    Returns:
        The range of each tensor that agrees with values of exactly one range.
    """
    by_size: dict[int, list[str]] = {}
    for name in ranges:
        if name in values:
            by_size.setdefault(values[name].size, []).append(name)
    found = Match()
    for index, tensor in tensors.items():
        names = [name for name in by_size.get(tensor.size, ()) if same(tensor, values[name])]
        options = list(dict.fromkeys(option for name in names for option in ranges[name]))
        if len(options) == 1:
            found.ranges[index] = options[0]
        elif options:
            found.ambiguous[index] = tuple(names)
    return found
