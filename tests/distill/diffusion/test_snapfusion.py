"""Progressive distillation that compares guided outputs some of the time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.distill.diffusion.progressive import Progressive
from compress.distill.diffusion.snapfusion import Snapfusion
from compress.distill.diffusion.trajectory import euler_step, x_target
from tests.distill.diffusion.common import batch_of, bed, euler, method
from tests.distill.diffusion.test_trajectory import WithExtra

LEVELS = (4.0, 1.0, 0.0)


class Asked(nn.Module):
    """Says a share of x, and what the condition row asks for."""

    def __init__(self, share: float, pull: float) -> None:
        super().__init__()
        self.share, self.pull = nn.Parameter(torch.tensor(share)), nn.Parameter(torch.tensor(pull))

    def forward(self, x: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        return self.share * x / (1 + time.reshape(-1, 1, 1, 1)) + self.pull * rows.sum(1).reshape(-1, 1, 1, 1)


def made(kind: Any, student: nn.Module, **options: Any) -> tuple[Any, WithExtra, Any]:
    rows = torch.arange(128.0)[:, None] % 3
    task = bed(LEVELS, euler, conditions=rows, drop=0.0)
    found, traced = method(kind, task, teacher=Asked(0.5, 1.0), student=student, halvings=1, **options)
    return found, WithExtra(traced, found.extra), batch_of(task)


def loss_of(found: Any, learner: nn.Module, batch: Any, seed: int = 3) -> tuple[dict[str, Tensor], list[Tensor]]:
    torch.manual_seed(seed)
    learner.requires_grad_(True).zero_grad()
    terms = found.loss(learner, batch)
    sum(terms.values()).backward()
    return terms, [parameter.grad.clone() for parameter in learner.student.parameters()]


def test_never_guided_it_is_progressive_distillation() -> None:
    found, learner, batch = made(Snapfusion, Asked(0.3, 0.2), guided_share=0.0)
    base, other, _ = made(Progressive, Asked(0.3, 0.2))
    torch.manual_seed(0)
    torch.rand(())  # the draw that decides whether to guide
    state = torch.get_rng_state()
    torch.manual_seed(0)
    mine = found.loss(learner, batch)["target"]
    torch.set_rng_state(state)
    assert torch.equal(mine, base.loss(other, batch)["target"]) and found.weight == 1.0


def test_guided_outputs_of_both_are_compared_by_one_weight() -> None:
    found, learner, batch = made(Snapfusion, Asked(0.3, 0.2), guided_share=1.0, weights=(2.0, 14.0))
    terms, _ = loss_of(found, learner, batch)
    weight = found.weight
    assert 2.0 <= weight <= 14.0
    torch.manual_seed(3)
    torch.rand(()), torch.rand(())
    number = torch.randint(2, (len(batch),))
    theirs = torch.tensor(found.grids(0)[1])
    now, middle, then = theirs[2 * number], theirs[2 * number + 1], theirs[2 * number + 2]

    def says(share: float, pull: float) -> Any:
        # D_nothing + w (D_asked - D_nothing) of a network whose condition only adds: the pull times w.
        return lambda x, level, rows: Asked(share, weight * pull)(x, level, rows).detach()

    noised = batch.target
    x = noised.clean + now.reshape(-1, 1, 1, 1) * noised.noise
    rows = (noised.condition,)
    halfway = euler_step(says(0.5, 1.0), x, now, middle, rows)
    target = x_target(x, euler_step(says(0.5, 1.0), halfway, middle, then, rows), now, then)
    error = (says(0.3, 0.2)(x, now, *rows) - target).square().flatten(1).mean(1)
    wanted = ((0.5 / now).square().clamp(min=1) * error).mean()
    torch.testing.assert_close(terms["target"].detach(), wanted, rtol=1e-4, atol=1e-5)


def test_guidance_makes_the_condition_count_by_its_weight() -> None:
    grads = {}
    for weights in ((2.0, 2.0), (8.0, 8.0)):
        found, learner, batch = made(Snapfusion, Asked(0.5, 0.9), guided_share=1.0, weights=weights)
        grads[weights[0]] = loss_of(found, learner, batch)[1][1]
    found, learner, batch = made(Snapfusion, Asked(0.5, 0.9), guided_share=0.0)
    plain = loss_of(found, learner, batch)[1][1]
    assert abs(grads[8.0]) > 3 * abs(grads[2.0]) > 3 * abs(plain)


def test_without_a_condition_nothing_is_guided_and_the_data_are_a_term_of_their_own() -> None:
    task = bed(LEVELS, euler)
    found, student = method(Snapfusion, task, halvings=1, guided_share=1.0, original=0.5)
    terms = found.loss(WithExtra(student, found.extra), batch_of(task))
    assert found.weight == 1.0 and set(terms) == {"target", "original"}
    noised = batch_of(task).target
    error = (student(noised.x, noised.level) - noised.clean).square().mean()
    assert float(terms["original"].detach()) == pytest.approx(0.5 * float(error.detach()), rel=1e-4)
