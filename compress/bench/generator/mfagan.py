"""MFAGAN: does a discriminator that imitates the teacher's leave a small generator more to learn?"""

from __future__ import annotations

from compress.bench.beds import shapes
from compress.bench.case import Case
from compress.bench.train import distil
from compress.distill.generator import METHODS

_EPOCHS = 6


def _error(seed: int, weight: float) -> float:
    student = distil(
        METHODS["mfagan"],
        {
            "gan": 0.2,
            "adversary": {"discriminator": "patch", "depth": 1, "width": 16},
            "judge_feature": weight,
            "judge_logit": weight,
        },
        shapes.filling_teacher(),
        lambda: shapes.Translator(4, 1),
        shapes.filling(),
        seed=seed,
        epochs=_EPOCHS,
    )
    return shapes.filling_error(student)


CASES = (
    Case(
        method="mfagan",
        name="distilled discriminator",
        question=(
            "A small student fills outlined shapes with a strong game (weight 0.2): its discriminator imitates the one "
            f"that judges the teacher, against one that does not; {_EPOCHS} epochs of 256 pictures each."
        ),
        metric="mean absolute error of test pictures",
        unit="pixels in [-1, 1]",
        higher_is_better=False,
        card="a distilled discriminator does not overpower the small generator.",
        run=lambda seed: (_error(seed, 1.0), _error(seed, 0.0)),
    ),
)
