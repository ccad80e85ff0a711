"""A case of the methods bench: one method against its own ablation, on a small bed, by one figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Run = Callable[[int], tuple[float, float]]
"""A seed to (the figure with the method's idea, the figure with it switched off), each after the same budget."""


@dataclass(frozen=True)
class Case:
    """What is asked of a method, and how it is answered.

    Args:
        method: the method's key in the list of methods.
        name: tells the cases of one method apart; unique among them.
        question: with what, against what, on which bed, after which budget: in words, for the table.
        metric: what is measured.
        unit: of the metric; "" where it has none.
        higher_is_better: the metric's direction.
        card: what the method is said to do, which the verdict is held against.
        run: trains and measures both sides from one seed. The seed is of all that is drawn: initial weights, batches,
            noise, and (where the bed makes them) data.
    """

    method: str
    name: str
    question: str
    metric: str
    unit: str
    higher_is_better: bool
    card: str
    run: Run
