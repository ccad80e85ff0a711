"""Trajectory distillation of the digits' denoiser into a few steps."""

from __future__ import annotations

from typing import Any

from torch import nn

from compress.bench.beds import digits_diffusion as bed
from compress.bench.diffusion.common import (
    BED,
    EPOCHS,
    case,
    euler_steps,
    few_steps,
    frechet,
    student_of,
    teacher_frechet,
    versus,
)
from compress.diffusion import preconditioning_of
from compress.diffusion.preconditioning import consistency
from compress.distill.diffusion.boot import Boot, boot_table
from compress.distill.diffusion.consistency import Consistency
from compress.distill.diffusion.flow_map import FlowMap, flow_map_table
from compress.distill.diffusion.progressive import Progressive
from compress.distill.diffusion.sfd_traj import SfdTraj

LEVELS = {"lowest": bed.LOWEST, "highest": bed.HIGHEST}
LATEST = bed.HIGHEST / (1 + bed.HIGHEST)


def _against_teacher(kind: Any, options: dict[str, Any], steps: int, teacher_steps: int) -> Any:
    def run(seed: int) -> tuple[float, float]:
        return frechet(*student_of(kind, options, euler_steps(steps), seed)), teacher_frechet(
            euler_steps(teacher_steps)
        )

    return run


def _boot(boundary: float) -> Any:
    means = bed.task(few_steps(1.0)).preconditioning
    table = boot_table(means, bed.LOWEST, bed.HIGHEST)
    return lambda seed: frechet(*student_of(Boot, {**LEVELS, "boundary": boundary}, table, seed, rate=1e-3))


def _consistency(seed: int, levels: tuple[float, ...], **options: Any) -> float:
    means = consistency(bed.DATA_STD, bed.LOWEST)
    return frechet(
        *student_of(Consistency, {**LEVELS, "points": 18, **options}, few_steps(*levels), seed, preconditioning=means)
    )


def flow_map_student(seed: int, tangent: float = 0.99, epochs: int = 2 * EPOCHS) -> nn.Module:
    """A student that goes from any time to any other; it begins untrained, as its output means something else."""
    means = preconditioning_of("flow_prediction")
    table = flow_map_table([LATEST, 0.0])
    student, _ = student_of(
        FlowMap, {"tangent": tangent, "latest": LATEST}, table, seed,
        epochs=epochs, rate=2e-3, preconditioning=means, network=lambda: bed.network(until=True),
    )  # fmt: skip
    return student


def flow_map_frechet(student: nn.Module, steps: int) -> float:
    """Its distance in a number of steps."""
    times = [LATEST * (1 - k / steps) for k in range(steps + 1)]
    return frechet(student, bed.task(flow_map_table(times), preconditioning_of("flow_prediction")))


CASES = (
    case(
        "progressive", "four steps",
        f"Four steps of the student after two halvings, against four of the teacher; {BED}.",
        "at N steps as good as the teacher at 2 N.", _against_teacher(Progressive, {"halvings": 2}, 4, 4),
    ),
    case(
        "consistency", "two steps", f"Two steps of a consistency model, against one of the same kind; {BED}.",
        "two steps are at least as good as one.",
        lambda seed: (_consistency(seed, (bed.HIGHEST, 1.0)), _consistency(seed, (bed.HIGHEST,))),
    ),
    case(
        "consistency", "teacher", f"The teacher's step to the next point, against the data's; {BED}, one step.",
        "with a teacher it is better than without.",
        lambda seed: (_consistency(seed, (bed.HIGHEST,)), _consistency(seed, (bed.HIGHEST,), teacher=False)),
    ),
    case(
        "boot", "boundary",
        f"With the word at the highest level held to the teacher's, against without; {BED}, one step.",
        "removing the boundary loss diverges.", lambda seed: (_boot(1.0)(seed), _boot(0.0)(seed)),
    ),
    case(
        "boot", "one step", f"One step of the student, against one DDIM step; {BED}.",
        "three times better than one DDIM step.",
        lambda seed: (_boot(1.0)(seed), teacher_frechet(euler_steps(1))),
    ),
    case(
        "sfd_traj", "two steps", f"Two steps of the student, against four DDIM steps of the teacher; {BED}.",
        "at most half of DDIM's distance at four steps.", _against_teacher(SfdTraj, {}, 2, 4),
    ),
    case(
        "sfd_traj", "own path", f"Points on the student's own path, against the teacher's; {BED}, three steps.",
        "the student's own path is better.", versus(SfdTraj, euler_steps(3), {}, {"path": "teacher"}),
    ),
    case(
        "ayf", "one step", f"A flow map with its tangent, against plain flow matching; {BED}, one step.",
        "one step is as good as several.",
        lambda seed: (
            flow_map_frechet(flow_map_student(seed), 1), flow_map_frechet(flow_map_student(seed, tangent=0.0), 1),
        ),
    ),
    case(
        "ayf", "more steps", f"Four steps of one flow map, against one of the same; {BED}.",
        "not worse with more steps.",
        lambda seed: (lambda s: (flow_map_frechet(s, 4), flow_map_frechet(s, 1)))(flow_map_student(seed)),
    ),
)  # fmt: skip
