"""Pairs of a noise and the teacher's sample: that they are the teacher's, kept, and learned at every iteration."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.diffusion import euler, renoise, table_of
from compress.distill.diffusion.base import distance
from compress.distill.diffusion.offline_pairs import OfflinePairs, from_layer_on, last_iterated
from compress.errors import RecipeError
from compress.students.equilibrium import Equilibrium
from tests.distill.diffusion.common import MEAN, SAYS_CLEAN, STD, Gaussian, Linear, batch_of, bed, method
from tests.distill.diffusion.common import traced as traced_for
from tests.distill.diffusion.test_trajectory import WithExtra

LEVELS = (8.0, 3.0, 1.0, 0.2, 0.0)


def walked() -> tuple[float, float]:
    """(slope, offset) of the sample that Euler steps of the exact denoiser make of a noise."""
    slope, offset = LEVELS[0], 0.0
    for now, then in pairwise(LEVELS):
        ratio, share = then / now, STD**2 / (STD**2 + now**2)
        kept = ratio + (1 - ratio) * share
        slope, offset = kept * slope, kept * offset + (1 - ratio) * (1 - share) * MEAN
    return slope, offset


def made(student: nn.Module | None = None, **options: Any) -> tuple[Any, WithExtra]:
    task = bed(teacher_sampler=table_of("euler", euler, LEVELS, SAYS_CLEAN), **options.pop("task", {}))
    found, learning = method(OfflinePairs, task, student=student, **{"pairs": 100, **options})
    return found, WithExtra(learning, None)


def view(found: Any, seed: int = 0, count: int = 64) -> Any:
    return found.view(batch_of(found.task, count), torch.Generator().manual_seed(seed))


def test_the_pairs_are_what_the_teacher_walks_to_and_the_same_every_time() -> None:
    found, _ = made()
    noises, samples = found.pairs.noise, found.pairs.clean
    slope, offset = walked()
    assert noises.shape == samples.shape == (100, 1, 1, 1) and float(noises.std()) == pytest.approx(1, abs=0.2)
    torch.testing.assert_close(samples, slope * noises + offset, rtol=1e-5, atol=1e-5)
    torch.manual_seed(17)
    again, _ = made()
    assert torch.equal(again.pairs.noise, noises) and torch.equal(again.pairs.clean, samples)
    assert len(noises.unique()) == 100
    batch = view(found).target
    rows = [int((noises == noise).nonzero()[0, 0]) for noise in batch.noise]
    assert torch.equal(batch.clean, samples[rows]) and len(set(rows)) > 30
    assert torch.equal(view(found).target.noise, batch.noise)
    assert not torch.equal(view(found, 1).target.noise, batch.noise)


@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_a_student_that_says_the_samples_has_nothing_left_to_learn(metric: str) -> None:
    slope, offset = walked()
    found, learner = made(Linear(slope, offset), metric=metric)
    assert float(found.loss(learner, view(found))["pairs"]) < 1e-5
    found, learner = made(Linear(slope, offset + 0.5), metric=metric)
    assert float(found.loss(learner, view(found))["pairs"]) == pytest.approx(0.5 if metric == "l1" else 0.25, rel=1e-4)


def test_it_learns_the_walk_and_asks_the_teacher_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    found, learner = made(metric="l2")
    assert len(found.pairs.noise) == 100
    monkeypatch.setattr(found.teacher, "forward", lambda *_: pytest.fail("the teacher was asked"))
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.05)
    for step in range(300):
        optimizer.zero_grad()
        found.loss(learner, view(found, step))["pairs"].backward()
        optimizer.step()
    slope, offset = walked()
    assert float(learner.student.a) == pytest.approx(slope, abs=0.01)
    assert float(learner.student.b) == pytest.approx(offset, abs=0.01)


def test_a_teacher_that_draws_on_the_way_has_no_pairs() -> None:
    task = bed(teacher_sampler=table_of("re", renoise, (4.0, 1.0, 0.0), SAYS_CLEAN))
    with pytest.raises(RecipeError, match="draws noise"):
        method(OfflinePairs, task)


class Asked(nn.Module):
    """The denoiser of a point for each of three conditions; for none of them, of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            self.points.weight.copy_(torch.tensor([[1.0, 2.0, 4.0]]))

    def forward(self, x: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        found: Tensor = self.points(rows)[:, :, None, None] + 0 * (x + time.reshape(-1, 1, 1, 1))
        return found


@pytest.mark.parametrize("options", [{}, {"guidance": 2.0}, {"asked": (0, 2)}])
def test_conditions_are_asked_in_turn_with_guidance(options: dict[str, Any]) -> None:
    task = bed(
        conditions=torch.eye(3)[torch.arange(128) % 3], asked=torch.eye(3),
        teacher_sampler=table_of("euler", euler, LEVELS, SAYS_CLEAN),
    )  # fmt: skip
    found, _ = method(OfflinePairs, task, Asked(), Asked(), pairs=70, **options)
    samples, rows = found.pairs.clean, found.pairs.condition
    asked = options.get("asked", (0, 1, 2))
    assert torch.equal(rows.argmax(1), torch.tensor(asked)[torch.arange(70) % len(asked)])
    points = torch.tensor([1.0, 2.0, 4.0])[rows.argmax(1)] * options.get("guidance", 1.0)
    torch.testing.assert_close(samples.flatten(), points)


# Iterated students


def equilibrium(iterations: int) -> Equilibrium:
    torch.manual_seed(0)
    net = Equilibrium(1, 4, width=16, heads=2, injection=1, tied=2, iterations=iterations, widening=2)
    nn.init.normal_(net.last.weight, std=0.3)
    return net


def small_pictures() -> Any:
    task = bed(teacher_sampler=table_of("euler", euler, LEVELS, SAYS_CLEAN))
    samples = torch.randn(256, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    task.clean, task.real = samples[:128], {"validation": samples[128:192], "test": samples[192:]}
    return task


def test_each_iteration_is_corrected_by_what_the_network_would_say_after_it() -> None:
    task = small_pictures()
    found, student = method(OfflinePairs, task, Gaussian(), equilibrium(3), pairs=20, correction=0.8)
    names = [name for name, _ in student.named_parameters()]
    batch = view(found, count=16)
    loss = found.loss(WithExtra(student, None), batch)["pairs"]
    gradient = torch.autograd.grad(loss, [*student.parameters()])
    parts, summed = [], [torch.zeros_like(g) for g in gradient]
    for k in (1, 2, 3):
        shorter = equilibrium(k)
        shorter.load_state_dict(student.state_dict())
        said = found.generate(found.denoiser(shorter), batch.target.noise, ())
        parts.append(0.8 ** (3 - k) * distance(said, batch.target.clean, "l1").mean())
        theirs = torch.autograd.grad(parts[-1], [shorter.get_parameter(name) for name in names])
        summed = [whole + part for whole, part in zip(summed, theirs, strict=True)]
    torch.testing.assert_close(loss, torch.stack(parts).sum())
    for one, other in zip(gradient, summed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    last = OfflinePairs(
        found.teacher, student, task.example_inputs(), OfflinePairs.options_from({"pairs": 20, "correction": 0.0}), task
    )
    torch.testing.assert_close(last.loss(WithExtra(student, None), batch)["pairs"], parts[-1])


def test_what_is_iterated_is_found_and_the_rest_of_the_network_is_its_own() -> None:
    task = small_pictures()
    student = traced_for(equilibrium(3), task)
    assert last_iterated(student) == "settled" and last_iterated(traced_for(equilibrium(1), task)) is None
    rest = from_layer_on(student, "settled")
    assert {name for name, _ in rest.named_parameters()} == {"last.weight", "last.bias"}
    assert rest.get_parameter("last.weight") is student.get_parameter("last.weight")
