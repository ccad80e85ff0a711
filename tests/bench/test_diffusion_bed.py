"""The digits' denoiser that diffusion methods are held against: what it draws, and that its cases are sound."""

from __future__ import annotations

import copy

import pytest
import torch

from compress.bench.beds import digits_diffusion as bed
from compress.bench.diffusion import CASES
from compress.bench.diffusion.common import euler_steps, few_steps, frechet, student_of
from compress.bench.families import FAMILIES
from compress.distill.diffusion.sid import Sid
from compress.metrics import frechet_distance

pytest.importorskip("sklearn", reason="the digits come with scikit-learn (pip install scikit-learn)")


def test_the_teacher_draws_digits_that_are_as_close_to_new_ones_as_real_ones_are() -> None:
    learning, judging = bed.halves()
    real, new = (bed.features(((split.images + 1) / 2).expand(-1, 3, -1, -1)) for split in (learning, judging))
    between = frechet_distance(real, new)
    task = bed.task(euler_steps(1), count=400)
    many = frechet(bed.teacher(), task.with_teacher(bed.teacher()))  # its own sampler
    single = frechet(copy.deepcopy(bed.teacher()), task)
    assert many < 2 * between and single > 5 * many


def test_the_kept_weights_are_those_of_the_network_and_small() -> None:
    assert bed.WEIGHTS.stat().st_size < 1_000_000
    assert all(bool(p.isfinite().all()) for p in bed.teacher().parameters())


def test_a_student_begins_as_the_teacher_and_a_seed_decides_it() -> None:
    options = {"lowest": bed.LOWEST, "highest": bed.HIGHEST}
    first, second, other = (
        student_of(Sid, options, few_steps(2.5), seed, epochs=1, rate=1e-4)[0] for seed in (0, 0, 1)
    )
    states = [torch.cat([p.flatten() for p in net.parameters()]) for net in (first, second, other)]
    teacher = torch.cat([p.flatten() for p in bed.teacher().parameters()])
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    assert float((states[0] - teacher).norm() / teacher.norm()) < 0.05


def test_cases_are_unique_and_say_what_is_asked() -> None:
    assert FAMILIES["diffusion"] == CASES
    assert len({(case.method, case.name) for case in CASES}) == len(CASES) > 20
    assert all(case.question.endswith(".") and case.card.endswith(".") for case in CASES)
