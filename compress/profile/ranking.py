"""How well variants of one model are ranked on a phone from ten measurements: the 15,625 networks of NAS-Bench-201.

A search needs the order of candidates more than their latencies. Each phone of the published table (Lee et al.,
"HELP", NeurIPS 2021) is taken as a new device: ten networks are chosen without looking at any of its latencies, the
costs that are known from elsewhere are adapted to those ten, and all others are predicted. What any predictor can reach
is bounded by how well repeated measurements of one and the same graph agree, so that is reported beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import DataError, ToolMissing
from compress.profile.few_shot import (
    POINTS,
    Start,
    calibrating,
    choose,
    device_costs,
    from_devices,
    from_profile,
    predictions,
    shipped,
)
from compress.profile.nas_cells import OPERATIONS, Form, Ints, cells_of, connected, mirrored, parts
from compress.profile.regression import Floats
from compress.profile.reliability import ceiling_of_groups, ceiling_of_pairs, kendall, spearman
from compress.resources import data_folder

TABLE = "help_nasbench201.npz"
# Networks that the costs of other devices are fitted to, as many as HELP trains on; HELP is judged on the next
# thousand, without the fastest and the slowest tenth of them.
_TRAINED, _JUDGED, _TRIMMED = 900, 1000, 0.1
_SEEDS = 10
_BOOSTED = (1_000, 10_000)


@dataclass(frozen=True, slots=True)
class Score:
    """How well the measurements of `networks` rank all others of a device, with the start and form they preferred.

    `mape` is over networks whose output depends on their input; without a latency to speak of, the others have no
    error to speak of. `spearman_trimmed` is over those that HELP is judged on. `random` is the mean and standard
    deviation of the rank correlation over draws of as many networks at random, None where none were drawn.
    """

    start: str
    form: Form
    networks: tuple[str, ...]
    spearman: float
    kendall: float
    mape: float
    spearman_trimmed: float
    random: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Ranked:
    """The ranking on one phone, by what it starts from, and what bounds it. `n` networks are ranked.

    `calibrated` is what `calibrate` makes of a profile's costs; `from_profiles` starts from the same, but adapts what
    each part of these networks costs; so does `from_devices`, from the table's other devices.

    `ceiling` (with its standard error) is the highest rank correlation of any predictor that sees only the graph;
    `ceiling_of_parts` that of one that sees only how often each operation runs. `boosted` is what gradient boosting on
    every edge's operation reaches with so many measurements of this very phone. `drift` is the rank correlation between
    the errors of neighbours in the table, whose graphs have nothing to do with each other: no error of a predictor,
    but a phone that slows down and recovers while it is measured.
    """

    device: str
    title: str
    n: int
    points: int
    calibrated: Score
    from_profiles: Score
    from_devices: Score
    ceiling: float
    ceiling_error: float
    ceiling_of_parts: float
    drift: float
    boosted: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The ranking as plain JSON data."""
        record = asdict(self)
        for score in ("calibrated", "from_profiles", "from_devices"):
            record[score]["networks"] = list(record[score]["networks"])
            record[score]["random"] = list(record[score]["random"] or ()) or None
        return record


@dataclass(frozen=True, slots=True)
class Table:
    """The published latencies (ms) of each device, and the networks they are of."""

    names: tuple[str, ...]
    cells: Ints
    latency_ms: dict[str, Floats]

    @classmethod
    def read(cls, folder: Path) -> Table:
        """The table in `folder`; raises DataError where it is missing."""
        path = folder / TABLE
        if not path.exists():
            raise DataError(f"{path}: no such table; give the folder of the published tables")
        with np.load(path, allow_pickle=False) as arrays:
            names = tuple(arrays["arch_str"].tolist())
            rows = zip(arrays["devices"].tolist(), arrays["latency"].astype(np.float64), strict=True)
            return cls(names, cells_of(names), dict(rows))


def ranking(tables: Path) -> list[Ranked]:
    """The ranking on every phone of the published table.

    Raises:
        DataError: the table is missing.
        ToolMissing: scikit-learn is not installed.
    """
    table = Table.read(tables)
    cells = table.cells
    best = shipped()
    profiles = [start for label, costs in best for start in from_profile(label, costs, cells)]
    whole = [start for label, costs in best for start in calibrating(label, costs, cells)]
    chosen = choose(profiles, cells)
    first = cells[:_TRAINED]
    known = {device: device_costs(first, latency_ms[:_TRAINED]) for device, latency_ms in table.latency_ms.items()}
    found = []
    for device, kind, title in _devices():
        if kind == "phone" and device in known:
            devices = from_devices(cells, [costs for other, costs in known.items() if other != device])
            calibrated, _ = score(table, device, whole, chosen, seeds=0)
            ours, _ = score(table, device, profiles, chosen)
            theirs, predicted_ms = score(table, device, devices, choose(devices, cells))
            found.append(_ranked(table, device, title, (calibrated, ours, theirs), predicted_ms))
    return found


def score(
    table: Table, device: str, starts: Sequence[Start], chosen: Ints, seeds: int = _SEEDS
) -> tuple[Score, Floats]:
    """How well measuring the chosen networks on a device ranks all others, and the latency (ms) predicted for each."""
    measured = table.latency_ms[device]
    start, predicted = predictions(starts, chosen, measured)
    everywhere, alive = np.arange(len(measured)), np.flatnonzero(connected(table.cells))
    judged = everywhere[_TRAINED : _TRAINED + _JUDGED]
    judged = judged[np.argsort(measured[judged], kind="stable")]
    cut = int(len(judged) * _TRIMMED)
    left, trimmed = (np.setdiff1d(places, chosen) for places in (everywhere, judged[cut : len(judged) - cut]))
    drawn = []
    for seed in range(seeds):
        random = np.random.default_rng(seed).choice(alive, len(chosen), replace=False)
        others = np.setdiff1d(everywhere, random)
        drawn.append(spearman(predictions(starts, random, measured)[1][others], measured[others]))
    found = Score(
        start.label, start.form, tuple(table.names[place] for place in chosen),
        spearman(predicted[left], measured[left]), kendall(predicted[left], measured[left]),
        float(np.abs(predicted / measured - 1)[np.setdiff1d(alive, chosen)].mean()),
        spearman(predicted[trimmed], measured[trimmed]),
        (float(np.mean(drawn)), float(np.std(drawn, ddof=1))) if seeds > 1 else None,
    )  # fmt: skip
    return found, predicted


def _ranked(table: Table, device: str, title: str, scores: tuple[Score, Score, Score], predicted_ms: Floats) -> Ranked:
    """The ranking on one device beside what bounds it; `predicted_ms` is the last score's."""
    cells, measured = table.cells, table.latency_ms[device]
    ceiling, error = ceiling_of_pairs(measured, mirrored(cells), predicted_ms)
    _, groups = np.unique(parts(cells, scores[-1].form), axis=0, return_inverse=True)
    off = np.log(measured / predicted_ms)[connected(cells)]
    boosted = {str(count): _boosted(cells, measured, count) for count in _BOOSTED if count < len(cells)}
    return Ranked(
        device, title, len(measured) - POINTS, POINTS, *scores, ceiling, error,
        ceiling_of_groups(measured, groups.ravel()), spearman(off[:-1], off[1:]), boosted,
    )  # fmt: skip


def _boosted(cells: Ints, measured_ms: Floats, count: int) -> float:
    """What gradient boosting on each edge's operation, fitted to `count` random networks, reaches on all others."""
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError as error:
        raise ToolMissing("scikit-learn (needed by the evaluation only)", "fit") from error
    edges = np.eye(len(OPERATIONS))[cells]
    figures = np.concatenate([edges.reshape(len(cells), -1), edges.sum(axis=1)], axis=1)
    order = np.random.default_rng(0).permutation(len(cells))
    seen, left = order[:count], order[count:]
    model = HistGradientBoostingRegressor(max_iter=300, random_state=0).fit(figures[seen], np.log(measured_ms[seen]))
    return spearman(model.predict(figures[left]), measured_ms[left])


def _devices() -> Iterator[list[str]]:
    """Name in the table, kind and title of each device."""
    lines = (data_folder("profiles") / "ranking" / "devices.csv").read_text(encoding="utf-8").splitlines()
    return (line.split(",") for line in lines[1:])
