"""Top-1 accuracy, as a count: batches of different size then add up without rounding."""

from __future__ import annotations

from torch import Tensor

from compress.errors import DataError


def count_top1(logits_NK: Tensor, labels_N: Tensor) -> int:
    """How many of N samples have their highest of K logits at the labelled class.

    Raises:
        DataError: the model's output is not one row of class scores for each sample.
    """
    count = len(labels_N)
    if logits_NK.dim() != 2 or len(logits_NK) != count:
        shape = tuple(logits_NK.shape)
        raise DataError(
            f"the model's output has shape {shape} for {count} images; classification needs ({count}, classes)"
        )
    return int((logits_NK.argmax(1) == labels_N).sum())
