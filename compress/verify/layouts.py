"""Finding a value of the model among the tensors of an artifact, in whatever layout the artifact keeps it.

Converters fuse, rename and reorder; names and order say little. The numbers say it: a tensor that holds the value's
elements, in the order of one of its permutations, is that value. NHWC is one such permutation, and so is a flattened
view of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from compress.runtimes.intermediate import Intermediate
from compress.verify.parity import EXACT_DB, compare

_MOST_AXES = 4  # of size above 1; 24 orders. Beyond that only the plain order and channels-last are tried.
Order = tuple[int, ...]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Counterpart:
    """A tensor of the artifact that holds a value of the model: which, how exactly, and how it is laid out.

    `shape` is the shape in which the value was permuted by `order` (its own, or that of the value it is a view of).
    """

    tensor: Intermediate
    sqnr_db: float
    shape: tuple[int, ...]
    order: Order

    @property
    def is_plain(self) -> bool:
        """Whether the elements stand in the model's own order."""
        return _moved(self.shape, self.order) == ()

    @property
    def layout(self) -> str:
        """The layout in words: "as in the model", "channels last", or the order of the model's axes."""
        if self.is_plain:
            return "as in the model"
        rank = len(self.order)
        if _moved(self.shape, self.order) == _moved(self.shape, channels_last(rank)):
            return "channels last"
        return f"with its axes in the order {self.order}"

    def value(self, shape: tuple[int, ...]) -> np.ndarray:
        """What the artifact held, put into the model's order and into `shape`."""
        inner = tuple(self.shape[axis] for axis in self.order)
        back = np.argsort(self.order)
        return np.ascontiguousarray(self.tensor.value.reshape(inner).transpose(back)).reshape(shape)


@dataclass(slots=True)
class Pool:
    """An artifact's tensors, in execution order, to be found by what they hold."""

    tensors: list[Intermediate]
    _by_size: dict[int, list[tuple[Intermediate, float, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for tensor in self.tensors:
            flat = tensor.value.astype(np.float64).ravel()
            entry = (tensor, float(flat.sum()), math.sqrt(float((flat**2).sum())))
            self._by_size.setdefault(flat.size, []).append(entry)

    def find(
        self, value: np.ndarray, shapes: Iterable[Shape], least_db: float, constant: bool = False
    ) -> list[Counterpart]:
        """The tensors that hold `value` to at least `least_db`, best first; the model's order wins a tie."""
        shapes = list(dict.fromkeys(shapes))
        tried = [closest(value, tensor, shapes) for tensor in self._possible(value, least_db, constant)]
        fitting = [found for found in tried if found is not None and found.sqnr_db >= least_db]
        return sorted(fitting, key=lambda found: (found.sqnr_db, found.is_plain), reverse=True)

    def _possible(self, value: np.ndarray, least_db: float, constant: bool) -> Iterator[Intermediate]:
        """Yields the tensors that can be within `least_db`, judged by sum and norm, which no permutation changes."""
        flat = value.astype(np.float64).ravel()
        total, norm = float(flat.sum()), math.sqrt(float((flat**2).sum()))
        most = norm * 10 ** (-least_db / 20) * (1 + 1e-9) + 1e-30  # the largest norm of the difference
        for tensor, its_total, its_norm in self._by_size.get(flat.size, ()):
            near = abs(its_norm - norm) <= most and abs(its_total - total) <= most * math.sqrt(flat.size) + 1e-12
            if near and tensor.constant == constant:
                yield tensor


def closest(value: np.ndarray, tensor: Intermediate, shapes: Iterable[Shape]) -> Counterpart | None:
    """The tensor as the value in the layout that fits best, however badly; None where the element counts differ."""
    if tensor.value.size != value.size:
        return None
    held = tensor.value.ravel()
    best: Counterpart | None = None
    for shape in shapes:
        viewed = value.reshape(shape)
        for order in orders(shape):
            sqnr_db = compare(viewed.transpose(order).ravel(), held).sqnr_db
            if best is None or sqnr_db > best.sqnr_db:
                best = Counterpart(tensor, sqnr_db, shape, order)
            if sqnr_db >= EXACT_DB:
                return best
    return best


def by_shape(value: np.ndarray, tensor: Intermediate, shapes: Iterable[Shape]) -> Counterpart | None:
    """As `closest`, for a tensor whose numbers may be wrong: its shape, where it tells, decides the layout."""
    wide = tuple(size for size in tensor.value.shape if size > 1)
    fitting = []
    for shape in shapes if tensor.value.size == value.size else ():
        for order in (tuple(range(len(shape))), channels_last(len(shape))):
            if tuple(shape[axis] for axis in order if shape[axis] > 1) == wide:
                sqnr_db = compare(value.reshape(shape).transpose(order).ravel(), tensor.value.ravel()).sqnr_db
                fitting.append(Counterpart(tensor, sqnr_db, shape, order))
    return max(fitting, key=lambda found: found.sqnr_db, default=closest(value, tensor, shapes))


def channels_last(rank: int) -> Order:
    """The order that moves axis 1 to the end."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


def orders(shape: tuple[int, ...]) -> Iterator[Order]:
    """Yields the orders of a shape's axes that differ in more than axes of size 1: plain, channels last, others."""
    rank = len(shape)
    plain = tuple(range(rank))
    seen: set[tuple[int, ...]] = set()
    wide = [axis for axis in plain if shape[axis] > 1]
    tried: list[Order] = [plain, channels_last(rank)]
    if len(wide) <= _MOST_AXES:
        thin = tuple(axis for axis in plain if shape[axis] == 1)
        tried += [(*thin, *order) for order in permutations(wide)]
    for order in tried:
        key = tuple(axis for axis in order if shape[axis] > 1)
        if key not in seen:
            seen.add(key)
            yield order


def _moved(shape: tuple[int, ...], order: Order) -> tuple[int, ...]:
    """The axes of size above 1 in the given order, or () where they stand as they were."""
    wide = tuple(axis for axis in order if shape[axis] > 1)
    return () if list(wide) == sorted(wide) else wide
