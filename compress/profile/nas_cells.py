"""The networks of NAS-Bench-201 as ops: what each of its cells runs, as written and as converters leave it.

A cell is a graph of four values in which each takes one of five operations of every value before it, and their sum
(Dong & Yang, "NAS-Bench-201", ICLR 2020); five equal cells at each of three widths make a network for images of 32 x
32. Cells are rows of an array: for each of `EDGES`, which of `OPERATIONS` it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from compress.profile.features import COSTS, Layout, amounts, around
from compress.profile.regression import Floats
from compress.types import OpRecord

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
# What of a cell a runtime computes. `written`: everything, products with zero too. `pruned`: what leads from the input
# to the output. `folded`: products with zero are constants, yet what they were made of runs all the same, on constants
# too, but where two such values are joined. The last is what one converter left of its networks, as the latencies of
# the one-board computer in the published table show edge by edge (each adds its whole cost, or none of it).
Form = Literal["written", "folded", "pruned"]
FORMS: tuple[Form, ...] = get_args(Form)
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
# What a network's cost is the sum of: a call, what all networks share, each operation but the free one, additions.
PARTS = ("call", "network", "none", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "add")
# The edges of a cell whose second and third value change places.
_MIRROR = [1, 0, 2, 3, 5, 4]
_STAGES = ((16, 32), (32, 16), (64, 8))  # channels, side of the map
_CELLS_PER_STAGE = 5


def cells_of(names: Sequence[str]) -> Ints:
    """The cells written like |avg_pool_3x3~0|+|none~0|skip_connect~1|+|...|, one row each."""
    written = [[term.partition("~")[0] for term in name.replace("+", "").split("|") if term] for name in names]
    return np.array([[OPERATIONS.index(operation) for operation in cell] for cell in written], dtype=np.int64)


def connected(cells: Ints) -> Flags:
    """Whether each network's output depends on its input."""
    return _reach(cells)[0][3]


def _reach(cells: Ints) -> tuple[list[Flags], list[Flags]]:
    """For each value, whether it depends on the cell's input, and whether the cell's output depends on it."""
    real = cells != 0
    fed = [np.ones(len(cells), dtype=bool), *(np.zeros(len(cells), dtype=bool) for _ in range(3))]
    needed = fed[::-1]
    for edge, (start, end) in enumerate(EDGES):
        fed[end] = fed[end] | (real[:, edge] & fed[start])
    for edge, (start, end) in reversed(list(enumerate(EDGES))):
        needed[start] = needed[start] | (real[:, edge] & needed[end])
    return fed, needed


def runs(cells: Ints, form: Form) -> Flags:
    """Whether each edge of each cell is computed."""
    if form == "written":
        return np.ones(cells.shape, dtype=bool)
    fed, needed = _reach(cells)
    real = (cells != 0) & fed[3][:, None]
    wanted = np.stack([needed[end] for _, end in EDGES], axis=1)
    if form == "pruned":
        return real & wanted & np.stack([fed[start] for start, _ in EDGES], axis=1)
    dead = real & ~wanted
    joined = dead[:, 1] & (dead[:, 0] | dead[:, 2])
    return real & (wanted | ~joined[:, None])


def parts(cells: Ints, form: Form) -> Floats:
    """How many of each of `PARTS` every network consists of, counted per cell: (networks, parts)."""
    on = runs(cells, form)
    ways_in = np.stack([on[:, [place for place, (_, to) in enumerate(EDGES) if to == end]].sum(1) for end in (1, 2, 3)])
    whole = np.ones(len(cells)) if form == "written" else connected(cells)
    counts = [np.ones(len(cells)), whole]
    counts += [(on & (cells == OPERATIONS.index(part))).sum(1) for part in PARTS[2:-1]]
    return np.stack([*counts, np.maximum(ways_in - 1, 0).sum(0)], axis=1).astype(np.float64)


def network(cell: Ints, form: Form) -> tuple[OpRecord, ...]:
    """The ops of one network; () where converters leave nothing of it. Batch norms are folded into convolutions."""
    counts = dict(zip(PARTS, parts(cell[None], form)[0].astype(int), strict=True))
    first, last = _shared()
    inner = [op for part in PARTS[2:] for op in _part(part) for _ in range(counts[part])]
    return (*first, *inner, *last) if counts["network"] else ()


def amounts_of_parts(layout: Layout) -> Floats:
    """What each of `PARTS` asks for (parts, `COSTS`), so that no network has to be built to know what it asks for."""
    first, last = _shared()
    asked = [[around((*first, *last), layout)], [amounts(op, layout) for op in (*first, *last)]]
    asked += [[amounts(op, layout) for op in _part(part)] for part in PARTS[2:]]
    return np.array([[sum([each.get(cost, 0.0) for each in part]) for cost in COSTS] for part in asked])


def mirrored(cells: Ints) -> Ints:
    """Pairs of networks (pairs, 2) that are the same graph but for the names of two values, whatever runs of it.

    Only with nothing between these two can they change places. Cells that are equal by algebra alone (a sum with
    zero, a skip behind a skip) run different graphs wherever nobody simplifies, and are no pairs.
    """
    known = {tuple(cell): place for place, cell in enumerate(cells.tolist())}
    others = np.array([known.get(tuple(cell), -1) for cell in cells[:, _MIRROR].tolist()])
    alike = (cells[:, 2] == 0) & (np.arange(len(cells)) < others) & connected(cells)
    for form in FORMS:
        on = runs(cells, form)
        alike &= (on == on[others][:, _MIRROR]).all(1)
    return np.stack([np.flatnonzero(alike), others[alike]], axis=1)


def _part(part: str) -> list[OpRecord]:
    """What one operation in every cell comes to."""
    return [op for channels, side in _STAGES for op in _PART[part](channels, side) for _ in range(_CELLS_PER_STAGE)]


def _shared() -> tuple[list[OpRecord], list[OpRecord]]:
    """What all networks begin and end with; the blocks that halve the maps are among the latter."""
    last = []
    for channels, side in _STAGES[:-1]:
        half = side // 2
        last += _convolution(channels, half, 3, 2 * channels, 2) + _convolution(2 * channels, half, 3)
        last += _pool(channels, side, 2) + _kernel(channels, 2 * channels, half, 1) + _add(2 * channels, half)
    channels, side = _STAGES[-1]
    shape = (1, channels, side, side)
    last += _plain("batch_norm", "norm", channels, side) + _plain("relu", "activation", channels, side)
    last.append(OpRecord("mean", "mean", "reduce", "", 0, 0, (shape,), (1, channels)))
    last.append(OpRecord("fc", "linear", "linear", "", 10 * channels, 10 * channels, ((1, channels),), (1, 10),
                         (channels, 10)))  # fmt: skip
    return _kernel(3, _STAGES[0][0], _STAGES[0][1], 3), last


def _kernel(fan_in: int, fan_out: int, side: int, kernel: int, stride: int = 1) -> list[OpRecord]:
    """A convolution whose output has this side."""
    weights = fan_in * fan_out * kernel**2
    given = (1, fan_in, side * stride, side * stride)
    return [OpRecord("conv", "conv2d", "conv", "", weights * side**2, weights, (given,), (1, fan_out, side, side),
                     (fan_in, fan_out), (kernel, kernel), (stride, stride))]  # fmt: skip


def _convolution(channels: int, side: int, kernel: int, fan_out: int = 0, stride: int = 1) -> list[OpRecord]:
    """A clamp and a convolution, in this space's order; the norm behind it is folded."""
    clamp = _plain("relu", "activation", channels, side * stride)
    return clamp + _kernel(channels, fan_out or channels, side, kernel, stride)


def _plain(op: str, kind: str, channels: int, side: int, inputs: int = 1) -> list[OpRecord]:
    """An op without weights that keeps its input's shape."""
    shape = (1, channels, side, side)
    return [OpRecord(op, op, kind, "", 0, 0, (shape,) * inputs, shape)]


def _add(channels: int, side: int) -> list[OpRecord]:
    """A sum of two maps."""
    return _plain("add", "elementwise", channels, side, 2)


def _pool(channels: int, side: int, stride: int = 1) -> list[OpRecord]:
    """An average over 3 x 3 values, or over 2 x 2 where it halves the map."""
    kernel, half = (3, 3) if stride == 1 else (2, 2), side // stride
    return [OpRecord("pool", "avg_pool2d", "pool", "", 0, 0, ((1, channels, side, side),), (1, channels, half, half),
                     kernel=kernel, stride=(stride, stride))]  # fmt: skip


_PART = {
    "none": lambda channels, side: _plain("mul", "elementwise", channels, side),
    "nor_conv_1x1": lambda channels, side: _convolution(channels, side, 1),
    "nor_conv_3x3": lambda channels, side: _convolution(channels, side, 3),
    "avg_pool_3x3": _pool,
    "add": _add,
}
