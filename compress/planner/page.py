"""The plan as one page: where every plan's time goes, and what each part takes in every form and scheme."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from compress.planner import Planned, describe
from compress.planner.plan import Plan

_TEMPLATES = Path(__file__).parent / "templates"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_WIDTH = 560.0  # pixels of the longest bar


@dataclass(frozen=True)
class Piece:
    """A part's stretch of a bar, in pixels; `tone` counts the parts."""

    x: float
    width: float
    tone: int
    text: str


@dataclass(frozen=True)
class Bar:
    """A plan as a bar of its latency."""

    plan: Plan
    label: str
    pieces: tuple[Piece, ...]
    low: float
    high: float
    chosen: bool


def write(planned: Planned, folder: Path) -> None:
    """Writes the plan to `folder` as plan.json and as a page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(planned.to_dict(), indent=1) + "\n", encoding="utf-8")
    (folder / "plan.html").write_text(render(planned), encoding="utf-8")


def render(planned: Planned) -> str:
    """The page; every text in it is escaped, and a content policy forbids scripts."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"ms": milliseconds, "size": size}
    limit = planned.limits.get("latency_ms")
    longest = max([*(plan.latency.value or 0.0 for plan in planned.best), limit or 0.0])
    return environment.get_template("plan.html.j2").render(
        planned=planned,
        parts=[options[0].part for options in planned.choices],
        bars=[bar(plan, planned.chosen, _WIDTH / (longest or 1.0)) for plan in planned.best],
        limit_x=None if limit is None else limit * _WIDTH / (longest or 1.0),
        width=_WIDTH,
        sentence=describe(planned.chosen),
        policy=_POLICY,
        style=Markup((_TEMPLATES / "plan.css").read_text(encoding="utf-8")),
    )


def bar(plan: Plan, chosen: Plan, pixels_per_ms: float) -> Bar:
    """A plan's bar, its parts in the order in which they run."""
    pieces, x = [], 0.0
    for tone, choice in enumerate(plan.choices):
        width = choice.latency_ms * pixels_per_ms
        text = f"{choice.part.name}: {choice.calls} x {milliseconds(choice.latency.value or 0.0)}"
        pieces.append(Piece(x, width, tone, f"{text}, {choice.form.label}, {choice.scheme}"))
        x += width
    low, high = plan.latency.interval or (plan.latency.value or 0.0,) * 2
    label = f"{plan.steps} step{'' if plan.steps == 1 else 's'}"
    return Bar(plan, label, tuple(pieces), low * pixels_per_ms, high * pixels_per_ms, plan is chosen)


def milliseconds(value: float) -> str:
    """A time in words."""
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.3g} ms"


def size(value: float) -> str:
    """A number of bytes in words."""
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"


__all__ = ["render", "write"]
