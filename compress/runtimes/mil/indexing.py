"""ML program operations that pick and place values: slices, gathers, scatters, orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compress.runtimes.mil.given import as_indices, flag, flags, ints, whole
from compress.runtimes.mil.values import WORDS, as_declared


def _picked(
    sizes: tuple[int, ...], begin: Any, end: Any, stride: Any, begin_mask: Any, end_mask: Any, squeeze_mask: Any
) -> tuple[list[Tensor], list[int]]:
    """(the indices that a slice takes of each axis, the shape without squeezed axes)."""
    rank = len(sizes)
    starts, stops = ints(begin), ints(end)
    steps = ints(stride) if stride is not None else [1] * rank
    open_start, open_stop, single = (flags(mask, rank) for mask in (begin_mask, end_mask, squeeze_mask))
    taken: list[Tensor] = []
    for axis, size in enumerate(sizes):
        start = None if open_start[axis] else starts[axis]
        stop = None if open_stop[axis] else stops[axis]
        places = list(range(*slice(start, stop, steps[axis]).indices(size)))
        if single[axis]:
            first = start or 0
            places = [first + size if first < 0 else first]
        taken.append(torch.tensor(places, dtype=torch.int64))
    return taken, [len(places) for axis, places in enumerate(taken) if not single[axis]]


def slice_by_index(
    x: Tensor, begin: Any, end: Any, stride: Any = None, begin_mask: Any = None, end_mask: Any = None,
    squeeze_mask: Any = None,
) -> Tensor:  # fmt: skip
    """x[begin : end : stride] on each axis; masks open an end, or take one entry and drop the axis."""
    taken, shape = _picked(tuple(x.shape), begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis, places in enumerate(taken):
        x = x.index_select(axis, places)
    return x.reshape(shape)


def slice_update(
    x: Tensor, update: Tensor, begin: Any, end: Any, stride: Any = None, begin_mask: Any = None, end_mask: Any = None,
    squeeze_mask: Any = None,
) -> Tensor:  # fmt: skip
    """`x` with the entries that `slice_by_index` would take replaced."""
    taken, _ = _picked(tuple(x.shape), begin, end, stride, begin_mask, end_mask, squeeze_mask)
    found, grid = x.clone(), torch.meshgrid(*taken, indexing="ij")
    found[grid] = update.reshape(grid[0].shape)
    return found


def slice_by_size(x: Tensor, begin: Any, size: Any) -> Tensor:
    """As many entries from `begin` on as `size` says, on each axis; -1 takes the rest."""
    for axis, (start, count) in enumerate(zip(ints(begin), ints(size), strict=True)):
        first = start + x.shape[axis] if start < 0 else start
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


def _checked(indices: Tensor, size: int) -> Tensor:
    """Indices for torch, none of them outside; negative ones mean nothing since iOS 17."""
    found = as_indices(indices)
    if found.numel() and (int(found.min()) < 0 or int(found.max()) >= size):
        raise IndexError(f"the indices {int(found.min())} to {int(found.max())} are not all within 0 to {size - 1}")
    return found


def gather(x: Tensor, indices: Tensor, axis: Any = 0, batch_dims: Any = 0, validate_indices: Any = False) -> Tensor:
    """The slices of x along an axis that the indices name, by themselves for each of the first `batch_dims` axes."""
    dim, batch = whole(axis) % x.dim(), whole(batch_dims)
    if batch:
        pairs = [gather(one, index, dim - 1, batch - 1) for one, index in zip(x, indices, strict=True)]
        return torch.stack(pairs)
    taken = x.index_select(dim, _checked(indices, x.shape[dim]).reshape(-1))
    return taken.reshape(*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :])


def gather_along_axis(x: Tensor, indices: Tensor, axis: Any = 0, validate_indices: Any = False) -> Tensor:
    """For each place of the indices, the entry of x at that place with its index along the axis."""
    dim = whole(axis)
    return torch.gather(x, dim, _checked(indices, x.shape[dim]))


def gather_nd(x: Tensor, indices: Tensor, batch_dims: Any = 0, validate_indices: Any = False) -> Tensor:
    """The entries or slices of x that the last axis of the indices names."""
    if whole(batch_dims):
        return torch.stack(
            [gather_nd(one, index, whole(batch_dims) - 1) for one, index in zip(x, indices, strict=True)]
        )
    return x[_columns(x, indices)]


def _columns(x: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    return tuple(_checked(column, x.shape[axis]) for axis, column in enumerate(indices.unbind(-1)))


def _combined(old: Tensor, new: Tensor, mode: str) -> Tensor:
    """What stands where a scatter writes."""
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "update": lambda _, value: value, "add": torch.add, "sub": torch.sub, "mul": torch.mul,
        "div": torch.true_divide, "max": torch.maximum, "min": torch.minimum,
    }  # fmt: skip
    return functions[mode](old, new).to(old.dtype)


def _scattered(data: Tensor, places: tuple[Tensor, ...], updates: Tensor, mode: str) -> Tensor:
    """`data` with updates at the places, one after the other so that a place named twice gets both."""
    found = data.clone()
    flat = torch.stack([place.reshape(-1) for place in places], 1).tolist()
    values = updates.reshape(len(flat), *data.shape[len(places) :])
    for place, value in zip(flat, values, strict=True):
        found[tuple(place)] = _combined(found[tuple(place)], value, mode)
    return found


def scatter(
    data: Tensor, indices: Tensor, updates: Tensor, axis: Any = 0, mode: str = "add", validate_indices: Any = False
) -> Tensor:
    """`data` with the slices of updates written to the places along an axis that the indices name."""
    dim = whole(axis) % data.dim()
    turned = _scattered(data.movedim(dim, 0), (_checked(indices, data.shape[dim]),), updates.movedim(dim, 0), mode)
    return turned.movedim(0, dim)


def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: Any = 0, mode: str = "add", validate_indices: Any = False
) -> Tensor:
    """`data` with each update written to its own place, but for the axis, where its index says."""
    dim = whole(axis) % data.dim()
    places = list(torch.meshgrid(*(torch.arange(size) for size in indices.shape), indexing="ij"))
    places[dim] = _checked(indices, data.shape[dim])
    return _scattered(data, tuple(places), updates, mode)


def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: Any = False
) -> Tensor:
    """`data` with updates written to the entries or slices that the last axis of the indices names."""
    return _scattered(data, _columns(data, indices), updates, mode)


def one_hot(indices: Tensor, one_hot_vector_size: Any, axis: Any = -1, on_value: Any = 1, off_value: Any = 0) -> Tensor:
    """A new axis with `on_value` where the index says and `off_value` elsewhere."""
    size, dim = whole(one_hot_vector_size), whole(axis) % (indices.dim() + 1)
    places = torch.arange(size).reshape([-1 if axis == dim else 1 for axis in range(indices.dim() + 1)])
    hit = as_indices(indices).unsqueeze(dim) == places
    return torch.where(hit, torch.as_tensor(on_value), torch.as_tensor(off_value))


def argsort(x: Tensor, axis: Any = -1, ascending: Any = False) -> Tensor:
    """The places of the sorted values, largest first."""
    return torch.argsort(x, dim=whole(axis), descending=not flag(ascending), stable=True)


def topk(
    x: Tensor, k: Any = 1, axis: Any = -1, ascending: Any = False, sort: Any = True, return_indices: Any = True,
    output_indices_dtype: str = "int32",
) -> list[Tensor]:  # fmt: skip
    """The largest k values along an axis (or the smallest), and their places."""
    values, places = torch.sort(x, dim=whole(axis), descending=not flag(ascending), stable=True)
    kept = [found.narrow(whole(axis), 0, whole(k)) for found in (values, places)]
    return [kept[0], as_declared(kept[1], WORDS[output_indices_dtype])] if flag(return_indices) else kept[:1]


def non_zero(x: Tensor) -> Tensor:
    """The places of the values that are not zero, one row each."""
    return torch.nonzero(x)


OPS: dict[str, Callable[..., Any]] = {
    "slice_by_index": slice_by_index, "slice_by_size": slice_by_size, "slice_update": slice_update, "gather": gather,
    "gather_along_axis": gather_along_axis, "gather_nd": gather_nd, "scatter": scatter,
    "scatter_along_axis": scatter_along_axis, "scatter_nd": scatter_nd, "one_hot": one_hot, "argsort": argsort,
    "topk": topk, "non_zero": non_zero,
}  # fmt: skip
