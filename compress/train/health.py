"""Is an adversarial training still well? A guard that reads the monitors and says what to do.

The guard itself is pure: after each epoch it gets the discriminator's mean signs and the outputs of student and teacher
on one fixed probe (the same inputs at every epoch), and gives findings. `LoopGuard` makes orders to the loop of them.

Each limit below says why it is where it is. A student begins far from its teacher, so a monitor may only act after the
student was once within its limit: before that, a finding has the action "none".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from compress.errors import DataError
from compress.train.monitors import checkerboard, colour_shift, coverage, discriminator_wins, shrunk
from compress.train.players import Order

Features = Callable[[Tensor], Tensor]
ActionKind = Literal["none", "lower_rate", "rollback", "stop"]

_STATE = ("shares", "best_coverage", "beyond", "armed", "actions", "last_good")


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """Where a monitor speaks, and how patient the guard is.

    Args:
        right_share: largest mean share of right judgements over the window. Beyond 0.95 hardly a sample is near the
            boundary, where the discriminator has something to teach; augmentation holds 0.8 (a mean sign of 0.6).
        window: epochs that share is averaged over, so that one lucky epoch is none.
        coverage_share: smallest coverage of the teacher's samples, in shares of the best so far: a third of what was
            covered has gone. On a few hundred probes coverage scatters by less than a tenth.
        colour: largest shift of a channel's mean, or relative change of its deviation, in deviations of the teacher's:
            a quarter is seen without a reference beside it.
        checkerboard: largest peak at a stride's frequency over its surroundings, in multiples of the teacher's own. On
            a hundred images with the spectrum of photos, equal ones read below 1.6, bilinear enlarging below 2, the
            uneven overlap of a 3x3 transposed convolution 5 and more, every other pixel brighter by a twentieth of
            the range 20.
        patience: epochs in a row beyond a limit before the guard acts.
        lower_rate_factor: of learning rates: the discriminator's where it wins, all after a rollback.
        actions: rollbacks and lowered rates, together, after which the next action is to stop.
    """

    right_share: float = 0.95
    window: int = 3
    coverage_share: float = 0.67
    colour: float = 0.25
    checkerboard: float = 4.0
    patience: int = 2
    lower_rate_factor: float = 0.5
    actions: int = 4


@dataclass(frozen=True, slots=True)
class Action:
    """What to do: nothing, multiply the rate of `player` by `factor`, go back to the end of `epoch`, or stop.

    A rollback lowers the rates of all players (`player` is empty): the same batches at the same rates would lead to the
    same place. Its `epoch` is None where none was good: back to the start.
    """

    kind: ActionKind
    player: str = ""
    factor: float = 1.0
    epoch: int | None = None


NOTHING = Action("none")


@dataclass(frozen=True, slots=True)
class Finding:
    """At `epoch` the monitor `what` read `value`, beyond `limit`; and what to do about it."""

    epoch: int
    what: str
    value: float
    limit: float
    action: Action

    def text(self) -> str:
        """The finding as a person reads it."""
        kind, player, factor = self.action.kind, self.action.player, self.action.factor
        done = {
            "none": "nothing was done yet",
            "lower_rate": f"the learning rate of the {player} was multiplied by {factor:g}",
            "rollback": f"went back to the last good epoch, all learning rates multiplied by {factor:g}",
            "stop": "stopped",
        }[kind]
        return f"{self.what.replace('_', ' ')}: {self.value:.3g} (limit {self.limit:g}); {done}"


@dataclass
class Guard:
    """Watches a training epoch by epoch; its state is plain data (`to_dict`).

    Args:
        limits: where it speaks.
        features: turns outputs into rows for coverage; None compares outputs averaged down to 8 positions a side.
    """

    limits: HealthLimits = field(default_factory=HealthLimits)
    features: Features | None = None
    shares: list[float] = field(default_factory=list)
    best_coverage: float = 0.0
    beyond: dict[str, int] = field(default_factory=dict)
    armed: list[str] = field(default_factory=list)
    actions: int = 0
    last_good: int | None = None

    def look(self, epoch: int, stats: Mapping[str, float], outputs: Tensor, teacher_outputs: Tensor) -> list[Finding]:
        """What is beyond a limit after this epoch; all findings that call for an action carry the same one.

        An epoch is good, to come back to, where no monitor that was ever within its limit is beyond it.

        Args:
            epoch: the one that just ended.
            stats: `sign_real` and `sign_fake`, means over the epoch; empty where no discriminator takes part.
            outputs: the student's on the probe.
            teacher_outputs: the teacher's on the same inputs.
        """
        if outputs.shape != teacher_outputs.shape:
            shapes = f"{tuple(outputs.shape)} and {tuple(teacher_outputs.shape)}"
            raise DataError(f"student and teacher gave outputs of shapes {shapes} on the probe; they have to be equal")
        readings = self._readings(stats, outputs.detach(), teacher_outputs.detach())
        found = [(what, value, limit) for what, value, limit in readings if self._is_beyond(what, value, limit)]
        if not any(what in self.armed for what, _, _ in found):
            self.last_good = epoch
        due = [what for what, _, _ in found if what in self.armed and self.beyond[what] >= self.limits.patience]
        action = self._act(due) if due else NOTHING
        return [Finding(epoch, what, v, limit, action if what in due else NOTHING) for what, v, limit in found]

    def to_dict(self) -> dict[str, Any]:
        """The state as plain data, for a checkpoint; limits and features are not part of it."""
        return {name: copy(getattr(self, name)) for name in _STATE}

    def load_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `to_dict`'s data."""
        for name in _STATE:
            setattr(self, name, copy(state[name]))

    def _readings(self, stats: Mapping[str, float], outputs: Tensor, theirs: Tensor) -> list[tuple[str, float, float]]:
        """(what, value, limit) of each monitor; a value above its limit is bad."""
        limits, features = self.limits, self.features or shrunk
        if stats:
            self.shares = [*self.shares, discriminator_wins(stats)][-limits.window :]
        wins = sum(self.shares) / limits.window if len(self.shares) == limits.window else 0.0
        covered = coverage(features(outputs), features(theirs)) if bool(outputs.isfinite().all()) else 0.0
        self.best_coverage = max(self.best_coverage, covered)
        lost = 1 - covered / self.best_coverage if self.best_coverage else 0.0
        return [
            ("discriminator_wins", wins, limits.right_share),
            ("mode_dropping", lost, 1 - limits.coverage_share),
            ("colour_shift", colour_shift(outputs, theirs), limits.colour),
            ("checkerboard", checkerboard(outputs, theirs), limits.checkerboard),
        ]

    def _is_beyond(self, what: str, value: float, limit: float) -> bool:
        """Whether a reading is beyond its limit (NaN is); counts the epochs in a row and arms what is within."""
        within = value <= limit
        self.beyond[what] = 0 if within else self.beyond.get(what, 0) + 1
        if within and what not in self.armed:
            self.armed.append(what)
        return not within

    def _act(self, due: list[str]) -> Action:
        """The one action for the monitors that are due; their counts start again."""
        self.actions += 1
        self.beyond |= dict.fromkeys(due, 0)
        self.shares = []
        if self.actions > self.limits.actions:
            return Action("stop")
        if due == ["discriminator_wins"]:
            return Action("lower_rate", "discriminator", self.limits.lower_rate_factor)
        return Action("rollback", factor=self.limits.lower_rate_factor, epoch=self.last_good)


@dataclass
class LoopGuard:
    """The guard of one training, as the loop calls it: looks at a probe, notes findings in the history, gives orders.

    Args:
        guard: what decides.
        probe: gives the outputs of student and teacher on the same fixed inputs.
        players: the names of all players in the loop.
        discriminator: which of them is the discriminator.
    """

    guard: Guard
    probe: Callable[[], tuple[Tensor, Tensor]]
    players: tuple[str, ...]
    discriminator: str = "discriminator"

    def after_epoch(self, epoch: int, row: dict[str, Any]) -> list[Order]:
        """What the loop is to do; writes the findings into `row["findings"]`."""
        stats = row.get("stats", {})
        signs = {name: stats[name] for name in ("sign_real", "sign_fake") if name in stats}
        found = self.guard.look(epoch, signs, *self.probe())
        if found:
            row["findings"] = [*row.get("findings", []), *(finding.text() for finding in found)]
        # The loop goes back to the last epoch without an order; one that is no better than suspect must not be that.
        orders = [] if self.guard.last_good == epoch else [Order("wait")]
        action = next((f.action for f in found if f.action != NOTHING), NOTHING)
        if action.kind == "stop":
            return [*orders, Order("stop")]
        if action.kind == "lower_rate":
            return [*orders, Order("lower_rate", self.discriminator, action.factor)]
        if action.kind == "rollback":
            lower = [Order("lower_rate", player, action.factor) for player in self.players]
            return [Order("rollback"), *lower]
        return orders

    def to_dict(self) -> dict[str, Any]:
        """The guard's state."""
        return self.guard.to_dict()

    def load_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.guard.load_dict(state)
