"""Score and adversarial distillation of the digits' denoiser in phases, on a ladder, from pairs and by two sides."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compress.bench.beds import digits_diffusion as bed
from compress.bench.diffusion.common import (
    BED,
    ONE_LEVEL,
    case,
    few_steps,
    frechet,
    student_of,
    versus,
)
from compress.diffusion import euler, karras, table_of
from compress.distill.diffusion.adversarial_score import Asd
from compress.distill.diffusion.lightning import Lightning
from compress.distill.diffusion.pairs_gan import PairsGan
from compress.distill.diffusion.phased_dmd import PhasedDmd
from compress.tasks import Diffusion

ONE = few_steps(ONE_LEVEL)
TWO = table_of("2 Euler steps", euler, [bed.HIGHEST, 1.5, 0.0], karras(bed.DATA_STD))
FOUR = table_of("4 Euler steps", euler, [bed.HIGHEST, 5.0, 1.5, 0.5, 0.0], karras(bed.DATA_STD))
PHASES = {"lowest": bed.LOWEST, "highest": bed.HIGHEST, "turns": 2}
LADDER = {"halvings": 2, "data_std": bed.DATA_STD}
STRONG = 5.0


def _growth(seed: int, real_side: float) -> float:
    """The distance with strong guidance over that without."""
    options: dict[str, Any] = {"rank": 16, "real_side": real_side}
    strong, plain = (
        frechet(*student_of(Asd, {**options, "guidance": guidance}, ONE, seed)) for guidance in (STRONG, 1.0)
    )
    return strong / plain


@torch.no_grad()
def _diversity(student: nn.Module, task: Diffusion) -> float:
    """The mean distance between two samples of one class, on the judge's features."""
    rows = bed.features(task.pixels(task.make(student, count=300)).clamp(0, 1))
    assert task.asked is not None
    by_class = rows.reshape(-1, len(task.asked), rows.shape[1]).transpose(0, 1)  # classes are asked for in turn
    apart = torch.cdist(by_class, by_class)
    return float(apart.sum((1, 2)).mean() / (apart.shape[1] * (apart.shape[1] - 1)))


@torch.no_grad()
def _pairing(student: nn.Module, task: Diffusion) -> float:
    """The mean correlation of samples with what the teacher makes of the same noises."""
    noises, conditions = task.noises("test", 300), task.conditions_of(300)
    theirs = task.make_of(bed.teacher(), noises, conditions, task.teacher_sampler)
    pairs = zip(task.make(student, count=300).flatten(1), theirs.flatten(1), strict=True)
    return float(torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean())


CASES = (
    case(
        "asd", "guidance",
        f"How the distance grows from no guidance to {STRONG:g}, with the real side of the objective, against VSD; "
        f"{BED}, one step.",
        "less sensitive to the scale of guidance.",
        lambda seed: (_growth(seed, -0.75), _growth(seed, 0.0)), metric="ratio of Fréchet distances",
    ),
    case(
        "asd", "real side", f"The whole objective, against VSD's half; {BED}, one step, guidance {STRONG:g}.",
        "better at large scales of guidance.",
        versus(Asd, ONE, {"rank": 16, "guidance": STRONG}, {"rank": 16, "guidance": STRONG, "real_side": 0.0}),
    ),
    case(
        "phased_dmd", "four steps", f"Two phases, against one that leaves at a random step; {BED}, four steps.",
        "not worse.", versus(PhasedDmd, FOUR, PHASES, {**PHASES, "phases": 1}),
    ),
    case(
        "phased_dmd", "diversity", f"Two phases, against one that leaves at a random step; {BED}, four steps.",
        "samples of one condition differ more.",
        lambda seed: (
            _diversity(*student_of(PhasedDmd, PHASES, FOUR, seed)),
            _diversity(*student_of(PhasedDmd, {**PHASES, "phases": 1}, FOUR, seed)),
        ),
        metric="mean distance within a class on a digit classifier", higher=True,
    ),
    case(
        "lightning", "two steps",
        f"A discriminator in the last of two rounds, against the squared error in both; {BED}, two steps.",
        "sharper than the squared error.", versus(Lightning, TWO, LADDER, {**LADDER, "squared": 2}),
    ),
    case(
        "lightning", "both ends",
        f"A discriminator that is shown both ends of a step, against where it lands alone; {BED}, two steps.",
        "both ends keep the pairs of noise and sample.",
        lambda seed: (
            _pairing(*student_of(Lightning, {**LADDER, "squared": 0, "alone": 0.0}, TWO, seed)),
            _pairing(*student_of(Lightning, {**LADDER, "squared": 0, "alone": 1.0}, TWO, seed)),
        ),
        metric="correlation with the teacher's samples from the same noises", higher=True,
    ),
    case(
        "diffusion2gan", "discriminator", f"Pairs and a discriminator, against pairs alone; {BED}, one step.",
        "better than pairs alone.",
        versus(PairsGan, few_steps(bed.HIGHEST), {"pairs": 1024}, {"pairs": 1024, "gan": 0.0}),
    ),
    case(
        "diffusion2gan", "augmentation",
        f"The features' distance under random augmentation, against as they are; {BED}, one step, pairs alone.",
        "without it the distance has minima that are no matches.",
        versus(
            PairsGan, few_steps(bed.HIGHEST),
            {"pairs": 1024, "gan": 0.0}, {"pairs": 1024, "gan": 0.0, "augment": ()},
        ),
    ),
)  # fmt: skip
