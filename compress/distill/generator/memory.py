"""The teacher's outputs, each computed once where the task shows the very same samples in every epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LIMIT_BYTES = 2_000_000_000


class Remembered:
    """A teacher that keeps its outputs, as float16, by the batch's `sample_ids`; batches without them are computed.

    Each sample is computed by itself, so that what is kept does not depend on the batch it came in: a training that
    is resumed sees the same targets. What does not fit into the limit is computed every time.
    """

    def __init__(self, teacher: nn.Module, limit_bytes: int = LIMIT_BYTES) -> None:
        self.teacher, self.left_bytes = teacher, limit_bytes
        self.kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def __call__(self, batch: Any) -> Tensor:
        """The teacher's output on a batch."""
        ids = getattr(batch, "sample_ids", None)
        if ids is None:
            output: Tensor = self.teacher(*batch.inputs)
            return output.float()
        rows = [self._one(int(number), [x[i : i + 1] for x in batch.inputs]) for i, number in enumerate(ids)]
        return torch.cat(rows).to(batch.inputs[0].device)

    def _one(self, number: int, inputs: list[Tensor]) -> Tensor:
        if number not in self.kept:
            # Once for all epochs, so it may as well be exact.
            with torch.autocast(inputs[0].device.type, enabled=False):
                output = self.teacher(*inputs).half()
            size = output.numel() * output.element_size()
            if size > self.left_bytes:
                return output.float()
            self.left_bytes -= size
            self.kept[number] = output.cpu()
        return self.kept[number].float()
