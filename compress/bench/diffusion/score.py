"""Score distillation of the digits' denoiser into one step."""

from __future__ import annotations

import torch

from compress.bench.beds import digits_diffusion as bed
from compress.bench.diffusion.common import (
    BED,
    EPOCHS,
    ONE_LEVEL,
    case,
    few_steps,
    frechet,
    student_of,
    teacher_frechet,
    versus,
)
from compress.distill.diffusion.diff_ratio import DiffRatio
from compress.distill.diffusion.disback import DisBack
from compress.distill.diffusion.dmd import Dmd
from compress.distill.diffusion.em import Em
from compress.distill.diffusion.score_matching import ScoreMatching
from compress.distill.diffusion.sid import Sid
from compress.distill.diffusion.unlearn import Unlearn
from compress.distill.diffusion.vsd import Vsd

ONE = few_steps(ONE_LEVEL)
LEVELS = {"lowest": bed.LOWEST, "highest": bed.HIGHEST}
FORGET, SUBSTITUTE = 3, 8


def _many_steps(seed: int) -> tuple[float, float]:
    student = student_of(Sid, LEVELS, ONE, seed)
    return frechet(*student), teacher_frechet(bed.task(ONE).teacher_sampler)


def _smaller(seed: int) -> tuple[float, float]:
    """A student of half the width: score matching first, or the same time of SiD alone."""

    def small() -> torch.nn.Module:
        return bed.network(bed.WIDTH // 2)

    matched, _ = student_of(ScoreMatching, {}, ONE, seed, epochs=EPOCHS, rate=2e-3, network=small)
    with_it = student_of(Sid, LEVELS, ONE, seed, network=lambda: matched)
    without = student_of(Sid, LEVELS, ONE, seed, epochs=EPOCHS + EPOCHS // 2, network=small)
    return frechet(*with_it), frechet(*without)


def _forgotten(seed: int) -> tuple[float, float]:
    """How often a forgotten class is drawn when it is asked for, with forgetting and without."""
    shares = []
    for kind, options in ((Unlearn, {"forget": _row(FORGET), "substitute": _row(SUBSTITUTE)}), (Sid, {})):
        student, task = student_of(kind, {**LEVELS, **options}, ONE, seed)
        task.asked = torch.eye(10)[FORGET : FORGET + 1]
        seen = bed.logits(task.pixels(task.make(lambda *x, s=student: s(*x).detach(), count=300)).clamp(0, 1)).argmax(1)
        shares.append(float((seen == FORGET).float().mean()))
    return shares[0], shares[1]


def _row(digit: int) -> int:
    """The number of a digit among the conditions that are asked."""
    asked = bed.task(ONE).asked
    assert asked is not None
    return int((asked.argmax(1) == digit).nonzero())


CASES = (
    case(
        "sid", "one step", f"One step of SiD's student, against the teacher's 18 Heun steps; {BED}.",
        "at most 1.3 times the teacher's distance.", _many_steps,
    ),
    case(
        "sid", "paths", f"SiD's gradient through the noised samples, against that path cut; {BED}, one step.",
        "cutting the gradient through x_t hurts.", versus(Sid, ONE, LEVELS, {**LEVELS, "through_noised": False}),
    ),
    case(
        "dmd2", "two time scales",
        f"Five turns of the fake score for one of the student, against one for one and as many student's turns; {BED}.",
        "smaller distance at an equal number of student's turns.",
        lambda seed: (
            frechet(*student_of(Dmd, {**LEVELS, "turns": 5}, ONE, seed, epochs=5 * EPOCHS // 2)),
            frechet(*student_of(Dmd, {**LEVELS, "turns": 1}, ONE, seed, epochs=EPOCHS // 2)),
        ),
    ),
    case(
        "vsd", "one step",
        f"One step of the student with a low-rank fake score, against the teacher's one step; {BED}.",
        "image-free, close to the teacher's own quality.",
        lambda seed: (
            frechet(*student_of(Vsd, {"rank": 16}, ONE, seed)), teacher_frechet(few_steps(bed.HIGHEST)),
        ),
    ),
    case(
        "msd", "score matching",
        f"A student of half the width: score matching, then SiD, against SiD alone for as long; {BED}.",
        "at most .6 of the distance without score matching.", _smaller,
    ),
    case(
        "emd", "moves", f"Four Langevin moves, against one; {BED}, one step.",
        "more moves cover more of the data.", versus(Em, ONE, {**LEVELS, "moves": 4}, {**LEVELS, "moves": 1}),
    ),
    case(
        "disback", "path", f"Four states of a spoiled teacher in reverse, against the teacher alone; {BED}, one step.",
        "faster convergence, and not worse in the end.",
        versus(DisBack, ONE, {**LEVELS, "turns": 2}, {**LEVELS, "turns": 2, "states": 1}),
    ),
    case(
        "one_step_w_o_distillation", "beginning",
        f"Classifier and student from the teacher's weights, against random ones; {BED}, one step.",
        "the features carry the benefit; random ones are at least twice as bad.",
        lambda seed: (
            frechet(*student_of(DiffRatio, LEVELS, ONE, seed)),
            frechet(*student_of(DiffRatio, LEVELS, ONE, seed, network=bed.network)),
        ),
    ),
    case(
        "sfd_unlearn", "forgotten class",
        f"How often the forgotten digit is drawn, against plain SiD; {BED}, one step.",
        "below 2 %.", _forgotten, metric="share of samples that show the forgotten class",
    ),
)  # fmt: skip
