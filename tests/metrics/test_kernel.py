"""The kernel distance against a double loop and another implementation, and its bias, which is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from compress.errors import DataError
from compress.metrics import frechet_distance, kernel, kernel_distance


def rows(count: int, seed: int, width: int = 4) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def by_loops(first: Tensor, second: Tensor) -> float:
    def k(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    first, second = first.double(), second.double()
    n, m = len(first), len(second)
    own = sum(k(first[i], first[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    own += sum(k(second[i], second[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own - 2 * sum(k(a, b) for a in first for b in second) / (n * m)


def test_against_a_double_loop_on_sets_of_different_size() -> None:
    first, second = rows(7, 0), rows(12, 1) + 0.5
    assert kernel_distance(first, second) == pytest.approx(by_loops(first, second), rel=1e-10)
    assert kernel_distance(second, first) == pytest.approx(kernel_distance(first, second), rel=1e-10)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_against_another_implementation() -> None:
    first, second = rows(30, 0).double(), rows(30, 1).double() + 0.5
    theirs = KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=30)
    theirs.update(first, real=True)
    theirs.update(second, real=False)
    assert kernel_distance(first, second) == pytest.approx(float(theirs.compute()[0]), rel=1e-9)


def test_the_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = rows(23, 0), rows(17, 1) * 2
    whole = kernel_distance(first, second)
    monkeypatch.setattr(kernel, "_BLOCK_ROWS", 5)
    assert kernel_distance(first, second) == pytest.approx(whole, rel=1e-12)


def test_it_has_no_bias_where_the_frechet_distance_has_much() -> None:
    """Two sets of 12 from one distribution, 600 times: the mean is 0 within three standard errors."""
    pairs = [(rows(12, 2 * seed), rows(12, 2 * seed + 1)) for seed in range(600)]
    found = torch.tensor([kernel_distance(*pair) for pair in pairs])
    assert float(found.mean().abs() / (found.std() / len(found) ** 0.5)) < 3.0
    assert float(found.min()) < 0 < float(found.max())
    frechet = torch.tensor([frechet_distance(*pair) for pair in pairs[:50]])
    assert float(frechet.min()) > 0 and float(frechet.mean()) > 0.5


def test_it_grows_with_the_way_between_the_sets() -> None:
    first, second = rows(100, 0), rows(100, 1)
    near, far = (kernel_distance(first, second + shift) for shift in (0.5, 1.0))
    assert kernel_distance(first, second) < near < far


def test_what_has_no_pairs_is_refused() -> None:
    with pytest.raises(DataError, match="the kernel distance needs at least 2 images"):
        kernel_distance(rows(1, 0), rows(5, 1))
    with pytest.raises(DataError, match="of one width"):
        kernel_distance(rows(5, 0), rows(5, 1)[:, :2])
