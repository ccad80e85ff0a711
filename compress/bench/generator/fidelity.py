"""Fidelity-controllable compression: is the network half way between the two stages a network at all?"""

from __future__ import annotations

import copy
from functools import partial

from torch import nn

from compress.bench.beds import shapes
from compress.bench.case import Case
from compress.bench.train import distil
from compress.distill.generator import METHODS
from compress.distill.generator.fidelity import interpolate

_EPOCHS = 6


def _half_way(seed: int) -> tuple[float, float]:
    teacher, task = shapes.filling_teacher(), shapes.filling()

    def first(number: int) -> nn.Module:
        return distil(
            METHODS["imitate"], {}, teacher, lambda: shapes.Translator(8, 1), task, seed=number, epochs=_EPOCHS
        )

    def second(start: nn.Module) -> nn.Module:
        options = {
            "target": {"pixel": 1.0, "perceptual": 0.0}, "gan": 0.1, "frozen": ["first", "down*"],
            "adversary": {"discriminator": "patch", "depth": 1, "width": 16},
        }  # fmt: skip
        begun = partial(copy.deepcopy, start)
        return distil(METHODS["fidelity"], options, teacher, begun, task, seed=seed, epochs=_EPOCHS)

    def error(stage_one: nn.Module, stage_two: nn.Module) -> float:
        between = copy.deepcopy(stage_one)
        between.load_state_dict(interpolate(stage_one.state_dict(), stage_two.state_dict(), 0.5))
        return shapes.filling_error(between.eval())

    base, other = first(seed), first(seed + 1000)
    return error(base, second(base)), error(base, second(other))


CASES = (
    Case(
        method="extreme_image_codec",
        name="half way",
        question=(
            "The network half way (a = 0.5) between one trained by L1 and one trained with a discriminator: the second "
            f"fine-tuned from the first with its encoder frozen, against one from another start; {_EPOCHS} epochs each."
        ),
        metric="mean absolute error of test pictures",
        unit="pixels in [-1, 1]",
        higher_is_better=False,
        card="fidelity falls and realism rises evenly between the two stages.",
        run=_half_way,
    ),
)
