"""The evaluation as one page: every fit beside baselines and noise, ratios, transfer, and every prediction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from math import floor, log10
from pathlib import Path
from statistics import median

import jinja2
from markupsafe import Markup

from compress.profile.constants import HeldOut, rounded
from compress.profile.evaluate import Evaluation, Judged, ranked
from compress.profile.judge import SPLIT
from compress.profile.ratios import JudgedRatio, pooled
from compress.profile.transfer import ASKED_RATIO, FEWEST_MODELS

_TEMPLATES = Path(__file__).parent / "templates"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_SIDE = 240.0  # pixels of a picture
_STRIP = 120.0  # pixels of the axis of errors in the table, from 1 % to 1000 %
_STRIP_DECADES = (-2, 1)
_NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Mark:
    """One model in a picture: where, and what a pointer shows."""

    x: float
    y: float
    inside: bool
    covered: bool
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Predicted (up) against measured (right) on logarithmic axes, one mark for each model left out."""

    title: str
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]
    side: float = _SIDE


@dataclass(frozen=True, slots=True)
class Glance:
    """The medians over all fits of one kind of unit and scheme that have models enough."""

    unit: str
    scheme: str
    fits: int
    figures: dict[str, float | None]


def write(evaluation: Evaluation, folder: Path) -> None:
    """Writes the evaluation to `folder` as evaluation.json and as a page."""
    folder.mkdir(parents=True, exist_ok=True)
    today = date.today().isoformat()
    record = {"date": today} | rounded(evaluation.to_dict())
    (folder / "evaluation.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / "evaluation.html").write_text(render(evaluation, today), encoding="utf-8")


def render(evaluation: Evaluation, made_on: str) -> str:
    """The page of an evaluation; every text in it is escaped, and a content policy forbids scripts."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "number": number, "along": along, "ranked": ranked}
    fits = evaluation.fits
    return environment.get_template("evaluation.html.j2").render(
        evaluation=evaluation,
        glances=glances(fits),
        targets=[(name, list(of)) for name, of in groupby(fits, key=lambda each: each.target)],
        pictures=[(name, [picture(each) for each in of]) for name, of in groupby(fits, key=lambda each: each.target)],
        ratio_pictures=[ratio_picture(each) for each in evaluation.ratios if each.n >= FEWEST_MODELS],
        pooled_ratios=tuple(pooled([each for each in evaluation.ratios if each.n >= FEWEST_MODELS])),
        transfers_within=sum(each.ratio <= ASKED_RATIO for each in evaluation.transfers),
        baselines=list(fits[0].baselines) if fits else [],
        asked_ratio=ASKED_RATIO,
        fewest=FEWEST_MODELS,
        axis=_STRIP,
        split=SPLIT,
        date=made_on,
        policy=_POLICY,
        style=Markup((_TEMPLATES / "evaluation.css").read_text(encoding="utf-8")),
    )


def percent(value: float | None, digits: int = 0) -> str:
    """A share as text in percent."""
    return _NOTHING if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 3) -> str:
    """A number as text, without the zero before its point."""
    return _NOTHING if value is None else f"{value:.{digits}f}".replace("0.", ".", 1)


def along(share: float) -> float:
    """Where on the axis of errors a share lies (pixels); one beyond its ends lies there."""
    low, high = _STRIP_DECADES
    return min(max((log10(max(share, 1e-9)) - low) / (high - low), 0.0), 1.0) * _STRIP


def glances(fits: Sequence[Judged]) -> list[Glance]:
    """The medians of every kind of unit and scheme, over the fits with models enough."""
    groups: dict[tuple[str, str], list[Judged]] = {}
    for each in fits:
        if each.model.n >= FEWEST_MODELS:
            groups.setdefault((each.unit, each.scheme), []).append(each)
    return [Glance(*key, len(group), _medians(group)) for key, group in sorted(groups.items())]


def _medians(group: Sequence[Judged]) -> dict[str, float | None]:
    """The median of each figure over fits."""
    figures: list[dict[str, float | None]] = []
    for each in group:
        errors: dict[str, HeldOut | None] = {"known_ops": each.known_ops, **each.baselines}
        repeats = {"same_versions": each.ceiling.same_versions, "other_versions": each.ceiling.other_versions}
        figures.append(
            {"mape": each.model.mape, "within_10": each.model.within_10_percent,
             "within_20": each.model.within_20_percent, "spearman": each.model.spearman,
             "coverage": each.model.coverage}
            | {name: held.mape if held else None for name, held in errors.items()}
            | {name: pairs.within_10_percent if pairs else None for name, pairs in repeats.items()}
        )  # fmt: skip
    known = {name: [value for of in figures if (value := of[name]) is not None] for name in figures[0]}
    return {name: median(values) if values else None for name, values in known.items()}


def picture(judged: Judged) -> Picture:
    """The picture of one fit."""
    points = [
        (p["measured_ms"], p["predicted_ms"], p["inside"], not p["not_covered"],
         f"{p['model']}: measured {p['measured_ms']:.3g} ms, predicted {p['predicted_ms']:.3g} ms"
         + (f"; not covered: {', '.join(p['not_covered'])}" if p["not_covered"] else ""))
        for p in judged.predictions
    ]  # fmt: skip
    return _picture(f"{judged.unit}, {judged.runtime}, {judged.scheme}", points)


def ratio_picture(judged: JudgedRatio) -> Picture:
    """The picture of a scheme's ratios to float; outside is who is called faster and was slower, or the reverse."""
    points = [
        (p["measured"], p["predicted"], (p["measured"] > 1) == (p["predicted"] > 1), True,
         f"{p['model']}: measured {p['measured']:.2f}, predicted {p['predicted']:.2f}")
        for p in judged.pairs
    ]  # fmt: skip
    return _picture(f"{judged.target} {judged.unit}, {judged.runtime}, {judged.scheme} over float", points)


def _picture(title: str, points: Sequence[tuple[float, float, bool, bool, str]]) -> Picture:
    """A picture of points (measured, predicted, inside, covered, text), each axis from the least to the most."""
    values = [value for point in points for value in point[:2]]
    low, high = floor(log10(min(values)) * 2) / 2, -floor(-log10(max(values)) * 2) / 2
    high = max(high, low + 0.5)

    def place(value: float) -> float:
        return (log10(value) - low) / (high - low) * _SIDE

    marks = tuple(Mark(place(x), _SIDE - place(y), inside, covered, text) for x, y, inside, covered, text in points)
    decades = range(-floor(-low), floor(high) + 1)
    ticks = tuple((place(10.0**decade), f"{10.0**decade:g}") for decade in decades)
    return Picture(title, marks, ticks)
