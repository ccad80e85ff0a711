"""Imitation: does learning from the teacher's pictures add anything to learning from the real ones?"""

from __future__ import annotations

from compress.bench.beds import shapes
from compress.bench.case import Case
from compress.bench.train import distil
from compress.distill.generator import Imitate


def _teacher_beside_data(seed: int) -> tuple[float, float]:
    def error(options: dict[str, object]) -> float:
        student = distil(
            Imitate, options, shapes.filling_teacher(), lambda: shapes.Translator(4, 1), shapes.filling(),
            seed=seed, epochs=12,
        )  # fmt: skip
        return shapes.filling_error(student)

    real = {"pixel": 1.0}
    return error({"teacher": {"pixel": 1.0}, "target": real}), error({"teacher": {"pixel": 0.0}, "target": real})


CASES = (
    Case(
        method="imitate",
        name="teacher",
        question=(
            "A student of a quarter of the teacher's width fills outlined shapes: L1 to the teacher's pictures and the "
            "real ones, against L1 to the real ones alone; 12 epochs of 256 pictures each."
        ),
        metric="mean absolute error of test pictures",
        unit="pixels in [-1, 1]",
        higher_is_better=False,
        card="no published method: the base that the methods of this family add to.",
        run=_teacher_beside_data,
    ),
)
