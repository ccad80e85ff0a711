"""Learned solvers: untrained they are DPM-Solver++, trained they come closer, and they leave as constants."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from compress.bench.beds.mixture import Mixture
from compress.diffusion import dpmpp, heun, karras, karras_levels, table_of
from compress.diffusion.learned import LearnedSolver, quantized_forward

RING = Mixture.ring()
LEVELS = karras_levels(5, low=0.02, high=20.0)


def network(scaled: Tensor, time: Tensor) -> Tensor:
    level = torch.exp(4 * time)
    factors = karras()(level)
    x = scaled / factors.scale[:, None]
    return (RING.denoise(x, level) - factors.skip[:, None] * x) / factors.out[:, None]


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_without_training_it_is_its_base_to_the_last_digit() -> None:
    for order in (1, 2, 3):
        solver = LearnedSolver(LEVELS, karras(), order)
        base = table_of("base", dpmpp(order), LEVELS, karras())
        table = solver.table()
        for ours, theirs in zip(table.rows, base.rows, strict=True):
            torch.testing.assert_close(
                torch.tensor([ours.start, *ours.outputs]),
                torch.tensor([theirs.start, *theirs.outputs]),
                rtol=1e-6,
                atol=1e-6,
            )
            assert (ours.time is None) == (theirs.time is None)
        first = noise(64)
        torch.testing.assert_close(table.run(network, first), base.run(network, first), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(solver.run(network, first), table.run(network, first), rtol=1e-9, atol=1e-9)


def test_every_number_counts_and_there_are_few() -> None:
    solver = LearnedSolver(LEVELS, karras())
    assert solver.numbers == 3 + 5 + 15 + 5
    solver.run(network, noise(16)).square().sum().backward()
    for name, parameter in solver.named_parameters():
        used = parameter.grad != 0
        wanted = {"breaks": 3, "shifts": 5, "starts": 5, "factors": 15}[name]
        assert int(used.sum()) == wanted, name


def test_levels_fall_whatever_is_learned() -> None:
    solver = LearnedSolver(LEVELS, karras())
    with torch.no_grad():
        solver.breaks.copy_(torch.tensor([4.0, -7.0, 3.0]))
    levels = [float(level) for level in solver.levels()]
    assert all(b < a for a, b in pairwise(levels))
    assert levels[0] == float(LEVELS[0]) or abs(levels[0] - 20) < 1e-9
    assert abs(levels[-2] - 0.02) < 1e-9 and levels[-1] == 0


def test_training_brings_few_steps_closer_to_many() -> None:
    teacher = table_of("heun", heun, karras_levels(40, 0.02, 20.0), karras())
    solver = LearnedSolver(LEVELS, karras())
    test = noise(256, seed=9)
    wanted = teacher.run(network, test)

    def error(pictures: Tensor) -> float:
        return float((pictures - wanted).abs().mean())

    before = error(solver.table().run(network, test))
    optimizer = torch.optim.Adam(solver.parameters(), lr=0.01)
    for step in range(150):
        first = noise(64, seed=100 + step)
        optimizer.zero_grad()
        (solver.run(network, first) - teacher.run(network, first)).abs().mean().backward()
        optimizer.step()
    assert error(solver.table().run(network, test)) < 0.7 * before


def test_a_quantized_network_answers_and_the_float_one_has_the_slope() -> None:
    mixed = quantized_forward(lambda x: (x * 4).round() / 4, lambda x: 3 * x)
    x = torch.tensor([0.3, 0.9], requires_grad=True)
    y = mixed(x)
    y.sum().backward()
    assert y.tolist() == [0.25, 1.0] and x.grad.tolist() == [3.0, 3.0]
