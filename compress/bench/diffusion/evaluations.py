"""How good each method's student is at 1, 2, 4 and 8 network evaluations, beside the teacher at as many.

All students are of the teacher's size and see the same number of samples; a method whose student serves any number of
evaluations trains one for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from torch import nn

from compress.bench.beds import digits_diffusion as bed
from compress.bench.case import Case
from compress.bench.diffusion.common import (
    BED,
    EPOCHS,
    ONE_LEVEL,
    case,
    euler_steps,
    few_steps,
    frechet,
    student_of,
    teacher_frechet,
)
from compress.bench.diffusion.trajectory import LEVELS, flow_map_frechet, flow_map_student
from compress.diffusion import karras, table_of
from compress.diffusion.preconditioning import consistency
from compress.diffusion.samplers import euler
from compress.distill.diffusion.adversarial import Add, Apt, Ladd
from compress.distill.diffusion.boot import Boot, boot_table
from compress.distill.diffusion.consistency import Consistency
from compress.distill.diffusion.dmd import Dmd
from compress.distill.diffusion.em import Em
from compress.distill.diffusion.progressive import Progressive
from compress.distill.diffusion.sfd_traj import SfdTraj
from compress.distill.diffusion.sid import Sid
from compress.distill.diffusion.target_driven import TargetDriven, schedule
from compress.distill.diffusion.vsd import Vsd

SEEDS_KEPT = 8
FEW = {1: (ONE_LEVEL,), 2: (ONE_LEVEL, 0.8), 4: (ONE_LEVEL, 1.2, 0.5, 0.2)}
CONSISTENT = {1: (bed.HIGHEST,), 2: (bed.HIGHEST, 1.0), 4: (bed.HIGHEST, 3.0, 1.0, 0.3)}

Made = Callable[[int, int], float]
"""(evaluations, seed) to the student's distance."""


def _score(kind: Any, **options: Any) -> Made:
    """A student for each number of evaluations, with fresh noise between them."""
    return lambda count, seed: frechet(*student_of(kind, {**LEVELS, **options}, few_steps(*FEW[count]), seed))


def _path(kind: Any, options: Callable[[int], dict[str, Any]] = lambda count: {}) -> Made:
    """A student for each number of Euler steps."""
    return lambda count, seed: frechet(*student_of(kind, options(count), euler_steps(count), seed))


def _boot(count: int, seed: int) -> float:
    table = boot_table(bed.task(few_steps(1.0)).preconditioning, bed.LOWEST, bed.HIGHEST)
    return frechet(*student_of(Boot, {**LEVELS, "boundary": 1.0}, table, seed, rate=1e-3))


@lru_cache(maxsize=SEEDS_KEPT)
def _consistency_student(seed: int) -> nn.Module:
    means = consistency(bed.DATA_STD, bed.LOWEST)
    options = {**LEVELS, "points": 18}
    return student_of(Consistency, options, few_steps(bed.HIGHEST), seed, preconditioning=means)[0]


def _consistency(count: int, seed: int) -> float:
    means = consistency(bed.DATA_STD, bed.LOWEST)
    return frechet(_consistency_student(seed), bed.task(few_steps(*CONSISTENT[count]), means))


_flow_map_student = lru_cache(maxsize=SEEDS_KEPT)(flow_map_student)


def _flow_map(count: int, seed: int) -> float:
    return flow_map_frechet(_flow_map_student(seed), count)


@lru_cache(maxsize=SEEDS_KEPT)
def _target_driven_student(seed: int) -> nn.Module:
    options = {**LEVELS, "points": 40, "steps": (2, 4, 8)}
    return student_of(TargetDriven, options, _target_driven_table(4), seed)[0]


def _target_driven_table(count: int) -> Any:
    levels = schedule(count, bed.LOWEST, bed.HIGHEST)
    return table_of(f"{count} targets", euler, levels, karras(bed.DATA_STD))


def _target_driven(count: int, seed: int) -> float:
    return frechet(_target_driven_student(seed), bed.task(_target_driven_table(count)))


METHODS: dict[str, tuple[Made, tuple[int, ...]]] = {
    "sid_few_step": (_score(Sid), (1, 2, 4)),
    "dmd2": (_score(Dmd, turns=1), (1, 2, 4)),
    "vsd": (lambda count, seed: frechet(*student_of(Vsd, {"rank": 16}, few_steps(ONE_LEVEL), seed)), (1,)),
    "emd": (_score(Em, moves=4), (1,)),
    "ladd": (lambda count, seed: frechet(*student_of(Ladd, {}, few_steps(*FEW[count]), seed)), (1, 4)),
    "add": (lambda count, seed: frechet(*student_of(Add, {}, few_steps(*FEW[count]), seed)), (1, 4)),
    "seaweed_apt": (lambda count, seed: frechet(*student_of(Apt, {}, few_steps(ONE_LEVEL), seed)), (1,)),
    "progressive": (_path(Progressive, lambda count: {"halvings": {1: 4, 2: 3, 4: 2, 8: 1}[count]}), (1, 2, 4, 8)),
    "boot": (_boot, (1,)),
    "consistency": (_consistency, (1, 2, 4)),
    "sfd_traj": (_path(SfdTraj), (2, 4)),
    "tdd": (_target_driven, (2, 4, 8)),
    "ayf": (_flow_map, (1, 2, 4, 8)),
}  # fmt: skip


def _run(made: Made, count: int) -> Callable[[int], tuple[float, float]]:
    return lambda seed: (made(count, seed), teacher_frechet(euler_steps(count)))


def _cases() -> Iterator[Case]:
    for method, (made, counts) in METHODS.items():
        for count in counts:
            name = f"{count} evaluation{'' if count == 1 else 's'}"
            question = f"The student at {name}, against the teacher's Euler steps; {BED}, {EPOCHS} epochs."
            yield case(method, name, question, "better than the teacher at as many evaluations.", _run(made, count))


CASES = tuple(_cases())
