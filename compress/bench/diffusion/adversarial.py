"""Adversarial distillation of the digits' denoiser into one step."""

from __future__ import annotations

import copy

from torch import nn

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
from compress.diffusion import renoise, table_of
from compress.diffusion.preconditioning import trig
from compress.distill.diffusion.adversarial import Add, Apt, Ladd
from compress.distill.diffusion.scm import Scm

ONE = few_steps(ONE_LEVEL)
LATEST_LEVEL = 20.0


def _scm(seed: int, **options: object) -> float:
    """A continuous consistency model; it begins untrained, as its output means something else than the teacher's."""
    means = trig(bed.DATA_STD)
    table = table_of("1 step", renoise, [LATEST_LEVEL, 0.0], means)
    chosen = {"data_std": bed.DATA_STD, **options}
    return frechet(
        *student_of(Scm, chosen, table, seed, epochs=2 * EPOCHS, rate=1e-3, preconditioning=means, network=_fresh)
    )


def _fresh() -> nn.Module:
    return copy.deepcopy(bed.network())


CASES = (
    case(
        "ladd", "one step",
        f"One step against a discriminator on the teacher's features, against the teacher's own one step; {BED}.",
        "one step comes close to the teacher's many.",
        lambda seed: (frechet(*student_of(Ladd, {"real": "data"}, ONE, seed)), teacher_frechet(ONE)),
    ),
    case(
        "add", "both terms",
        f"The discriminator beside the teacher's word, against the teacher's word alone; {BED}, one step.",
        "both together are best.", versus(Add, ONE, {}, {"gan": 0.0}),
    ),
    case(
        "seaweed_apt", "penalty", f"With the approximate R1 penalty, against none; {BED}, one step.",
        "without it the training collapses.",
        versus(Apt, ONE, {"penalty_weight": 0.5}, {"penalty": "none"}),
    ),
    case(
        "sana_sprint", "both terms",
        f"Consistency with an adversarial head, against consistency alone; {BED}, one step.",
        "both are at least as good as either.", lambda seed: (_scm(seed), _scm(seed, gan=0.0)),
    ),
    case(
        "sana_sprint", "tangent", f"The tangent normalized, against as it is; {BED}, one step, without a head.",
        "without it at least one of five seeds diverges.",
        lambda seed: (_scm(seed, gan=0.0), _scm(seed, gan=0.0, normalize=0.0)),
    ),
)  # fmt: skip
