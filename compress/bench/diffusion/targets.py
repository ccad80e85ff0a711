"""Distillation of the digits' denoiser into steps that aim somewhere: at schedules, back to noise, at a projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compress.bench.beds import digits_diffusion as bed
from compress.bench.diffusion.common import (
    BED,
    EPOCHS,
    ONE_LEVEL,
    case,
    few_steps,
    frechet,
    student_of,
    versus,
)
from compress.diffusion import SamplerTable, euler, karras, table_of
from compress.distill.diffusion.idempotent import Idempotent, idempotent_table
from compress.distill.diffusion.imagine_flash import ImagineFlash, corrected
from compress.distill.diffusion.invertible import Invertible, InvertibleOptions, inversion_tables
from compress.distill.diffusion.self_corrected import SelfCorrected
from compress.distill.diffusion.target_driven import TargetDriven, schedule
from compress.tasks import Diffusion

LEVELS = {"lowest": bed.LOWEST, "highest": bed.HIGHEST}
MEANS = karras(bed.DATA_STD)
SEGMENTS = InvertibleOptions(lowest=bed.LOWEST, highest=bed.HIGHEST)
JUDGED = 300
THREE = [bed.HIGHEST, 3.0, 0.6, 0.0]


def _table(levels: list[float], sampler: Any = euler) -> SamplerTable:
    return table_of(f"{len(levels) - 1} steps", sampler, levels, MEANS)


def _both_ways() -> nn.Module:
    """The teacher as a student that is told where to go: it begins by not looking at that."""
    made = bed.network(until=True)
    made.load_state_dict(bed.teacher().state_dict(), strict=False)
    return made.requires_grad_(True)


def _invertible(seed: int, preserve: float) -> nn.Module:
    decoder, _ = inversion_tables(MEANS, SEGMENTS)
    options = {**LEVELS, "preserve": preserve}
    student, _ = student_of(Invertible, options, decoder, seed, epochs=2 * EPOCHS, rate=1e-3, network=_both_ways)
    return student


@torch.no_grad()
def _round_trip(student: nn.Module) -> float:
    """The root mean square error of digits that were encoded and decoded."""
    decoder, encoder = inversion_tables(MEANS, SEGMENTS)
    digits, condition = _judged()
    back = decoder.run(student, encoder.run(student, digits, condition), condition)
    return float((back - digits).square().mean().sqrt())


def _judged() -> tuple[Tensor, Tensor]:
    """(digits that no student saw, their conditions)."""
    judging = bed.halves()[1]
    return judging.images[:JUDGED], nn.functional.one_hot(judging.classes[:JUDGED], 10).float()


def _corrected_flow(seed: int, **options: Any) -> tuple[nn.Module, Diffusion]:
    return student_of(SelfCorrected, {"gan": 0.0, **options}, few_steps(bed.HIGHEST), seed)


@torch.no_grad()
def _disagreement(student: nn.Module, task: Diffusion) -> float:
    """The root mean square difference of one-step and two-step samples of the same noise."""
    noise, condition = task.noises("test", JUDGED), task.conditions_of(JUDGED)
    one, two = (
        _table(levels).run(student, noise, condition) for levels in ([bed.HIGHEST, 0.0], [bed.HIGHEST, 1.0, 0.0])
    )
    return float((one - two).square().mean().sqrt())


def _projection(seed: int, **options: Any) -> tuple[nn.Module, Diffusion]:
    chosen = {**LEVELS, "turns": 2, **options}
    return student_of(Idempotent, chosen, idempotent_table(MEANS, ONE_LEVEL), seed, epochs=2 * EPOCHS)


@torch.no_grad()
def _moves_on(student: nn.Module, task: Diffusion) -> float:
    """The root mean square change of samples by a second projection."""
    noise, condition = task.noises("test", JUDGED), task.conditions_of(JUDGED)
    once, twice = (idempotent_table(MEANS, ONE_LEVEL, times).run(student, noise, condition) for times in (1, 2))
    return float((twice - once).square().mean().sqrt())


@torch.no_grad()
def _seen_after_noise(student: nn.Module, project: bool) -> float:
    """How often the judge sees what a digit is that noise was added to, before or after its projection."""
    digits, condition = _judged()
    noised = digits + 0.8 * torch.randn(digits.shape, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros_like(condition)
    shown = idempotent_table(MEANS, ONE_LEVEL).run(student, noised / ONE_LEVEL, nothing) if project else noised
    seen = bed.logits(((shown + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)).argmax(1)
    return float((seen == condition.argmax(1)).float().mean())


def _pair(make: Callable[..., Any], measure: Callable[..., float], with_idea: Any, without: Any) -> Any:
    """One figure of two students of the same method."""

    def run(seed: int) -> tuple[float, float]:
        first, second = (make(seed, **options) for options in (with_idea, without))
        return (measure(*first), measure(*second)) if isinstance(first, tuple) else (measure(first), measure(second))

    return run


def _projected(seed: int) -> tuple[float, float]:
    student, _ = _projection(seed)
    return _seen_after_noise(student, project=True), _seen_after_noise(student, project=False)


def _mean_error(seed: int, correction: bool) -> float:
    """The root mean square error of the samples' mean picture, against that of the digits."""
    sampler = _table(THREE, corrected if correction else euler)
    student, task = student_of(ImagineFlash, {"correction": correction}, sampler, seed)
    made = task.make(lambda *x: student(*x).detach(), count=1_000)
    return float((made.mean(0) - task.real["test"].mean(0)).square().mean().sqrt())


CASES = (
    case(
        "tdd", "schedules", f"Targets on the schedules of four to eight steps, against any lower one; {BED}, 4 steps.",
        "at 4 to 8 steps as good as random targets, or better.",
        versus(TargetDriven, _table(schedule(4, **LEVELS)), LEVELS, {**LEVELS, "targets": "anywhere"}),
    ),
    case(
        "tdd", "aim", f"Targets on the schedules, against the end of the path; {BED}, 4 steps.",
        "at 4 to 8 steps as good as a consistency model, or better.",
        versus(TargetDriven, _table(schedule(4, **LEVELS)), LEVELS, {**LEVELS, "targets": "end"}),
    ),
    case(
        "icd", "round trip", f"With the losses that preserve, against without; {BED}, 4 steps each way.",
        "at least 2 dB better.", _pair(_invertible, _round_trip, {"preserve": 1.5}, {"preserve": 0.0}),
        metric="root mean square error of digits encoded and decoded",
    ),
    case(
        "scflow", "bidirectional",
        f"With the term of the point before, against without; {BED}, one step against two, no discriminator.",
        "one-step and two-step samples of a noise come closer.",
        _pair(_corrected_flow, _disagreement, {}, {"bidirectional": 0.0}),
        metric="root mean square difference of one-step and two-step samples",
    ),
    case(
        "scflow", "reflow", f"With the reflow term, against without; {BED}, one step, no discriminator.",
        "each term is at least no harm.", _pair(_corrected_flow, frechet, {}, {"reflow": 0.0}),
    ),
    case(
        "scflow", "discriminator", f"With a discriminator, against without; {BED}, one step.",
        "each term is at least no harm.", _pair(_corrected_flow, frechet, {"gan": 0.1}, {}),
    ),
    case(
        "imagine_flash", "own path", f"Points on the student's own path, against noised digits; {BED}, three steps.",
        "the own path is better.", versus(ImagineFlash, _table(THREE, corrected), {}, {"path": "data"}),
    ),
    case(
        "imagine_flash", "shift", f"The teacher from half the noise, against the student's point; {BED}, three steps.",
        "the shift is better.", versus(ImagineFlash, _table(THREE, corrected), {}, {"shift": 1.0}),
    ),
    case(
        "imagine_flash", "correction", f"The first step with the noise that was drawn, against Euler's; {BED}.",
        "the mean picture is nearer to the digits'.", lambda seed: (_mean_error(seed, True), _mean_error(seed, False)),
        metric="root mean square error of the mean picture",
    ),
    case(
        "sign_idempotent", "idempotent", f"With f(f(z)) = f(z) and f(x) = x, against the other terms; {BED}, one step.",
        "a second projection changes less.",
        _pair(_projection, _moves_on, {}, {"idempotent": 0.0, "reconstruct": 0.0}),
        metric="root mean square change by a second projection",
    ),
    case(
        "sign_idempotent", "quality", f"All terms, against DMD's alone; {BED}, one step.",
        "the terms of the projection do not cost quality.",
        _pair(_projection, frechet, {}, {"idempotent": 0.0, "reconstruct": 0.0, "flow": 0.0}),
    ),
    case(
        "sign_idempotent", "projection", f"Noised digits after a projection told no class, against before; {BED}.",
        "the projection helps the classifier.", _projected,
        metric="share of noised digits that the judge knows", higher=True,
    ),
)  # fmt: skip
