"""DCD: do features compared by the discriminator add anything to the teacher's pixels?"""

from __future__ import annotations

from compress.bench.beds import shapes
from compress.bench.case import Case
from compress.bench.train import distil
from compress.distill.generator import METHODS

_EPOCHS = 6


def _error(seed: int, dcd: float) -> float:
    student = distil(
        METHODS["dcd"],
        {
            "teacher": {"pixel": 1.0, "perceptual": 0.0, "style": 0.0},
            "dcd": dcd,
            "judged": [0, 1],
            "adversary": {"discriminator": "patch", "depth": 1, "width": 16},
        },
        shapes.filling_teacher(),
        lambda: shapes.Translator(4),
        shapes.filling(),
        seed=seed,
        epochs=_EPOCHS,
    )
    return shapes.filling_error(student)


CASES = (
    Case(
        method="dcd",
        name="features through the discriminator",
        question=(
            "A student of a quarter of the teacher's width fills outlined shapes: L1 to the teacher's pictures with "
            f"L_DCD at four depths, against L1 alone; {_EPOCHS} epochs of 256 pictures each."
        ),
        metric="mean absolute error of test pictures",
        unit="pixels in [-1, 1]",
        higher_is_better=False,
        card="better than perceptual terms alone, which are better than pixels alone.",
        run=lambda seed: (_error(seed, 0.1), _error(seed, 0.0)),
    ),
)
