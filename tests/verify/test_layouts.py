"""A value is found among an artifact's tensors in every layout, and nowhere else."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from compress.runtimes.intermediate import Intermediate
from compress.verify.layouts import Pool, by_shape, channels_last, closest, orders

SHAPE = (1, 3, 5, 4)


def array(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(value: np.ndarray, name: str = "t", constant: bool = False) -> Intermediate:
    return Intermediate(name, "Op", (), value, constant)


@pytest.mark.parametrize("order", [(0, *rest) for rest in permutations((1, 2, 3))])
@pytest.mark.parametrize("flat", [False, True])
def test_every_order_is_found_and_undone(order: tuple[int, ...], flat: bool) -> None:
    value = array()
    held = np.ascontiguousarray(value.transpose(order))
    pool = Pool([tensor(array(1), "other"), tensor(held.reshape(1, -1) if flat else held, "it")])
    (found,) = pool.find(value, [SHAPE], 80.0)
    assert found.tensor.name == "it" and found.order == order and found.sqnr_db == 300.0
    assert np.array_equal(found.value(SHAPE), value)
    assert found.is_plain == (order == (0, 1, 2, 3))
    assert (found.layout == "channels last") == (order == channels_last(4))


def test_a_flattened_value_is_found_by_the_shape_it_came_from() -> None:
    value = array()
    pool = Pool([tensor(value.transpose(0, 2, 3, 1).reshape(1, -1))])
    assert pool.find(value.reshape(1, -1), [(1, 60)], 80.0) == []
    (found,) = pool.find(value.reshape(1, -1), [(1, 60), SHAPE], 80.0)
    assert found.layout == "channels last"
    assert np.array_equal(found.value((1, 60)), value.reshape(1, -1))


@pytest.mark.parametrize(("sqnr_db", "is_found"), [(30.5, True), (29.5, False)])
def test_the_limit_is_kept(sqnr_db: float, is_found: bool) -> None:
    value, noise = array(), array(9)
    noise *= np.linalg.norm(value) / np.linalg.norm(noise) * 10 ** (-sqnr_db / 20)
    pool = Pool([tensor((value + noise).transpose(0, 2, 3, 1))])
    assert bool(pool.find(value, [SHAPE], 30.0)) == is_found


def test_the_best_comes_first_and_the_models_own_order_wins_a_tie() -> None:
    value = array()
    rough = tensor(value * np.float32(1.001), "rough")
    pool = Pool([rough, tensor(value.transpose(0, 2, 3, 1), "turned"), tensor(value, "plain")])
    assert [found.tensor.name for found in pool.find(value, [SHAPE], 40.0)] == ["plain", "turned", "rough"]


def test_constants_and_computed_tensors_are_kept_apart() -> None:
    value = array()
    pool = Pool([tensor(value, "weight", True)])
    assert pool.find(value, [SHAPE], 40.0) == []
    assert pool.find(value, [SHAPE], 40.0, constant=True)


def test_another_value_of_equal_size_sum_and_norm_is_not_it() -> None:
    value = array()
    mixed = np.random.default_rng(4).permutation(value.ravel()).reshape(SHAPE)
    assert Pool([tensor(mixed)]).find(value, [SHAPE], 30.0) == []
    found = closest(value, tensor(mixed), [SHAPE])
    assert found is not None and found.sqnr_db < 10.0
    assert closest(value, tensor(array(0, (1, 3, 5, 5))), [SHAPE]) is None


def test_axes_of_size_one_make_no_orders_of_their_own() -> None:
    assert len(list(orders((1, 3, 1, 1)))) == 1
    assert len(list(orders((1, 3, 5, 1)))) == 2
    assert len(list(orders(SHAPE))) == 6
    assert len(list(orders((2, 3, 4, 5, 6, 7)))) == 2  # too many to try all


def test_a_wrong_tensor_takes_the_layout_that_its_shape_tells() -> None:
    square = array(0, (1, 3, 4, 4))
    turned = tensor(
        square.transpose(0, 1, 3, 2)
    )  # rows and columns exchanged: by its numbers a layout, by its shape not
    as_layout, as_fault = closest(square, turned, [square.shape]), by_shape(square, turned, [square.shape])
    assert as_layout is not None and as_layout.sqnr_db == 300.0
    assert as_fault is not None and as_fault.is_plain and as_fault.sqnr_db < 10.0
    last = by_shape(square, tensor(array(1, (1, 4, 4, 3))), [square.shape])
    assert last is not None and last.layout == "channels last"
