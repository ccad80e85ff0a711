"""Clusters of points: what is counted on points whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from compress.bench.beds import points


@pytest.mark.parametrize(("clusters", "modes"), [(points.ring(), 8), (points.grid(), 25)])
def test_true_points_hit_every_mode_and_collapsed_ones_a_single_one(clusters: points.Clusters, modes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    real = clusters.draw(4_000, generator)
    assert clusters.modes_hit(real) == modes
    # Of a round Gaussian in the plane, 1 - exp(-9 / 2) is within 3 deviations.
    assert clusters.share_near(real) == pytest.approx(1 - math.exp(-4.5), abs=0.01)
    assert clusters.modes_hit(real[:1].expand(1_000, 2)) == 1
    assert clusters.modes_hit(torch.full((1_000, 2), 50.0)) == 0


def test_the_energy_distance_is_zero_for_one_distribution_and_grows_with_a_shift() -> None:
    ring, generator = points.ring(), torch.Generator().manual_seed(0)
    found = [ring.distance(ring.draw(2_000, generator) + shift, generator) for shift in (0.0, 0.5, 2.0)]
    assert abs(found[0]) < 0.01 < found[1] < found[2]


def test_the_energy_distance_of_two_point_masses_is_twice_their_distance() -> None:
    mass = points.Clusters(torch.zeros(1, 2), 0.0)
    assert mass.distance(torch.tensor([[3.0, 4.0]]).expand(10, 2), torch.Generator()) == pytest.approx(10.0)
