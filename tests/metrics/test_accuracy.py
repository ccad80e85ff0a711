"""Top-1 counted by hand, and outputs that are no class scores refused by shape."""

from __future__ import annotations

import pytest
import torch

from compress.errors import DataError
from compress.metrics import count_top1


def test_count_by_hand() -> None:
    logits = torch.tensor([[0.1, 0.9], [2.0, -1.0], [0.3, 0.2]])
    assert count_top1(logits, torch.tensor([1, 0, 1])) == 2


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (2, 2), (3,)])
def test_an_output_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"for 3 images; classification needs \(3, classes\)"):
        count_top1(torch.zeros(shape), torch.zeros(3, dtype=torch.long))
