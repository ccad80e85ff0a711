"""UGC: with a quarter of the labels, does following a teacher on the rest beat learning from the labels alone?"""

from __future__ import annotations

from compress.bench.beds import shapes
from compress.bench.beds.seeds import seeded
from compress.bench.case import Case
from compress.bench.train import distil
from compress.distill.generator import METHODS

_EPOCHS, _SHARE = 8, 0.25


def _error(seed: int, imitation: float) -> float:
    with seeded(seed):
        untrained = shapes.Translator(8)
    student = distil(
        METHODS["ugc"],
        {
            "teacher": {"pixel": imitation},
            "feature": 0.0,
            "target": {"pixel": 1.0},
            "labelled": _SHARE,
            "lesson": {"pixel": 10.0},
            "lesson_gan": 0.01,
            "teacher_learning_rate": 2e-3,
            "adversary": {"discriminator": "patch", "depth": 1, "width": 8},
        },
        untrained,
        lambda: shapes.Translator(4, 1),
        shapes.filling(),
        seed=seed,
        epochs=_EPOCHS,
    )
    return shapes.filling_error(student)


CASES = (
    Case(
        method="ugc",
        name="a quarter of the labels",
        question=(
            "A small student fills outlined shapes with a quarter of 256 pictures labelled: it also imitates, on all, "
            f"a wide teacher that learns from the same labels, against the labels alone; {_EPOCHS} epochs."
        ),
        metric="mean absolute error of test pictures",
        unit="pixels in [-1, 1]",
        higher_is_better=False,
        card="semi-supervised distillation beats training on the labelled share, near to that on all labels.",
        run=lambda seed: (_error(seed, 1.0), _error(seed, 0.0)),
    ),
)
