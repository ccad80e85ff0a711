"""Training for cases: it follows the seed alone, learns, and leaves what it shares as it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compress.adversarial import Adversary, AdversarySettings
from compress.bench.beds import points, shapes
from compress.bench.beds.seeds import seeded
from compress.bench.train import distil, learn, train_gan
from compress.distill.generator import Imitate


class _Pointwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Any) -> Any:
        return self.conv(x)


def test_distillation_follows_the_seed_and_leaves_the_shared_task_and_random_state_alone() -> None:
    task = shapes.filling()
    with seeded(3):
        teacher = _Pointwise().eval()

    def student(seed: int) -> nn.Module:
        return distil(Imitate, {}, teacher, _Pointwise, task, seed=seed, epochs=4, learning_rate=0.02)

    torch.manual_seed(0)
    state, before = torch.get_rng_state(), task._teacher
    first = student(1)
    assert torch.equal(torch.get_rng_state(), state) and task._teacher is before
    torch.manual_seed(99)
    again, other = student(1), student(2)
    x = next(task.batches("test")).inputs[0]
    assert torch.equal(first(x), again(x)) and not torch.equal(first(x), other(x))
    # 64 steps of a convex problem: most of the way from the random start.
    with seeded(1):
        start = _Pointwise()
    assert (first(x) - teacher(x)).abs().mean() < 0.3 * (start(x) - teacher(x)).abs().mean()


def test_learning_goes_by_the_tasks_own_targets() -> None:
    task = shapes.filling()
    with seeded(0):
        model = _Pointwise()
    before = shapes.filling_error(model)
    assert shapes.filling_error(learn(model, task, seed=0, epochs=4, learning_rate=0.02)) < before / 2


def test_the_adversary_takes_its_turns_and_the_average_is_returned() -> None:
    turns = {"generator": 0, "adversary": 0}

    class Counting(Adversary):
        def generator_loss(self, *arguments: Any) -> Any:
            turns["generator"] += 1
            return super().generator_loss(*arguments)

        def discriminator_loss(self, *arguments: Any) -> Any:
            turns["adversary"] += 1
            return super().discriminator_loss(*arguments)

    def made(average: float) -> nn.Module:
        with seeded(0):
            generator = points.generator(width=8)
            adversary = Counting(points.discriminator(8), AdversarySettings(loss="wasserstein", penalty="none"))
        return train_gan(
            generator, adversary, points.ring().draw, seed=0, steps=10, latent=2, batch_size=16, adversary_turns=5,
            average=average,
        )  # fmt: skip

    last = made(0.0)
    assert turns == {"generator": 2, "adversary": 10}
    assert not torch.equal(last[0][0].weight, made(0.9)[0][0].weight)
