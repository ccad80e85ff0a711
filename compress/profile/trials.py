"""Fits tried on models they never saw, and which models ask for what no fit behind their prediction had seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError
from compress.profile.adaptable import kept_in
from compress.profile.features import COSTS
from compress.profile.fit import UnitFit, fit_of
from compress.profile.judge import Rows, Trial
from compress.profile.regression import Solution
from compress.targets import Calibration, Target, list_targets, load_target
from compress.types import Scheme

Flags = NDArray[np.bool_]
# A cost that makes up less of a prediction than this cannot spoil it.
_NOTICED = 0.01


class Fits:
    """The fits of all targets to these tables, each made when it is first asked for.

    `only` names the targets to be judged (names or files), all shipped ones where it is empty.
    """

    def __init__(self, tables: Path, only: Sequence[str] = ()) -> None:
        self.tables = tables
        self.asked = [load_target(name) for name in only or list_targets()]
        self._targets = {target.name: target for target in [*map(load_target, list_targets()), *self.asked]}
        self._made: dict[tuple[str, str, str, Scheme], UnitFit] = {}

    def wanted(self) -> Iterator[UnitFit]:
        """Every fit of the targets to be judged."""
        for target in self.asked:
            for unit in target.units:
                for runtime, scheme in _measured(target, unit):
                    yield self.get(target, unit, runtime, scheme)

    def get(self, target: Target, unit: str, runtime: str, scheme: Scheme) -> UnitFit:
        """One fit; raises DataError where the tables have no rows for it."""
        key = (target.name, unit, runtime, scheme)
        if key not in self._made:
            self._targets.setdefault(target.name, target)
            self._made[key] = fit_of(self.tables, target, unit, runtime, scheme)
        return self._made[key]

    def calibration(self, fit: UnitFit) -> Calibration:
        """What the target of a fit says of its rows."""
        calibration = self._targets[fit.target].unit(fit.unit).calibration
        assert calibration is not None  # a fit has rows
        return calibration

    def relative(self, fit: UnitFit) -> UnitFit | None:
        """The fit that this one starts from, if any."""
        like = self.calibration(fit).like.get(fit.runtime, {}).get(fit.scheme)
        return self.get(load_target(like.target), like.unit, like.runtime, like.scheme) if like else None

    def peers(self, fit: UnitFit, fewest: int) -> list[UnitFit]:
        """The fits of other targets to the same kind of unit, runtime, scheme and layout, with so many models.

        Those that start from a fit of this one's target are none, nor are those whose rows these tables lack.
        """
        found = []
        for target in self._targets.values():
            for name, unit in target.units.items():
                if target.name == fit.target or unit.kind != fit.kind:
                    continue
                if (fit.runtime, fit.scheme) not in _measured(target, name):
                    continue
                try:
                    peer = self.get(target, name, fit.runtime, fit.scheme)
                except DataError:
                    continue
                same = peer.layout == fit.layout and len(peer.rows.names) >= fewest
                if same and fit.target not in self._lineage(peer):
                    found.append(peer)
        return found

    def seen(self, fit: UnitFit, chosen: Flags) -> Flags:
        """Which of `COSTS` the chosen rows show, or what of its relative's rows a fit to them starts from."""
        shown: Flags = np.asarray((fit.rows.design[chosen] > 0).any(axis=0))
        base = self.relative(fit)
        return shown if base is None else shown | self.seen(base, kept_in(base.rows, fit.rows, chosen))

    def _lineage(self, fit: UnitFit) -> set[str]:
        """The targets of the fits that this one starts from."""
        base = self.relative(fit)
        return set() if base is None else {base.target} | self._lineage(base)


def _measured(target: Target, unit: str) -> list[tuple[str, Scheme]]:
    """Each runtime and scheme in which a unit was measured."""
    calibration = target.unit(unit).calibration
    return [(runtime, scheme) for runtime, of in calibration.rows.items() for scheme in of] if calibration else []


@dataclass(frozen=True, slots=True)
class Tried:
    """A fit, what fits that never saw a model say of it, and the costs of each model that none of their rows showed."""

    fit: UnitFit
    trial: Trial
    unseen: tuple[tuple[str, ...], ...]

    @property
    def known(self) -> Flags:
        """Which models ask for nothing that the fit had not seen."""
        return np.array([not costs for costs in self.unseen])


def tried(fits: Fits, fit: UnitFit) -> Tried:
    """A fit, tried on each of its models without the fold that the model is in."""
    made: dict[bytes, Solution] = {}

    def remembering(chosen: Flags) -> Solution:
        made[chosen.tobytes()] = solution = fit.solver(chosen)
        return solution

    trial = replace(fit, solver=remembering).trial()
    unseen: list[tuple[str, ...]] = [()] * len(fit.rows.names)
    for fold in sorted(set(fit.rows.folds)):
        chosen: Flags = fit.rows.folds != fold
        _, shares = made[chosen.tobytes()].predict(fit.rows.design[~chosen])
        hidden = (shares > _NOTICED) & ~fits.seen(fit, chosen)
        for place, missing in zip(np.flatnonzero(~chosen), hidden, strict=True):
            unseen[place] = tuple(cost for cost, lacking in zip(COSTS, missing, strict=True) if lacking)
    return Tried(fit, trial, tuple(unseen))


def part_of(rows: Rows, chosen: Flags | NDArray[np.intp]) -> Rows:
    """The chosen rows alone."""
    return replace(
        rows,
        names=tuple(np.array(rows.names)[chosen]),
        design=rows.design[chosen],
        measured_ms=rows.measured_ms[chosen],
        families=rows.families[chosen],
        macs=rows.macs[chosen],
    )
