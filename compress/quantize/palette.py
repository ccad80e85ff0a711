"""A weight as indices into a small table of values (a palette): the table, the indices, and back.

The table is found by one-dimensional k-means (Lloyd, 1982), as in Deep Compression (Han et al., 2016), started from the
weight's own quantiles so that the result is the same on every run. Tables are ascending: the nearest entry is then
found by comparing with the midpoints between neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 50  # passes of k-means at most; a weight of some thousand values settles in fewer
_SETTLED = 1e-6  # share of the weight's span by which entries may still move when the passes end


@torch.no_grad()
def fit_table(weight: Tensor, entries: int) -> Tensor:
    """The table of `entries` values with a small squared distance to the weight: float32 (entries,), ascending."""
    distinct = weight.detach().float().unique()  # ascending
    if len(distinct) <= entries:
        return torch.cat([distinct, distinct[-1:].expand(entries - len(distinct))])
    values = weight.detach().double().flatten().sort().values
    places = torch.linspace(0, len(values) - 1, entries, device=values.device).round().long()
    table = values[places]
    for _ in range(_ROUNDS):
        index = torch.bucketize(values, _midpoints(table))
        sums = torch.zeros_like(table).index_add_(0, index, values)
        counts = torch.bincount(index, minlength=entries)
        moved = torch.where(counts > 0, sums / counts.clamp(min=1), table).sort().values
        done = (moved - table).abs().amax() <= _SETTLED * (values[-1] - values[0])
        table = moved
        if bool(done):
            break
    return table.float()


def table_indices(weight: Tensor, tables: Tensor) -> Tensor:
    """The index of the nearest entry for each value of a weight: int64, of the weight's shape.

    Args:
        weight: of any shape; its first axis is cut into as many equal parts as there are tables.
        tables: float32 (tables, entries), each ascending.
    """
    rows = weight.detach().float().reshape(len(tables), -1)
    found = [torch.bucketize(row, _midpoints(table)) for row, table in zip(rows, tables, strict=True)]
    return torch.stack(found).reshape(weight.shape)


def from_table(indices: Tensor, tables: Tensor) -> Tensor:
    """The values that indices stand for: float32, of the indices' shape; gradients reach the tables."""
    return tables.gather(1, indices.reshape(len(tables), -1)).reshape(indices.shape)


def _midpoints(table: Tensor) -> Tensor:
    return (table[1:] + table[:-1]) / 2
