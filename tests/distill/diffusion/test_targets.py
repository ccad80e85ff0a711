"""Target-driven, invertible and backward distillation on N(0, c^2) around a mean, where the path is known."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.diffusion import SamplerTable, euler, table_of
from compress.distill.diffusion.imagine_flash import ImagineFlash, corrected
from compress.distill.diffusion.invertible import Invertible, InvertibleOptions, grid_and_ends, inversion_tables
from compress.distill.diffusion.target_driven import TargetDriven, level_of, schedule
from compress.distill.diffusion.trajectory import euler_step, refined, solve, x_target
from compress.errors import RecipeError
from compress.tasks.diffusion import Noised
from tests.distill.diffusion.common import MEAN, SAYS_CLEAN, STD, Gaussian, batch_of, bed, method
from tests.distill.diffusion.test_trajectory import Affine, exact, flowed


def in_double(batch: Any) -> Any:
    noised = batch.target
    return replace(batch, target=Noised(noised.clean.double(), noised.noise.double(), noised.level, noised.condition))


def seeded(compute: Callable[[], Any], seed: int = 3) -> Any:
    torch.manual_seed(seed)
    return compute()


def euler_factor(now: Tensor, then: Tensor) -> Tensor:
    """What a step of the exact denoiser leaves of x - MEAN."""
    ratio = then / now
    return ratio + (1 - ratio) * STD**2 / (STD**2 + now**2)


def same_gradients(one: Tensor, other: Tensor, network: nn.Module) -> None:
    torch.testing.assert_close(one, other)
    parameters = [p for p in network.parameters() if p.requires_grad]
    for ours, theirs in zip(*(torch.autograd.grad(each, parameters) for each in (one, other)), strict=True):
        torch.testing.assert_close(ours, theirs)


# TDD

RANGE = {"lowest": 0.05, "highest": 4.0}


def grid_levels(points: int) -> Tensor:
    return level_of(torch.arange(points + 1) / points, *RANGE.values())


def landing(points: int, ends: Callable[[int], int]) -> Affine:
    """The student whose jump from each point to its end lands where the teacher's Euler steps between do."""
    levels = grid_levels(points).double()
    student = Affine(levels.tolist()).double()
    with torch.no_grad():
        for point in range(1, points + 1):
            kept = torch.ones((), dtype=torch.float64)
            for step in range(point, ends(point), -1):
                kept = kept * euler_factor(levels[step], levels[step - 1])
            ratio = levels[ends(point)] / levels[point]
            student.a[point] = (kept - ratio) / (1 - ratio)
            student.b[point] = MEAN * (1 - student.a[point])
    return student


def test_targets_are_the_levels_of_all_schedules_within_reach() -> None:
    found, _ = method(TargetDriven, lowered=0.0)
    known = {Fraction(part, steps) for steps in range(4, 9) for part in range(steps)}
    for following in (Fraction(249, 250), Fraction(1, 2), Fraction(1, 10)):
        drawn = seeded(lambda f=following: found.draw_targets(torch.full((3000,), float(f))))
        first = max(share for share in known if share <= following)
        near = sorted(share for share in known if first - Fraction(26, 100) <= share <= first)
        assert drawn.unique().tolist() == pytest.approx([float(share) for share in near])
    found.options = replace(found.options, lowered=0.3)
    lowest = seeded(lambda: found.draw_targets(torch.full((3000,), 0.13)))  # 1 / 8 or 0
    assert set((lowest > 0).tolist()) == {True, False}
    assert 0.7 / 8 - 1e-6 <= float(lowest[lowest > 0].min()) < 0.73 / 8 and float(lowest.max()) > 0.97 / 8
    found.options = replace(found.options, targets="anywhere")
    spread = seeded(lambda: found.draw_targets(torch.full((3000,), 0.5)))
    assert float(spread.max()) < 0.5 and len(spread.unique()) > 2500


def test_a_schedule_falls_over_the_targets_to_zero() -> None:
    levels = schedule(4, **RANGE)
    shares = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)
    assert levels == pytest.approx([*level_of(shares, *RANGE.values()).tolist(), 0.0])
    assert levels[0] == pytest.approx(4.0) and float(level_of(torch.zeros(()), *RANGE.values())) == pytest.approx(0.05)


def test_a_student_that_lands_where_the_teacher_does_has_nothing_to_learn() -> None:
    """With the levels of a two-step schedule as the only targets, each point has one, and such a student exists."""
    losses = {}
    for name, ends in (("schedule", lambda point: 4 if point > 4 else 0), ("end", lambda point: 0)):
        student = landing(8, ends)
        for targets in ("schedules", "end"):
            found, _ = method(TargetDriven, steps=(2,), points=8, lowered=0.0, targets=targets, metric="l2", **RANGE)
            found.teacher = Gaussian().double().requires_grad_(False)
            losses[name, targets] = float(
                seeded(lambda m=found, s=student: m.loss(s, in_double(batch_of(m.task)))["target"].detach())
            )
    assert losses["schedule", "schedules"] < 1e-12 and losses["end", "end"] < 1e-12
    assert losses["schedule", "end"] > 1e-3 and losses["end", "schedules"] > 1e-3


def test_with_the_end_as_target_it_is_a_consistency_model() -> None:
    found, student = method(
        TargetDriven, student=Affine([0.05, 0.5, 4.0]), targets="end", points=20, metric="l2", **RANGE
    )
    with torch.no_grad():
        student.a.copy_(torch.tensor([0.9, 0.5, 0.1]))
    batch = batch_of(found.task)
    number = seeded(lambda: torch.randint(1, 21, (64,)))
    now, then = (level_of(each / 20, *RANGE.values()) for each in (number, number - 1))
    end = torch.full((64,), 0.05)
    x = batch.target.clean + now.reshape(-1, 1, 1, 1) * batch.target.noise
    wanted = euler_step(found.denoiser(student), euler_step(exact, x, now, then, ()), then, end, ()).detach()
    plain = (euler_step(found.denoiser(student), x, now, end, ()) - wanted).square().mean() / (1 + 0.05**2)
    same_gradients(seeded(lambda: found.loss(student, batch)["target"]), plain, student)


def test_some_samples_lose_their_condition_for_student_and_teacher_alike() -> None:
    seen: dict[str, list[Tensor]] = {"teacher": [], "student": []}

    class Listens(Gaussian):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
            seen[self.name].append(condition)
            return super().forward(x, time)

    task = bed(conditions=torch.ones(128, 1), drop=0.0)
    for share in (0.2, 0.0):
        plain, _ = method(TargetDriven, task, teacher=Conditional(), student=Conditional(), unasked=share)
        plain.teacher = Listens("teacher")
        for each in seen.values():
            each.clear()
        seeded(
            lambda m=plain: m.loss(
                Listens("student"), task.train_batch(torch.arange(128).repeat(20), torch.Generator())
            )
        )
        gone = float((seen["student"][0] == 0).float().mean())
        assert gone == pytest.approx(share, abs=0.03)
        assert all(torch.equal(each, seen["student"][0]) for rows in seen.values() for each in rows)


# iCD

CUT = InvertibleOptions(points=8, segments=2, lowest=0.05, highest=4.0, metric="l2")
OPTIONS = {"points": 8, "segments": 2, "lowest": 0.05, "highest": 4.0, "metric": "l2"}


class TwoTimes(Gaussian):
    """The exact denoiser, told a second time that it does not look at."""

    def forward(self, x: Tensor, time: Tensor, until: Tensor) -> Tensor:
        return super().forward(x, time) + 0 * until.reshape(-1, 1, 1, 1)


class Conditional(TwoTimes):
    """One whose word depends on a condition (N, 1), in the place of the second time or behind it."""

    def forward(self, x: Tensor, time: Tensor, *others: Tensor) -> Tensor:
        return super().forward(x, time, others[0]) + others[-1].reshape(-1, 1, 1, 1)


class Exact(nn.Module):
    """Jumps along the exact path, either way."""

    def forward(self, x: Tensor, time: Tensor, until: Tensor) -> Tensor:
        stays = (time == until).reshape(-1, 1, 1, 1)
        return torch.where(stays, x, x_target(x, flowed(x, time, until), time, until))


class Jumps(nn.Module):
    """Says a x + b with a free choice for each pair of levels of a grid."""

    def __init__(self, grid: Tensor) -> None:
        super().__init__()
        self.register_buffer("grid", grid)
        self.a, self.b = (nn.Parameter(torch.zeros(len(grid), len(grid))) for _ in range(2))

    def forward(self, x: Tensor, time: Tensor, until: Tensor) -> Tensor:
        here, there = ((each[:, None] - self.grid[None]).abs().argmin(1) for each in (time, until))
        return self.a[here, there].reshape(-1, 1, 1, 1) * x + self.b[here, there].reshape(-1, 1, 1, 1)


def both_ways(student: nn.Module | None = None, teacher: nn.Module | None = None, **options: Any) -> tuple[Any, Any]:
    task = bed()
    task.sampler, _ = inversion_tables(SAYS_CLEAN, CUT)
    task.takes_until = True
    learner = student or Jumps(grid_and_ends(CUT)[0])
    return method(Invertible, task, teacher or TwoTimes(), learner, **{**OPTIONS, **options})


def double_loss(found: Any, student: nn.Module) -> dict[str, float]:
    found.teacher = copy.deepcopy(found.teacher).double()
    return {
        name: float(term.detach())
        for name, term in seeded(lambda: found.loss(student, in_double(batch_of(found.task)))).items()
    }


def test_segments_end_where_those_of_both_directions_meet() -> None:
    grid, ends = grid_and_ends(InvertibleOptions())
    assert len(grid) == 51 and ends.tolist() == [0, 12, 25, 38, 50]
    decoder, encoder = inversion_tables(SAYS_CLEAN)
    assert decoder.levels[1:] == encoder.levels[:0:-1]
    assert [row.until for row in decoder.rows[:-1]] == pytest.approx([float(grid[end]) for end in (12, 25, 38, 50)])
    assert [row.until for row in encoder.rows[:-1]] == pytest.approx([float(grid[end]) for end in (38, 25, 12, 0)])
    assert SamplerTable.from_dict(encoder.to_dict()) == encoder


def test_the_exact_map_encodes_to_noise_and_comes_back() -> None:
    decoder, encoder = inversion_tables(SAYS_CLEAN, CUT)
    samples = MEAN + STD * torch.randn(4000, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    latents = encoder.run(Exact(), samples)
    spread = ((STD**2 + 4.0**2) / (STD**2 + 0.05**2)) ** 0.5
    torch.testing.assert_close(latents, (MEAN + (samples - MEAN) * spread) / 4.0, rtol=1e-6, atol=1e-6)
    assert float(latents.std()) == pytest.approx(1.0, abs=0.05)
    torch.testing.assert_close(decoder.run(Exact(), latents), samples, rtol=1e-9, atol=1e-9)


def stepping(grid: Tensor) -> Jumps:
    """The student whose jumps land where the teacher's Euler steps do, either way."""
    steps, count = Jumps(grid.double()).double(), len(grid)
    with torch.no_grad():
        for here in range(count):
            for there in range(count):
                way, kept = (1 if there > here else -1), torch.ones((), dtype=torch.float64)
                for step in range(here, there, way):
                    kept = kept * euler_factor(steps.grid[step], steps.grid[step + way])
                if here != there:
                    ratio = steps.grid[there] / steps.grid[here]
                    steps.a[here, there] = (kept - ratio) / (1 - ratio)
                    steps.b[here, there] = MEAN * (1 - steps.a[here, there])
    return steps


def test_what_preserves_is_zero_for_an_exact_map_and_not_for_the_teacher_s_steps() -> None:
    found, _ = both_ways()
    walked, jumped = double_loss(found, stepping(found.grid)), double_loss(found, Exact())
    assert walked["decode"] < 1e-12 and walked["encode"] < 1e-12  # it lands where the teacher does
    assert walked["preserve_decode"] > 1e-3 and walked["preserve_encode"] > 1e-3  # Euler steps do not come back
    assert jumped["preserve_decode"] < 1e-12 and jumped["preserve_encode"] < 1e-12
    assert jumped["decode"] > 1e-6 and jumped["encode"] > 1e-6  # the teacher's steps are not exact


def test_what_is_encoded_learns_to_come_back() -> None:
    """From the teacher's own steps, which consistency alone does not move."""
    samples = MEAN + STD * torch.randn(500, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    decoder, encoder = inversion_tables(SAYS_CLEAN, CUT)
    found, _ = both_ways()
    found.teacher, student = copy.deepcopy(found.teacher).double(), stepping(found.grid)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    batch, errors = in_double(batch_of(found.task)), []
    for step in range(40):
        with torch.no_grad():
            came_back = decoder.run(student, encoder.run(student, samples))
        errors.append(float((came_back - samples).square().mean()))
        terms = seeded(lambda: found.loss(student, batch), step)
        if not step:
            alone = torch.autograd.grad(terms["decode"] + terms["encode"], student.a, retain_graph=True)[0]
        optimizer.zero_grad()
        sum(terms.values()).backward()
        if not step:
            assert float(alone.norm()) < 1e-4 * float(student.a.grad.norm())
        optimizer.step()
    assert errors[-1] < 0.4 * errors[0]


@pytest.mark.parametrize("way", ["decode", "encode"])
def test_only_the_way_back_learns_to_preserve(way: str) -> None:
    found, student = both_ways()
    with torch.no_grad():
        student.a.fill_(0.3)
    noised = batch_of(found.task).target
    segment = seeded(lambda: torch.randint(2, (64,)))
    upper, lower = found.grid[found.ends[segment]], found.grid[found.ends[segment + 1]]
    here, there = (lower, upper) if way == "decode" else (upper, lower)
    x = noised.clean + here.reshape(-1, 1, 1, 1) * noised.noise
    reached = euler_step(student, x, here, there, (there,)).detach()
    back = euler_step(student, reached, there, here, (here,))
    plain = ((back - x).flatten(1).square().mean(1) / (1 + here**2)).mean()
    same_gradients(seeded(lambda: found.preservation(student, noised, (), way)), plain, student)


def test_without_preservation_only_consistency_is_left() -> None:
    terms = {}
    for preserve in (0.0, 2.0):
        found, student = both_ways(preserve=preserve)
        terms[preserve] = seeded(lambda m=found, s=student: m.loss(s, batch_of(m.task)))
    assert set(terms[0.0]) == {"decode", "encode"} and len(terms[2.0]) == 4
    assert all(torch.equal(terms[0.0][name], terms[2.0][name]) for name in terms[0.0])


def test_guidance_is_of_decoding_alone() -> None:
    terms = {}
    for guidance in (1.0, 3.0):
        task = bed(conditions=torch.ones(128, 1), drop=0.0)
        task.sampler, task.takes_until = inversion_tables(SAYS_CLEAN, CUT)[0], True
        found, student = method(Invertible, task, Conditional(), Conditional(), **OPTIONS, guidance=guidance)
        terms[guidance] = seeded(lambda m=found, s=student: m.loss(s, batch_of(m.task)))
    same = {name: torch.equal(terms[1.0][name], terms[3.0][name]) for name in terms[1.0]}
    assert same == {"decode": False, "encode": True, "preserve_decode": True, "preserve_encode": True}


def test_a_student_without_a_second_time_is_refused() -> None:
    with pytest.raises(RecipeError, match="takes a second time"):
        method(Invertible)


# Imagine Flash

LEVELS = (4.0, 1.0, 0.0)


def flash(student: nn.Module | None = None, **options: Any) -> tuple[Any, Any]:
    return method(ImagineFlash, bed(LEVELS, euler), student=student or Affine([4.0, 1.0]), **options)


def test_the_first_step_keeps_the_noise_that_was_drawn() -> None:
    """What a network says has its whole weight in the next point; an Euler step takes 1 / 4 of it away."""
    right, wrong = (table_of("", sampler, LEVELS, SAYS_CLEAN).rows[1] for sampler in (corrected, euler))
    assert (right.start, right.outputs) == (1.0, (1.0,)) and (wrong.start, wrong.outputs) == (1.0, (0.75,))
    last, plain = (table_of("", sampler, LEVELS, SAYS_CLEAN).rows[2] for sampler in (corrected, euler))
    assert last.outputs == plain.outputs == (0.0, 1.0)
    for correction, weight in ((True, 1.0), (False, 0.75)):
        found, student = flash(correction=correction)
        with torch.no_grad():
            student.b.fill_(MEAN)  # the right mean of samples at once
            x = seeded(lambda m=found, s=student: m.walked(m.denoiser(s), 1, 64, ()))
        torch.testing.assert_close(x, weight * MEAN + 1.0 * seeded(lambda: torch.randn(64, 1, 1, 1)))


def test_the_student_learns_on_its_own_path() -> None:
    """No real sample reaches the loss, unless the path is the data's."""
    for path, same in (("student", True), ("data", False)):
        found, student = flash(path=path)
        batch = batch_of(found.task)
        other = replace(batch, target=replace(batch.target, clean=batch.target.clean + 1))
        one, two = (
            seeded(lambda m=found, s=student, b=each: m.loss(s, b)["reconstruction"]) for each in (batch, other)
        )
        assert torch.equal(one, two) == same


@pytest.mark.parametrize("path", ["student", "data"])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_without_a_shift_the_teacher_starts_from_the_same_point(path: str, seed: int) -> None:
    found, student = flash(path=path, shift=1.0)
    with torch.no_grad():
        student.a.copy_(torch.tensor([0.1, 0.4]))
        student.b.copy_(torch.tensor([1.0, 0.5]))
    batch = batch_of(found.task)
    torch.manual_seed(seed)
    number = int(torch.randint(2, ()))
    level = torch.full((64,), LEVELS[number])
    if path == "data":
        x = batch.target.clean + LEVELS[number] * batch.target.noise
    else:
        noise = torch.randn(64, 1, 1, 1)
        x = (student(4 * noise, torch.full((64,), 4.0)) + noise).detach() if number else 4 * noise
    wanted = solve(exact, x, refined([LEVELS[number], 0.0], 4), ())
    plain = (student(x, level) - wanted).square().mean()
    same_gradients(seeded(lambda: found.loss(student, batch)["reconstruction"], seed), plain, Only(student, number))


class Only(nn.Module):
    """The parameters of one level, as a module: those of the other have no gradient at all."""

    def __init__(self, student: Affine, number: int) -> None:
        super().__init__()
        self.a, self.b = student.a, student.b


def test_the_teacher_starts_from_the_student_s_word_with_less_noise() -> None:
    x = (MEAN + 3 * torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0))).double()
    said, level = 0.5 * x + 1, torch.full((20_000,), 3.0, dtype=torch.float64)
    levels = refined([1.2, 0.0], 4)
    kept = float(solve(exact, torch.full((1, 1, 1, 1), MEAN + 1, dtype=torch.float64), levels, ()) - MEAN)
    found, _ = flash(shift=0.4)
    found.teacher = Gaussian().double().requires_grad_(False)
    started = said + 1.2 * (x - said) / 3.0
    own = found.reconstruction(said, x, level, ()).detach()
    torch.testing.assert_close(own, MEAN + kept * (started - MEAN), rtol=1e-6, atol=1e-6)
    anew, _ = flash(shift=0.4, fresh=True)
    anew.teacher = found.teacher
    fresh = seeded(lambda: anew.reconstruction(said, x, level, ())).detach()
    torch.testing.assert_close(fresh.std() ** 2, kept**2 * (said.std() ** 2 + 1.2**2), rtol=0.03, atol=0)
    slope = ((fresh - fresh.mean()) * (said - said.mean())).mean() / said.var()
    assert float(slope) == pytest.approx(kept, abs=0.02)  # on average what is said shrinks to the mean


def test_a_student_that_says_what_the_teacher_makes_is_done_and_its_colours_are_nearly_right() -> None:
    """From pure noise the teacher itself misses a little of the mean; an Euler step loses more of it."""
    means = {}
    for sampler, correction in ((corrected, True), (euler, False)):
        found, _ = flash(shift=1.0, correction=correction, path="data")
        student = Affine([4.0, 1.0]).double()
        found.teacher = Gaussian().double().requires_grad_(False)
        with torch.no_grad():
            for number, level in enumerate(LEVELS[:2]):
                one = torch.full((1, 1, 1, 1), MEAN + 1, dtype=torch.float64)
                student.a[number] = float(solve(exact, one, refined([level, 0.0], 4), ())) - MEAN
                student.b[number] = MEAN * (1 - student.a[number])
        for seed in range(4):
            assert (
                float(
                    seeded(lambda m=found, s=student: m.loss(s, in_double(batch_of(m.task))), seed)[
                        "reconstruction"
                    ].detach()
                )
                < 1e-12
            )
        table = table_of("", sampler, LEVELS, SAYS_CLEAN)
        means[correction] = float(table.run(student, torch.zeros(1, 1, 1, 1, dtype=torch.float64)).detach())
    kept = [STD / (STD**2 + level**2) ** 0.5 for level in LEVELS[:2]]  # on the exact path
    assert means[True] == pytest.approx(MEAN - MEAN * kept[0] * kept[1], abs=0.05)
    assert abs(means[False] - MEAN) > 2 * abs(means[True] - MEAN)
