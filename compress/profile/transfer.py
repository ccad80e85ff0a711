"""A device left out of the fit: how well ten measurements adapt another device's costs to it.

Families are split into groups. Those of one group are to be predicted: neither the other device's fit nor the ten
measurements hold any of them. The same models as predicted by fits to the device's own rows say what was lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.profile.calibrate import calibrate, solution_of
from compress.profile.constants import Costs
from compress.profile.fit import UnitFit, costs_from
from compress.profile.judge import Rows
from compress.profile.priors import NOISE
from compress.profile.regression import Floats
from compress.profile.trials import Fits, Flags, Tried, part_of
from compress.types import Scheme

MEASUREMENTS = 10
# What the project asks for: the error after ten measurements, over that of a device that was in the fit.
ASKED_RATIO = 1.3
# Below this many models, ten measurements leave too little to judge by.
FEWEST_MODELS = 25
GROUPS = 5
# Calibrating takes a fit for each measurement: only the devices whose costs, scaled, come closest are tried in full.
_CLOSEST = 2
# How far the interval of costs goes that only serve to start from; no figure here rests on it.
_REACH = (1.645, 1.645)


@dataclass(frozen=True, slots=True)
class Transfer:
    """Errors on families seen nowhere: of another device's costs as they are, of the adapted ones, of the own fit.

    `bases` counts the groups of families for which each device was chosen to start from.
    """

    target: str
    unit: str
    runtime: str
    scheme: Scheme
    n: int
    measurements: int
    bases: dict[str, int]
    mape_before: float
    mape: float
    own_mape: float
    median: float
    own_median: float

    @property
    def ratio(self) -> float:
        """The error after ten measurements over that of the fit to all of the device's other families."""
        return self.mape / self.own_mape

    def to_dict(self) -> dict[str, Any]:
        """The judgement as plain JSON data."""
        return asdict(self) | {"ratio": self.ratio}


def transfers(fits: Fits, all_tried: Sequence[Tried]) -> tuple[list[Transfer], list[str]]:
    """Every fit with models enough as if left out, and by name those that no other target has a fit to start from.

    Where the fits of all others start from this one's, leaving it out would leave them out.
    """
    found, alone = [], []
    for each in all_tried:
        fit = each.fit
        if len(fit.rows.names) < FEWEST_MODELS or not fit.rows.by_family:
            continue
        peers = fits.peers(fit, FEWEST_MODELS)
        if peers:
            found.append(transfer(fit, each.trial.predicted_ms, peers))
        else:
            alone.append(f"{fit.target} {fit.unit} {fit.runtime} {fit.scheme}")
    return found, alone


def transfer(fit: UnitFit, own_ms: Floats, peers: Sequence[UnitFit]) -> Transfer:
    """One device left out: `own_ms` is what its own held-out fits say of each model, `peers` what it may start from."""
    rows = fit.rows
    before, after = np.zeros(len(rows.names)), np.zeros(len(rows.names))
    bases: Counter[str] = Counter()
    for families in groups_of(rows.families):
        judged: Flags = np.isin(rows.families, families)
        measured = part_of(rows, spread_over_latency(np.flatnonzero(~judged), rows.measured_ms))
        starts = {peer.target: _costs_without(peer, families) for peer in peers}
        adapted = {name: calibrate(starts[name], measured, fit.source) for name in _closest(starts, measured)}
        best = min(adapted, key=lambda name: adapted[name].mape_after)
        bases[best] += 1
        before[judged], _ = solution_of(starts[best]).predict(rows.design[judged])
        after[judged], _ = solution_of(adapted[best].costs).predict(rows.design[judged])
    errors = {key: np.abs(said / rows.measured_ms - 1) for key, said in
              {"before": before, "after": after, "own": own_ms}.items()}  # fmt: skip
    return Transfer(
        target=fit.target,
        unit=fit.unit,
        runtime=fit.runtime,
        scheme=fit.scheme,
        n=len(rows.names),
        measurements=MEASUREMENTS,
        bases=dict(bases.most_common()),
        mape_before=float(errors["before"].mean()),
        mape=float(errors["after"].mean()),
        own_mape=float(errors["own"].mean()),
        median=float(np.median(errors["after"])),
        own_median=float(np.median(errors["own"])),
    )


def groups_of(families: NDArray[np.str_], count: int = GROUPS) -> list[list[str]]:
    """The families in `count` groups of about as many models each; fewer groups where there are fewer families."""
    sizes = Counter(str(family) for family in families)
    groups: list[list[str]] = [[] for _ in range(min(count, len(sizes)))]
    for family in sorted(sizes, key=lambda family: (-sizes[family], family)):
        min(groups, key=lambda group: sum(sizes[each] for each in group)).append(family)
    return groups


def spread_over_latency(places: NDArray[np.intp], measured_ms: Floats, count: int = MEASUREMENTS) -> NDArray[np.intp]:
    """`count` of these places, at even steps from the fastest model to the slowest; all where there are fewer."""
    by_latency = places[np.argsort(measured_ms[places], kind="stable")]
    steps = np.linspace(0, len(places) - 1, min(count, len(places)))
    return np.asarray(by_latency[np.unique(np.round(steps).astype(int))])


def _costs_without(peer: UnitFit, families: Sequence[str]) -> Costs:
    """The costs of a fit to all other families, as a profile would hold them."""
    chosen: Flags = ~np.isin(peer.rows.families, families)
    solution, rows = peer.solver(chosen), part_of(peer.rows, chosen)
    fitted, _ = solution.predict(rows.design)
    return costs_from(solution, rows, peer.layout, NOISE[peer.kind], _REACH, fitted, None, peer.source)


def _closest(starts: dict[str, Costs], measured: Rows) -> list[str]:
    """The devices whose costs come closest to the measurements once a common factor is taken out."""

    def distance(name: str) -> float:
        said, _ = solution_of(starts[name]).predict(measured.design)
        return float(np.std(np.log(measured.measured_ms / said)))

    return sorted(starts, key=distance)[:_CLOSEST]
