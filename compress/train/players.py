"""Who takes part in a training: players, who watches, who may give orders, and what is left of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from compress.train.settings import OptimizerSettings

Draw = Callable[[Tensor, torch.Generator], Any]
Loss = Callable[[Mapping[str, nn.Module], Any], dict[str, Tensor]]


@dataclass
class Player:
    """A network in the loop. `loss(modules, batch)` returns named terms, summed; it plays every `every`-th step.

    `stats` gives further figures of the last loss, for the history and the guard; nobody minimizes them.
    """

    name: str
    module: nn.Module
    loss: Loss
    optimizer: OptimizerSettings
    every: int = 1
    stats: Callable[[], Mapping[str, float]] | None = None


@dataclass(frozen=True)
class Order:
    """What a guard wants done after an epoch: `lower_rate` of a player by `factor`, `rollback`, `stop`, or `wait`.

    A rollback puts weights, averages and optimizers back to the end of the last epoch without an order: `wait` does
    nothing but mark an epoch as none to go back to.
    """

    action: Literal["wait", "lower_rate", "rollback", "stop"]
    player: str = ""
    factor: float = 0.5


class Guard(Protocol):
    """Watches over the health of a training; its state is plain data and goes into checkpoints."""

    def after_epoch(self, epoch: int, row: dict[str, Any]) -> Sequence[Order]:
        """What to do after an epoch; may write what it found into the history row."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The guard's state."""
        ...

    def load_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        ...


class Watch(Protocol):
    """Sees each step: for progress bars and logs."""

    def __call__(self, step: int, total: int, epoch: int, losses: Mapping[str, float]) -> None:
        """Take note of one finished step."""
        ...


@dataclass
class FitResult:
    """What a training did: one history row per epoch (mean of each loss term, quality where it was measured)."""

    history: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    best_epoch: int | None = None
    resumed_from_step: int | None = None
