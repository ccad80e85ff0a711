"""Trajectory distillation where the path is known: N(0, c^2), whose probability flow has a closed form."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.diffusion import Flow, SamplerTable, euler, karras_levels, preconditioning_of, renoise, table_of
from compress.diffusion.preconditioning import consistency
from compress.distill.diffusion.boot import Boot, boot_table
from compress.distill.diffusion.consistency import Consistency, points_of
from compress.distill.diffusion.flow_map import FlowMap, flow_map_table
from compress.distill.diffusion.progressive import Progressive
from compress.distill.diffusion.sfd_traj import SfdTraj
from compress.distill.diffusion.trajectory import euler_step, heun_step, refined, solve, x_target
from tests.distill.diffusion.common import MEAN, SAYS_CLEAN, STD, Gaussian, batch_of, bed, method


def flowed(x: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """x at levels `then` along the exact path."""
    shape = (-1, *([1] * (x.dim() - 1)))
    ratio = torch.sqrt((STD**2 + then**2) / (STD**2 + now**2)).reshape(shape)
    return MEAN + (x - MEAN) * ratio


def exact(x: Tensor, level: Tensor, *condition: Tensor) -> Tensor:
    return Gaussian().to(x.dtype)(x, level).detach()


class Affine(nn.Module):
    """Says a(level) x + b(level), with a free choice at each of a few levels."""

    def __init__(self, levels: list[float]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels))
        self.a, self.b = (nn.Parameter(torch.zeros(len(levels))) for _ in range(2))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        here = (time[:, None] - self.levels[None]).abs().argmin(1)
        return self.a[here].reshape(-1, 1, 1, 1) * x + self.b[here].reshape(-1, 1, 1, 1)


def train(found: Any, learner: nn.Module, steps: int, rate: float = 0.03, epochs: int = 0) -> list[float]:
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], lr=rate)
    losses = []
    for step in range(steps):
        if epochs and step % (steps // epochs) == 0:
            found.on_epoch(step * epochs // steps, epochs)
        batch = found.task.train_batch(torch.arange(64), torch.Generator().manual_seed(step))
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = sum(found.loss(learner, batch).values())
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        losses.append(float(loss.detach()))
    return losses


class WithExtra(nn.Module):
    """A student and its method's modules, as the pipeline's learner holds them."""

    def __init__(self, student: nn.Module, extra: nn.Module | None) -> None:
        super().__init__()
        self.student, self.extra = student, extra

    def forward(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self.student(*inputs)
        return output


X = 3 * torch.randn(32, 1, 1, 1, generator=torch.Generator().manual_seed(0))


def test_one_step_with_the_target_lands_where_two_steps_do() -> None:
    x, now, middle, then = X.double(), *(torch.full((32,), v, dtype=torch.float64) for v in (3.0, 1.5, 0.7))
    reached = euler_step(exact, euler_step(exact, x, now, middle, ()), middle, then, ())
    target = x_target(x, reached, now, then)
    torch.testing.assert_close(euler_step(lambda *_: target, x, now, then, ()), reached, rtol=1e-12, atol=1e-12)


def test_steps_follow_the_path_the_finer_the_closer() -> None:
    now, then = torch.full((32,), 3.0), torch.full((32,), 2.0)
    wanted = flowed(X, now, then)
    single = float((euler_step(exact, X, now, then, ()) - wanted).abs().max())
    better = float((heun_step(exact, X, now, then, ()) - wanted).abs().max())
    fine = float((solve(exact, X, refined([3.0, 2.0], 6), ()) - wanted).abs().max())
    assert fine < 0.3 * better and better < 0.6 * single


def test_refined_grids_contain_the_coarse_one() -> None:
    levels = [float(level) for level in karras_levels(4, 0.02, 20.0)]
    fine = refined(levels, 3)
    assert fine[::3] == pytest.approx(levels) and len(fine) == 13 and all(b < a for a, b in pairwise(fine))


def test_progressive_rounds_end_at_the_task_s_own_steps() -> None:
    levels = (4.0, 1.0, 0.25, 0.0)
    task = bed(levels, euler)
    found, student = method(Progressive, task, student=Affine([*levels]), halvings=3)
    assert [len(found.grids(round)[0]) - 1 for round in range(3)] == [12, 6, 3]
    assert found.grids(2)[0] == pytest.approx([*levels]) and found.grids(1)[0] == pytest.approx(found.grids(2)[1])
    learner = WithExtra(student, found.extra)
    with torch.no_grad():
        student.a.fill_(0.25)
    found.on_epoch(0, 6)
    assert int(found.extra.round) == 0 and float(found.extra["previous"].a[0]) == 0.0
    found.on_epoch(2, 6)
    assert int(found.extra.round) == 1 and float(found.extra["previous"].a[0]) == 0.25
    with torch.no_grad():
        student.a.fill_(0.5)
    found.on_epoch(3, 6)  # in the middle of a round, or after an interruption there
    assert float(found.extra["previous"].a[0]) == 0.25
    assert "extra.round" in learner.state_dict()


def test_progressive_halves_steps_without_leaving_the_path() -> None:
    """One Euler step of the exact denoiser from level 4 to 0 says the mean; the student keeps the spread."""
    task = bed((4.0, 0.0), euler)
    found, student = method(Progressive, task, student=Affine([*refined(refined([4.0, 0.0]))][:-1]), halvings=3)
    learner = WithExtra(student, found.extra)
    train(found, learner, 1500, 0.02, epochs=3)
    x = 4 * torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(1)) + MEAN
    spread = float(student(x, torch.full((4000,), 4.0)).std())
    alone = float(exact(x, torch.full((4000,), 4.0)).std())
    teacher_steps = [float(level) for level in refined(refined(refined([4.0, 0.0])))]
    walked = x
    for now, then in pairwise(teacher_steps):
        walked = euler_step(exact, walked, torch.full((4000,), now), torch.full((4000,), then), ())
    assert spread == pytest.approx(float(walked.std()), rel=0.3) and alone < 0.3 * spread


def test_points_on_a_path_grow_as_the_paper_s() -> None:
    assert [points_of(k / 10, 2, 200) for k in (0, 10)] == [2, 201]
    values = [points_of(k / 10, 2, 200) for k in range(11)]
    assert values == sorted(values) and points_of(0.5, 2, 200) == 143


@pytest.mark.parametrize("options", [{}, {"target": "student"}, {"teacher": False}])
def test_a_consistent_student_says_the_end_of_the_path(options: dict[str, Any]) -> None:
    """f(x, level) = MEAN + (x - MEAN) c / sqrt(c^2 + level^2) is what consistency converges to."""
    levels = [float(v) for v in karras_levels(8, 0.05, 4.0)[:-1]]
    predicts = consistency(STD, 0.05)

    class Scaled(Affine):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return super().forward(x, torch.exp(4 * time))

    task = bed((4.0, 0.0), renoise, teacher_preconditioning=SAYS_CLEAN)
    task.preconditioning = predicts
    found, student = method(
        Consistency, task, student=Scaled(levels), points=8, lowest=0.05, highest=4.0, average=0.9, **options
    )
    learner = WithExtra(student, found.extra)
    before = train(found, learner, 900, 0.05)[0]
    level = torch.full((32,), 4.0)
    x = MEAN + X
    wanted = flowed(x, level, torch.full((32,), 0.05))
    error = float((found.denoiser(student)(x, level) - wanted).abs().mean())
    assert error < 0.35 and before > 0


def test_boot_s_target_is_a_ddim_step_of_the_signal() -> None:
    noise = torch.randn(32, 1, 1, 1, dtype=torch.float64)
    signal = 0.5 * torch.randn(32, 1, 1, 1, dtype=torch.float64)
    now, then = (torch.full((32,), v, dtype=torch.float64) for v in (2.0, 1.5))
    stepped = euler_step(exact, signal + 2.0 * noise, now, then, ()) - 1.5 * noise
    ratio = 1.5 / 2.0
    torch.testing.assert_close(ratio * signal + (1 - ratio) * exact(signal + 2.0 * noise, now), stepped)


def test_boot_needs_no_data_and_says_where_the_path_ends() -> None:
    task = bed()
    levels = [8.0 * (0.05 / 8.0) ** (k / 12) for k in range(13)]
    found, student = method(Boot, task, student=Affine(levels), lowest=0.05, highest=8.0, steps=12)
    assert found.loss.__code__.co_names.count("target") == 0
    train(found, student, 1500, 0.05)
    task.sampler = boot_table(SAYS_CLEAN, 0.05, 8.0)
    made = task.make(student, count=2000)
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.3) and float(made.std()) == pytest.approx(STD, rel=0.4)
    one_step = exact(8.0 * torch.randn(2000, 1, 1, 1), torch.full((2000,), 8.0))
    assert float(one_step.std()) < 0.1 * STD


@pytest.mark.parametrize("options", [{}, {"path": "teacher"}, {"free_from": 12.0}])
def test_a_few_learned_steps_reach_what_many_do(options: dict[str, Any]) -> None:
    levels = (4.0, 1.0, 0.0)
    task = bed(levels, euler)
    found, student = method(SfdTraj, task, student=Affine([*levels]), fine_steps=6, **options)
    train(found, student, 700, 0.05)
    task.sampler = table_of("euler", euler, levels, SAYS_CLEAN)
    made, plain = task.make(student, count=2000), task.make(Gaussian(), count=2000)
    start = levels[0] * torch.randn(2000, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    wanted = float(solve(exact, solve(exact, start, refined(levels[:2], 6), ()), refined(levels[1:], 6), ()).std())
    assert float(made.std()) == pytest.approx(wanted, rel=0.12) and float(plain.std()) < 0.75 * wanted


class FlowLinear(nn.Module):
    """F(x, t, s) = p x + q with free functions of (t, s): a small net."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))

    def forward(self, x: Tensor, time: Tensor, until: Tensor) -> Tensor:
        p, q = self.net(torch.stack([time, until], 1))[:, :, None, None, None].unbind(1)
        return p * x + q


def flow_bed(steps: int = 1) -> Any:
    times = [0.98 * (1 - k / steps) for k in range(steps + 1)]
    task = bed(teacher_preconditioning=SAYS_CLEAN)
    task.preconditioning = preconditioning_of("flow_prediction")
    task.sampler = flow_map_table(times)
    return task


def flow_method(**options: Any) -> tuple[Any, nn.Module]:
    task = flow_bed()
    inputs = (*task.example_inputs(), torch.zeros(1))
    teacher, student = Gaussian(), FlowLinear()
    from compress.graph.trace import trace

    made = FlowMap(
        trace(teacher, task.example_inputs()), trace(student, inputs), inputs, FlowMap.options_from(options), task
    )
    return made, student


def test_without_a_tangent_a_flow_map_is_flow_matching() -> None:
    found, student = flow_method(tangent=0.0, normalize=0.0)
    batch = batch_of(found.task)
    torch.manual_seed(3)
    loss = found.loss(student, batch)["flow"]
    gradient = torch.autograd.grad(loss, list(student.parameters()))
    torch.manual_seed(3)
    time = torch.sigmoid(found.options.time_mean + torch.randn(64)).clamp(1e-3, found.options.latest)
    until = time * torch.rand(64)
    share = time.reshape(-1, 1, 1, 1)
    x = (1 - share) * batch.target.clean + share * batch.target.noise
    flow = (x - exact(x / (1 - share), time / (1 - time))) / share
    plain = 0.5 * (student(x, time, until) - flow).square().mean()
    for one, other in zip(gradient, torch.autograd.grad(plain, list(student.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_derivative_along_the_path_is_that_of_finite_differences() -> None:
    found, student = flow_method()
    student = student.double()
    x, flow = X.double(), torch.randn(32, 1, 1, 1, dtype=torch.float64)
    time = 0.2 + 0.6 * torch.rand(32, dtype=torch.float64)
    until = 0.5 * time
    _, change = found.along(student, x, flow, time, until, ())
    step = 1e-4
    ahead, behind = (student(x + sign * step * flow, time + sign * step, until) for sign in (1, -1))
    torch.testing.assert_close(change, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-6)


def test_a_flow_map_is_as_good_with_one_step_as_with_many() -> None:
    found, student = flow_method(normalize=0.0, tangent=1.0)
    train(found, student, 2500, 0.01, epochs=50)
    spreads = {}
    for steps in (1, 2, 8):
        task = flow_bed(steps)
        made = task.make(student, count=4000)
        spreads[steps] = (float(made.mean()), float(made.std()))
    for mean, std in spreads.values():
        assert mean == pytest.approx(MEAN, abs=0.15) and std == pytest.approx(STD, rel=0.2)
    matching, student = flow_method(normalize=0.0, tangent=0.0)
    train(matching, student, 800, 0.01, epochs=50)
    alone = float(flow_bed(1).make(student, count=4000).std())  # one step of plain flow matching says the mean
    assert abs(alone - STD) > 1.3 * abs(spreads[1][1] - STD)


def test_flow_map_tables_walk_the_flow() -> None:
    table = flow_map_table([0.9, 0.4, 0.0])
    seen: list[tuple[float, float]] = []

    def network(x: Tensor, time: Tensor, until: Tensor) -> Tensor:
        seen.append((float(time[0]), float(until[0])))
        return x

    first = torch.ones(1, 1)
    assert float(table.run(network, first)) == pytest.approx(0.9 * (1 - 0.5) * (1 - 0.4))
    assert seen == [(pytest.approx(0.9), pytest.approx(0.4)), (pytest.approx(0.4), 0.0)]
    assert SamplerTable.from_dict(table.to_dict()) == table
    assert table.levels == pytest.approx([float(Flow().level(torch.tensor(t))) for t in (0.9, 0.4)])
