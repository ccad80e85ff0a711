"""The digits' denoiser with a part added, which learns a condition or a guide; and as a student of another form."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.bench.beds import digits_diffusion as bed
from compress.bench.diffusion.common import BED, EPOCHS, ONE_LEVEL, case, euler_steps, few_steps, frechet, student_of
from compress.bench.train import distil
from compress.diffusion import SamplerTable
from compress.distill.diffusion.conditional import Codi
from compress.distill.diffusion.guide import Guide
from compress.distill.diffusion.noise_consistency import NoiseConsistency
from compress.distill.diffusion.offline_pairs import OfflinePairs
from compress.distill.diffusion.sid import Sid
from compress.students.conditioned import ClassifierFree, Unconditioned, WithCondition, WithGuide
from compress.students.equilibrium import Equilibrium
from compress.tasks import Diffusion

ONE = few_steps(ONE_LEVEL)
LEVELS = {"lowest": bed.LOWEST, "highest": bed.HIGHEST}
BASE = {"channels": 1, "width": bed.WIDTH, "multipliers": (1, 2), "conditions": 10}
SMALL = (1, 4, 4)
WEIGHT = 5.0


def _holding(network: Unconditioned, weights: Mapping[str, Tensor]) -> Unconditioned:
    """A network whose base is the digits' denoiser, with weights."""
    network.base.load_state_dict(weights)
    return network


def _thumbnails(samples: Tensor) -> Tensor:
    return F.avg_pool2d(samples, 2).flatten(1)


def _with_rows(sampler: SamplerTable, new: Tensor, asked: Tensor) -> Diffusion:
    """The bed's task, with new numbers in the rows of the training samples and in those that are asked for."""
    task = bed.task(sampler)
    learning, judging = bed.halves()
    for name, known, more in (("conditions", learning, new), ("asked", judging, asked)):
        setattr(task, name, torch.cat([F.one_hot(known.classes, 10).float(), more], 1))
    task.drop = 0.0
    return task


def _enlarging(sampler: SamplerTable) -> Diffusion:
    """The task of making digits of their thumbnails, which the denoiser never saw."""
    learning, judging = bed.halves()
    task = _with_rows(sampler, _thumbnails(learning.images), _thumbnails(judging.images))
    task.seen_in = _thumbnails
    return task


def _codi(seed: int, **options: Any) -> float:
    task = _enlarging(euler_steps(4))
    student = distil(
        Codi, {**LEVELS, "points": 18, **options}, _holding(Unconditioned(BASE), bed.teacher().state_dict()),
        lambda: WithCondition(BASE, SMALL), task, seed=seed, epochs=EPOCHS, learning_rate=1e-3,
    )  # fmt: skip
    return frechet(student, task)


@cache
def _generator(seed: int) -> nn.Module:
    """A one-step generator."""
    return student_of(Sid, LEVELS, ONE, seed)[0]


def _answering(seed: int, **options: Any) -> tuple[nn.Module, Unconditioned, Diffusion]:
    """(a generator that answers thumbnails, the one that does not, the task)."""
    task = _enlarging(ONE)
    frozen = _holding(Unconditioned(BASE), _generator(seed).state_dict())
    student = distil(
        NoiseConsistency, options, frozen, lambda: WithCondition(BASE, SMALL), task,
        seed=seed, epochs=2 * EPOCHS, learning_rate=1e-3,
    )  # fmt: skip
    return student, frozen.eval().requires_grad_(False), task


def _unheeded(network: nn.Module, task: Diffusion) -> float:
    """How far the thumbnails of samples are from those asked for."""
    made, asked = task.make(network), task.conditions_of(task.count)
    assert asked is not None
    return float((_thumbnails(made) - asked[:, 10:]).square().mean())


def _answers(seed: int) -> tuple[float, float]:
    student, frozen, task = _answering(seed)
    return _unheeded(student, task), _unheeded(frozen, task)


def _made_by(seed: int, **options: Any) -> float:
    student, _, task = _answering(seed, **options)
    return frechet(student, task)


def _guide(seed: int) -> tuple[float, float]:
    """How far samples are from those of two passes and the same noise: with the guide, and unguided."""
    learning, judging = bed.halves()
    new, asked = (torch.full((len(part.images), 1), WEIGHT) for part in (learning, judging))
    task = _with_rows(bed.task(ONE).teacher_sampler, new, asked)
    weights = bed.teacher().state_dict()
    teacher = _holding(ClassifierFree(BASE), weights).eval().requires_grad_(False)
    student = distil(
        Guide, {"weights": (2.0, 9.0)}, teacher, lambda: WithGuide(BASE, 4), task,
        seed=seed, epochs=EPOCHS, learning_rate=2e-3,
    )  # fmt: skip
    plain = _holding(Unconditioned(BASE), weights).eval().requires_grad_(False)
    wanted, guided, alone = (task.make(network, count=300) for network in (teacher, student, plain))
    return float((guided - wanted).square().mean()), float((alone - wanted).square().mean())


def _iterated(seed: int, iterations: int, **options: Any) -> nn.Module:
    """A student that learned pairs with so many iterations."""
    return student_of(
        OfflinePairs, {"pairs": 4_000, **options}, ONE, seed, epochs=4 * EPOCHS, rate=1e-3,
        network=lambda: _equilibrium(iterations),
    )[0]  # fmt: skip


def _equilibrium(iterations: int) -> Equilibrium:
    return Equilibrium(width=48, heads=4, injection=2, tied=2, iterations=iterations, widening=4, conditions=10)


def _paired(seed: int, iterations: int) -> float:
    return frechet(_iterated(seed, iterations), bed.task(ONE))


def _more(seed: int) -> tuple[float, float]:
    learned = _iterated(seed, 6)
    more = _equilibrium(12)
    more.load_state_dict(learned.state_dict())
    more.eval().requires_grad_(False)
    return frechet(more, bed.task(ONE)), frechet(learned, bed.task(ONE))


CASES = (
    case(
        "codi", "both terms",
        f"With noise consistency, against the clean samples alone; {BED}, four steps, 4 x 4 to 8 x 8.",
        "without noise consistency the distance is a third larger.",
        lambda seed: (_codi(seed), _codi(seed, consistency=0.0)),
    ),
    case(
        "codi", "encoder alone",
        f"The condition's encoder alone, against the whole student; {BED}, four steps, 4 x 4 to 8 x 8.",
        "close to the whole with less than half of the weights trained.",
        lambda seed: (_codi(seed, whole=False), _codi(seed)),
    ),
    case(
        "nct", "answers", f"A one-step generator that learned thumbnails, against the same that did not; {BED}.",
        "the condition is answered with the generator frozen.",
        _answers, metric="mean squared distance of thumbnails to those asked for",
    ),
    case(
        "nct", "boundary", f"With the boundary, against without; {BED}, one step, thumbnails.",
        "removing the boundary term collapses.",
        lambda seed: (_made_by(seed), _made_by(seed, boundary=0.0, ascent=0.0)),
    ),
    case(
        "plug_and_play_cfg_distillation", "guide",
        f"The denoiser with a guide, against unguided, guidance by {WEIGHT:g}; {BED}.",
        "close to two passes with one.",
        _guide, metric="mean squared distance of samples to those of two passes",
    ),
    case(
        "get", "iterations", f"Six iterations of two tied blocks, against one; {BED}, one step, 4000 pairs.",
        "a tied network is worth one of several times its weights.",
        lambda seed: (_paired(seed, 6), _paired(seed, 1)),
    ),
    case(
        "get", "more iterations",
        f"Twelve iterations of a network that learned with six, against six; {BED}, one step.",
        "better with more iterations than it learned with.", _more,
    ),
)  # fmt: skip
