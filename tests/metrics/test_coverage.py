"""The four figures on points of a line counted by hand, their known expectations, and what each of them is blind to."""

from __future__ import annotations

from math import prod

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from compress.errors import DataError
from compress.metrics import coverage, density_coverage, precision_recall


def line(*places: float) -> Tensor:
    return torch.tensor(places).unsqueeze(1)


def cloud(count: int, seed: int, width: int = 2) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_points_on_a_line_by_hand() -> None:
    """With k = 1 the balls of real are [-1, 1], [0, 2], [1, 3], [6, 14]; those of made [-.1, 1.1] twice, [-98, 99.]."""
    real, made = line(0, 1, 2, 10), line(0.2, 0.8, 50)
    precision, recall = precision_recall(real, made, k=1)
    assert precision == pytest.approx(2 / 3)  # 50 is in no ball
    assert recall == pytest.approx(1.0)  # the stray 50 has a ball of radius 49.2, with 1 (on its rim), 2 and 10 in it
    density, covered = density_coverage(real, made, k=1)
    assert density == pytest.approx(4 / 3)  # 0.2 is in the balls of 0 and 1, and so is 0.8
    assert covered == pytest.approx(2 / 4)


def test_a_second_neighbour_widens_the_balls() -> None:
    real, made = line(0, 1, 3), line(-2.5, 5.5, 20)
    assert precision_recall(real, made, k=1)[0] == 0.0
    assert precision_recall(real, made, k=2)[0] == pytest.approx(2 / 3)  # radii 3, 2, 3


def test_against_nearest_neighbours_of_another_library() -> None:
    real, made = cloud(90, 0, 5).double(), cloud(70, 1, 5).double() * 1.2 + 0.3
    k = 4

    def radii(rows: Tensor) -> Tensor:
        return torch.from_numpy(NearestNeighbors(n_neighbors=k).fit(rows.numpy()).kneighbors()[0][:, -1])

    apart = torch.cdist(real, made)
    in_real, in_made = apart <= radii(real).unsqueeze(1), apart <= radii(made)
    assert precision_recall(real, made, k) == pytest.approx(
        (float(in_real.any(0).double().mean()), float(in_made.any(1).double().mean()))
    )
    assert density_coverage(real, made, k) == pytest.approx(
        (float(in_real.sum() / (k * len(made))), float(in_real.any(1).double().mean()))
    )


def test_the_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = cloud(40, 0), cloud(33, 1) + 0.5
    whole = precision_recall(real, made), density_coverage(real, made)
    monkeypatch.setattr(coverage, "_BLOCK_ROWS", 7)
    assert (precision_recall(real, made), density_coverage(real, made)) == whole


def test_expectations_for_two_sets_of_one_distribution() -> None:
    """Density is 1 and coverage 1 - prod (N - i) / (M + N - i), i = 1..k, whatever the distribution is (Naeem et al.,
    2020, lemmas 1 and 2); within 3 standard errors over 200 pairs of sets."""
    n, m, k = 40, 30, 5
    found = torch.tensor([density_coverage(cloud(n, 2 * s), cloud(m, 2 * s + 1), k) for s in range(200)])
    error = found.std(0) / len(found) ** 0.5
    wanted = torch.tensor([1.0, 1 - prod((n - i) / (m + n - i) for i in range(1, k + 1))])
    assert bool(((found.mean(0) - wanted).abs() < 3 * error).all())


def test_one_mode_of_two_is_precise_and_covers_half() -> None:
    modes = torch.cat([cloud(100, 0), cloud(100, 1) + 50])
    made = cloud(200, 2)
    precision, recall = precision_recall(modes, made)
    density, covered = density_coverage(modes, made)
    assert precision > 0.9 and recall < 0.55
    assert density > 0.8 and 0.4 < covered <= 0.5


def test_pictures_of_nothing_real_are_imprecise_but_recall_all() -> None:
    real, made = cloud(200, 0), torch.cat([cloud(200, 1), cloud(200, 2) + 50])
    precision, recall = precision_recall(real, made)
    assert 0.4 < precision < 0.52 and recall > 0.9
    assert density_coverage(real, made)[1] > 0.95


def test_one_outlier_among_the_real_flatters_precision_but_not_density() -> None:
    real, made = torch.cat([cloud(100, 0), line(60.0, 60.0).T]), cloud(100, 1) + 20
    assert precision_recall(real[:-1], made)[0] == 0.0
    assert precision_recall(real, made)[0] == 1.0
    assert density_coverage(real, made)[0] == pytest.approx(1 / 5)


def test_copies_of_one_image_count_as_inside() -> None:
    """All balls have radius 0 here: what lies on a rim must count, or a set would not be like itself."""
    same = line(*[3.0] * 8)
    assert precision_recall(same, same) == (1.0, 1.0)
    assert density_coverage(same, same)[1] == 1.0
    assert precision_recall(same, same + 1) == (0.0, 0.0)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(
        DataError, match="precision and recall with k = 3 needs at least 4 images on either side, not 3"
    ):
        precision_recall(cloud(3, 0), cloud(9, 1))
    with pytest.raises(DataError, match="k = 0 neighbours"):
        density_coverage(cloud(9, 0), cloud(9, 1), k=0)
