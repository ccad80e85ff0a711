"""How good the predictions are: every fit judged on families it never saw, beside baselines and the noise ceiling.

Then what users do with them: what a scheme takes over float (`ratios.py`), a device of their own that was measured ten
times (`transfer.py`), and the order of a search's candidates (`ranking.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.profile.baselines import BASELINES
from compress.profile.ceiling import Ceiling, ceiling_of
from compress.profile.constants import HeldOut
from compress.profile.judge import SPLIT, Rows, errors_of
from compress.profile.ranking import Ranked, ranking
from compress.profile.ratios import JudgedRatio, ratios
from compress.profile.regression import Floats
from compress.profile.transfer import Transfer, transfers
from compress.profile.trials import Fits, Flags, Tried, part_of, tried
from compress.types import Scheme

# A rank correlation of fewer models than this says nothing and is not shown.
FEWEST_RANKED = 5


@dataclass(frozen=True, slots=True)
class Judged:
    """One fit's errors on held-out families, those of the baselines, and every held-out prediction behind them.

    `known_ops` are the errors over the models that ask for nothing new to the fit; a model that does is reported as
    not covered by whoever predicts it. A baseline is None where there are too few models for it.
    """

    target: str
    unit: str
    runtime: str
    scheme: Scheme
    model: HeldOut
    known_ops: HeldOut | None
    baselines: dict[str, HeldOut | None]
    ceiling: Ceiling
    predictions: tuple[dict[str, Any], ...]

    @property
    def not_covered(self) -> int:
        """How many models ask for an op that the fit behind their prediction had not seen."""
        return self.model.n - (self.known_ops.n if self.known_ops else 0)

    def to_dict(self) -> dict[str, Any]:
        """The judgement as plain JSON data."""
        return {
            "target": self.target, "unit": self.unit, "runtime": self.runtime, "scheme": self.scheme,
            "model": _plain(self.model), "not_covered": self.not_covered, "known_ops": _plain(self.known_ops),
            "baselines": {
                name: _plain(errors) if errors else {"left_out": f"takes at least {BASELINES[name].fewest} models"}
                for name, errors in self.baselines.items()
            },
            "ceiling": self.ceiling.to_dict(), "predictions": list(self.predictions),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All of it: the fits, what schemes take over float, devices left out of the fit, and the order of candidates.

    `without_peers` names the fits that could not be left out: no other target has one to start from.
    """

    fits: tuple[Judged, ...]
    ratios: tuple[JudgedRatio, ...]
    transfers: tuple[Transfer, ...]
    without_peers: tuple[str, ...] = ()
    ranking: tuple[Ranked, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as plain JSON data."""
        return {
            "split": SPLIT,
            "fits": [each.to_dict() for each in self.fits],
            "ratios": [each.to_dict() for each in self.ratios],
            "transfers": [each.to_dict() for each in self.transfers],
            "without_peers": list(self.without_peers),
            "ranking": [each.to_dict() for each in self.ranking],
        }


def evaluate(tables: Path, only: Sequence[str] = ()) -> Evaluation:
    """Every calibrated unit's fits (of the targets in `only`), judged on what no fit behind a prediction had seen.

    The ranking is of a table with devices of its own, so it is left out where `only` names targets.

    Raises:
        DataError: a table is missing.
        ToolMissing: pandas, pyarrow or scikit-learn is not installed.
    """
    fits = Fits(tables, only)
    all_tried = [tried(fits, fit) for fit in fits.wanted()]
    left_out, without_peers = transfers(fits, all_tried)
    return Evaluation(
        fits=tuple(_judged(each, ceiling_of(tables, fits.calibration(each.fit), each.fit)) for each in all_tried),
        ratios=tuple(ratios(fits, all_tried)),
        transfers=tuple(left_out),
        without_peers=tuple(without_peers),
        ranking=() if only else tuple(ranking(tables)),
    )


def _judged(tried: Tried, ceiling: Ceiling) -> Judged:
    """One fit, judged."""
    fit, rows, said = tried.fit, tried.fit.rows, tried.trial.predicted_ms
    inside = tried.trial.covered(rows.folds, rows.families)
    predictions = tuple(
        {"model": rows.names[i], "family": str(rows.families[i]), "measured_ms": float(rows.measured_ms[i]),
         "predicted_ms": float(said[i]), "inside": bool(inside[i]), "not_covered": list(tried.unseen[i])}
        for i in range(len(rows.names))
    )  # fmt: skip
    baselines = {
        name: errors_of(baseline.held_out(rows), rows, None) if len(rows.names) >= baseline.fewest else None
        for name, baseline in BASELINES.items()
    }
    known = known_errors(said, rows, inside, tried.known)
    model = errors_of(said, rows, float(inside.mean()))
    return Judged(fit.target, fit.unit, fit.runtime, fit.scheme, model, known, baselines, ceiling, predictions)


def known_errors(predicted_ms: Floats, rows: Rows, inside: Flags, known: Flags) -> HeldOut | None:
    """The errors over the models whose ops the fits had seen; None where it is one or none."""
    if known.sum() < 2:
        return None
    return errors_of(predicted_ms[known], part_of(rows, known), float(inside[known].mean()), rows.split)


def ranked(errors: HeldOut | None) -> float | None:
    """The rank correlation, where there are models enough for one."""
    return errors.spearman if errors and errors.n >= FEWEST_RANKED else None


def _plain(errors: HeldOut | None) -> dict[str, Any] | None:
    """Errors as plain JSON data, without a rank correlation of a handful of models."""
    return errors.model_dump() | {"spearman": ranked(errors)} if errors else None
