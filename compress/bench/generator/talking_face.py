"""Talking-face compression: is a very small student better off without a game, and is sensitivity worth measuring?"""

from __future__ import annotations

import torch
from torch import Tensor

from compress import quantize
from compress.bench.beds import shapes
from compress.bench.beds.seeds import seeded
from compress.bench.case import Case
from compress.bench.train import distil
from compress.distill.generator import METHODS
from compress.graph.trace import trace

_EPOCHS, _SCHEME, _KEPT = 6, "w4a8", 3
_TERMS = {"teacher": {"pixel": 1.0}, "feature": 1.0}
_GAME = {"gan": 0.1, "adversary": {"discriminator": "patch", "depth": 1, "width": 16}}


def _without_a_game(seed: int) -> tuple[float, float]:
    def error(method: str, options: dict[str, object]) -> float:
        student = distil(
            METHODS[method], options, shapes.filling_teacher(), lambda: shapes.Translator(4, 1), shapes.filling(),
            seed=seed, epochs=_EPOCHS,
        )  # fmt: skip
        return shapes.filling_error(student)

    real = {"target": {"pixel": 1.0}}  # what the task's own loss is for talking_face
    return error("talking_face", _TERMS), error("imitate", {**_TERMS, **real, **_GAME})


def _by_sensitivity(seed: int) -> tuple[float, float]:
    """SQNR of the rounded teacher with the worst layers kept, and with as many random ones kept."""
    task = shapes.filling()
    model = trace(shapes.filling_teacher(), task.example_inputs())
    batches = [batch.inputs for batch in task.batches("validation")]
    prepared = quantize.prepare(model, _SCHEME, "mse")
    quantize.calibrate(prepared, batches)
    ranking = [found.layer for found in quantize.sensitivities(prepared, model, batches)]
    with seeded(seed):
        picks = [ranking[int(number)] for number in torch.randperm(len(ranking))[:_KEPT]]

    def sqnr_db(kept: list[str]) -> float:
        rounded = quantize.prepare(model, _SCHEME, "mse", dict.fromkeys(kept, "float16"))
        quantize.calibrate(rounded, batches)
        return _sqnr_db([(rounded(*x), model(*x)) for x in batches])

    with torch.no_grad():
        return sqnr_db(ranking[:_KEPT]), sqnr_db(picks)


def _sqnr_db(pairs: list[tuple[Tensor, Tensor]]) -> float:
    got, wanted = (torch.cat(side) for side in zip(*pairs, strict=True))
    return float(10 * torch.log10(wanted.square().mean() / (got - wanted).square().mean()))


CASES = (
    Case(
        method="talking_face_compression",
        name="no game",
        question=(
            "A student of a small part of the teacher's MACs fills outlined shapes: L1 to the teacher's pictures and "
            f"features and to the real ones, against the same with a discriminator; {_EPOCHS} epochs of 256 pictures."
        ),
        metric="mean absolute error of test pictures",
        unit="pixels in [-1, 1]",
        higher_is_better=False,
        card="a small student learns more stably without adversarial learning.",
        run=_without_a_game,
    ),
    Case(
        method="talking_face_compression",
        name="selective precision",
        question=(
            f"The shape filler at {_SCHEME} with {_KEPT} layers kept at float16: those that rounding hurts most, "
            "against random ones."
        ),
        metric="signal over rounding noise of test pictures",
        unit="dB",
        higher_is_better=True,
        card="the layers ranked worst recover nearly all of the loss; random ones recover less.",
        run=_by_sensitivity,
    ),
)
