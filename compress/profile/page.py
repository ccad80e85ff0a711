"""The evaluation as one page: the table of errors, and predicted against measured for every fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path

import jinja2
from markupsafe import Markup

from compress.profile.evaluate import Judged

_TEMPLATES = Path(__file__).parent / "templates"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_SIDE = 240.0  # pixels of a picture


@dataclass(frozen=True, slots=True)
class Mark:
    """One model in a picture: where, and what a pointer shows."""

    x: float
    y: float
    inside: bool
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Predicted (up) against measured (right) latency on logarithmic axes, one mark for each model left out."""

    title: str
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]
    side: float = _SIDE


def render(judged: Sequence[Judged], date: str) -> str:
    """The page of an evaluation; every text in it is escaped, and a content policy forbids scripts."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("evaluation.html.j2").render(
        rows=judged,
        pictures=[_picture(each) for each in judged],
        baselines=list(judged[0].baselines) if judged else [],
        date=date,
        policy=_POLICY,
        style=Markup((_TEMPLATES / "evaluation.css").read_text(encoding="utf-8")),
    )


def _picture(judged: Judged) -> Picture:
    """The picture of one fit."""
    values = [p[key] for p in judged.predictions for key in ("measured_ms", "predicted_ms")]
    low, high = floor(log10(min(values)) * 2) / 2, -floor(-log10(max(values)) * 2) / 2

    def place(value: float) -> float:
        return (log10(value) - low) / (high - low) * _SIDE

    marks = tuple(
        Mark(
            place(p["measured_ms"]), _SIDE - place(p["predicted_ms"]), p["inside"],
            f"{p['model']}: measured {p['measured_ms']:.3g} ms, predicted {p['predicted_ms']:.3g} ms",
        )
        for p in judged.predictions
    )  # fmt: skip
    decades = range(-floor(-low), floor(high) + 1)
    ticks = tuple((place(10.0**decade), f"{10.0**decade:g}") for decade in decades)
    return Picture(f"{judged.target} {judged.unit}, {judged.runtime}, {judged.scheme}", marks, ticks)
