"""A guide in the place of classifier-free guidance's second pass: what it learns, what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from compress.diffusion import Denoiser, guided
from compress.distill.diffusion.guide import Guide
from compress.errors import RecipeError
from compress.students.conditioned import ClassifierFree, WithGuide
from compress.train import OptimizerSettings
from tests.distill.diffusion.common import Gaussian, batch_of, bed
from tests.distill.diffusion.test_conditional import plain
from tests.distill.diffusion.test_trajectory import WithExtra

UNET = {"channels": 1, "width": 8, "multipliers": (1, 2), "conditions": 3}


def teacher() -> ClassifierFree:
    torch.manual_seed(0)
    made = ClassifierFree(UNET)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.15)
    return made


def pictures() -> Any:
    task = bed(conditions=torch.eye(4)[torch.arange(128) % 3], drop=0.0)  # (one of three, 0): the weight is drawn
    samples = torch.randn(256, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    task.clean, task.real = samples[:128], {"validation": samples[128:192], "test": samples[192:]}
    return task


def guide(**options: Any) -> tuple[Any, WithExtra, Any]:
    task = pictures()
    found, student = plain(Guide, task, teacher(), WithGuide(UNET, 4), **options)
    return found, WithExtra(student, found.extra), batch_of(task, 32)


def test_the_target_is_guidance_by_the_weight_that_both_are_told() -> None:
    """At first the student is the denoiser unguided, so its loss is that of two passes against one."""
    found, learner, batch = guide(weights=(3.0, 3.0))
    alone = teacher().base
    noised = batch.target
    rows, denoiser = noised.condition[:, :3], Denoiser(alone, found.task.preconditioning)
    with torch.no_grad():
        wanted = guided(denoiser, 3.0, torch.zeros_like)(noised.x, noised.level, rows)
        expected = (denoiser(noised.x, noised.level, rows) - wanted).square().mean()
        told = torch.cat([rows, torch.full((32, 1), 3.0)], 1)
        torch.testing.assert_close(found.real(noised.x, noised.level, told), wanted)
    assert float(found.loss(learner, batch)["guidance"]) == pytest.approx(float(expected), rel=1e-5)


def test_to_learn_weight_1_there_is_nothing_to_learn() -> None:
    found, learner, batch = guide(weights=(1.0, 1.0))
    assert float(found.loss(learner, batch)["guidance"]) < 1e-10
    found, learner, batch = guide(weights=(2.0, 2.0))
    assert float(found.loss(learner, batch)["guidance"]) > 1e-4


def test_weights_are_drawn_for_each_sample_and_conditions_stay() -> None:
    found, _, batch = guide()
    rows = found.weighted(batch.target.condition)
    assert torch.equal(rows[:, :3], batch.target.condition[:, :3])
    assert float(rows[:, 3].min()) >= 2 and float(rows[:, 3].max()) <= 9 and len(rows[:, 3].unique()) == 32
    assert not torch.equal(found.weighted(batch.target.condition), rows)
    with pytest.raises(RecipeError, match="the task has none"):
        found.weighted(None)


def test_the_guide_learns_the_denoiser_does_not_and_a_tuned_denoiser_takes_it_over() -> None:
    found, learner, _ = guide()
    student = learner.student
    (player,) = found.players(learner, OptimizerSettings("adamw", 3e-3))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=1e-2)

    def error(seed: int = 100) -> float:
        batch = found.task.train_batch(torch.arange(128), torch.Generator().manual_seed(seed))
        torch.manual_seed(seed)
        with torch.no_grad():
            return float(found.loss(learner, batch)["guidance"])

    unguided = error()
    for step in range(150):
        batch = found.task.train_batch(torch.arange(64), torch.Generator().manual_seed(step))
        torch.manual_seed(step)
        optimizer.zero_grad()
        sum(player.loss({"student": learner}, batch).values()).backward()
        optimizer.step()
    learned = error()
    assert learned < 0.3 * unguided
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name]) == (name in found.theirs or name.endswith("frequencies"))
    generator = torch.Generator().manual_seed(5)
    tuned = {
        name: value + 0.01 * torch.randn(value.shape, generator=generator)
        for name, value in found.teacher.state_dict().items()
    }
    for network in (student, found.teacher):
        network.load_state_dict({**network.state_dict(), **tuned})
    taken_over = error()
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name.startswith("added."):
                parameter.zero_()
    assert error() - taken_over > 0.8 * (unguided - learned) * error() / unguided


def test_it_asks_for_conditions_of_one_more_number() -> None:
    found, student = plain(Guide, bed(), Gaussian(), Gaussian(), whole=True)
    with pytest.raises(RecipeError, match="weight of guidance"):
        found.loss(WithExtra(student, None), batch_of(found.task))
