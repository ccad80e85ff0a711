"""Costs adapted to a device from a handful of its networks: what they start from, and which networks to measure.

All variants of one model are made of the same few parts, so that what each part costs on a device shows in as few
measurements. The parts are those of NAS-Bench-201 (`nas_cells.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from compress.profile.adaptable import adapted
from compress.profile.calibrate import solution_of
from compress.profile.constants import Costs, read_profile
from compress.profile.fit import calibrated_units
from compress.profile.judge import SPLIT
from compress.profile.nas_cells import FORMS, PARTS, Form, Ints, amounts_of_parts, connected, parts
from compress.profile.priors import NOISE
from compress.profile.regression import Floats, Solution, solve
from compress.resources import data_folder

POINTS = 10
_KINDS = ("cpu", "gpu")
_NOISE = NOISE["cpu"]
# How far, as standard deviations of logarithms, the costs of a network's parts on a new device may lie from those of a
# profile (another runtime's, mostly), or from those of other devices beyond what these differ among themselves; and
# all of them together, for nothing is known of its speed. The first was set on devices of the table that are no phones
# (0.2 is too little; from 0.35 to 1 they are ranked alike).
_FROM_PROFILE, _FROM_DEVICES, _ALL = 0.35, 0.15, 1.0
# What is known of a part's cost before any device is seen: a tenth of the latency, within a factor of e^2.
_SHARE, _WIDE = 0.1, 2.0
_LEAST_NS = 1.0
_DRAWS = 300


class Start(NamedTuple):
    """Costs to adapt to a device: what every network asks for in their terms, and how measurements adapt them.

    `part_ns` are the logarithms of what each of `PARTS` costs by them, `spread` the covariance that a new device's are
    expected to have around these; they say which networks are worth measuring.
    """

    label: str
    form: Form
    asked: Floats
    fit: Callable[[Floats, Floats], Solution]
    part_ns: Floats
    spread: Floats

    def predicted(self, chosen: Ints, measured_ms: Floats, places: Ints) -> Floats:
        """The latency (ms) of the networks at `places` after measuring the chosen ones."""
        return self.fit(self.asked[chosen], measured_ms).predict(self.asked[places])[0]

    def error(self, chosen: Ints, measured_ms: Floats) -> float:
        """The mean error (of logarithms) on each measurement as predicted from the others."""
        errors = []
        for place in range(len(chosen)):
            kept = np.arange(len(chosen)) != place
            (predicted,) = self.predicted(chosen[kept], measured_ms[kept], chosen[[place]])
            errors.append(abs(np.log(predicted / measured_ms[place])))
        return float(np.mean(errors))


def shipped() -> list[tuple[str, Costs]]:
    """The float32 costs of the CPU and of the GPU whose profiles predict families they never saw best."""
    best: dict[str, tuple[str, Costs]] = {}
    for target, unit, file, _ in calibrated_units():
        kind = target.unit(unit).kind
        if kind not in _KINDS:
            continue
        costs = read_profile(data_folder("profiles") / file).runtimes.get("litert", {}).get("float32")
        if costs is not None and costs.held_out.split == SPLIT:
            known = best.get(kind)
            if known is None or costs.held_out.mape < known[1].held_out.mape:
                best[kind] = f"{target.name} {unit}", costs
    return list(best.values())


def from_profile(label: str, costs: Costs, cells: Ints) -> list[Start]:
    """Starts at what a network's parts cost by a profile, in every form."""
    solution = solution_of(costs)
    part_ns = np.log(np.maximum(amounts_of_parts(costs.layout) @ np.exp(solution.log_costs), _LEAST_NS))
    spread = _FROM_PROFILE**2 * np.eye(len(PARTS)) + _ALL**2
    fit = _fit_around(part_ns, spread)
    return [Start(label, form, parts(cells, form), fit, part_ns, spread) for form in FORMS]


def calibrating(label: str, costs: Costs, cells: Ints) -> list[Start]:
    """Starts at a profile's costs, adapted as `calibrate` does, in every form."""
    solution, table = solution_of(costs), amounts_of_parts(costs.layout)

    def fit(asked: Floats, measured_ms: Floats) -> Solution:
        return adapted(solution, asked, measured_ms, costs.spread.noise)

    return [start._replace(asked=start.asked @ table, fit=fit) for start in from_profile(label, costs, cells)]


def from_devices(cells: Ints, known: Sequence[Floats]) -> list[Start]:
    """Starts at what a network's parts cost on other devices (`device_costs`), and how these differ, in every form."""
    costs = np.array(known)
    away = costs - costs.mean(axis=0)
    spread = away.T @ away / (len(costs) - 1) + _FROM_DEVICES**2 * np.eye(len(PARTS)) + _ALL**2
    part_ns = costs.mean(axis=0)
    fit = _fit_around(part_ns, spread)
    return [Start("other devices", form, parts(cells, form), fit, part_ns, spread) for form in FORMS]


def device_costs(cells: Ints, latency_ms: Floats) -> Floats:
    """The logarithms of the costs (ns) of a network's `PARTS` on a device, in the form that fits its networks best."""
    places = np.flatnonzero(connected(cells))
    measured = latency_ms[places]
    fit = _fit_around(np.full(len(PARTS), np.log(measured.mean() * 1e6 * _SHARE)), _WIDE**2 * np.eye(len(PARTS)))
    found = []
    for form in FORMS:
        asked = parts(cells[places], form)
        solution = fit(asked, measured)
        found.append((float(np.abs(np.log(solution.predict(asked)[0] / measured)).mean()), solution.log_costs))
    return min(found, key=lambda each: each[0])[1]


def _fit_around(mean: Floats, covariance: Floats) -> Callable[[Floats, Floats], Solution]:
    """What fits costs whose logarithms are normal around `mean` before any measurement."""
    rows = np.linalg.cholesky(np.linalg.inv(covariance)).T
    return lambda asked, measured_ms: solve(asked, measured_ms, (rows, rows @ mean), _NOISE)


def choose(starts: Sequence[Start], cells: Ints, points: int = POINTS) -> Ints:
    """The networks to measure: those that leave the least doubt about the order of all, without a single latency.

    The costs are drawn from around each start; one network after the other is taken that lowers the variance of all
    networks' logarithms of latency, less their mean, by most (a greedy A-optimal design; Krause, Singh & Guestrin,
    2008). The draws are updated as by a square-root ensemble filter (Whitaker & Hamill, 2002).
    """
    alive = np.flatnonzero(connected(cells))
    every = np.concatenate([parts(cells[alive], form) for form in FORMS], axis=1)
    _, first, count = np.unique(every, axis=0, return_index=True, return_counts=True)
    places, weight = alive[first], count / count.sum()
    random = np.random.default_rng(0)
    draws = []
    for start in starts:
        part_ns = random.multivariate_normal(start.part_ns, start.spread, _DRAWS // len(starts))
        draws.append(np.log(np.exp(part_ns) @ parts(cells[places], start.form).T))
    seen = np.concatenate(draws)
    seen -= seen.mean(axis=0)
    wanted = seen - (seen @ weight)[:, None]
    chosen: list[int] = []
    for _ in range(points):
        doubt = (seen**2).mean(axis=0) + _NOISE**2
        gain = (seen.T @ wanted / len(seen)) ** 2 @ weight / doubt
        gain[chosen] = -1.0
        place = int(gain.argmax())
        chosen.append(place)
        ours = seen[:, place].copy()
        pull = ours / (len(seen) * doubt[place] * (1.0 + _NOISE / np.sqrt(doubt[place])))
        seen, wanted = seen - np.outer(pull, ours @ seen), wanted - np.outer(pull, ours @ wanted)
    return places[chosen]


def predictions(starts: Sequence[Start], chosen: Ints, measured_ms: Floats) -> tuple[Start, Floats]:
    """The start that predicts each measurement best from the others, and the latency (ms) of all networks by it."""
    measured = measured_ms[chosen]
    start = min(starts, key=lambda each: each.error(chosen, measured))
    return start, start.predicted(chosen, measured, np.arange(len(measured_ms)))
