"""The report's charts as plotly data: plain dictionaries, made here, drawn by the page.

Colours are names of the page's CSS variables ("--after"), so that one palette serves light, dark and print. Every
text from a run goes through `safe`, because plotly reads tags in its texts.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compress.report import words
from compress.report.figure import Figure
from compress.report.schema import ParetoPoint, Report, UseRow

Chart = dict[str, Any]


def safe(text: str) -> str:
    """`text` as plotly shows it letter by letter."""
    return html.escape(text, quote=False)


def chart(key: str, title: str, alt: str, data: list[Any], layout: dict[str, Any], height: int = 280) -> Chart:
    """One chart: `key` is its element, `alt` says in words what it shows, `height` is in px."""
    return {"key": key, "title": title, "alt": alt, "height": height, "data": data, "layout": layout}


def _scale(figures: Sequence[Figure | None]) -> tuple[Callable[[Figure | None], float | None], str]:
    """What turns figures of one kind into axis values, and the axis's unit (fractions are drawn in percent)."""
    unit = next((f.unit for f in figures if f is not None and f.value is not None), "")
    factor, shown = (100.0, "%") if unit in ("fraction", "share") else (1.0, unit)
    return lambda f: None if f is None or f.value is None else f.value * factor, shown


def step_charts(report: Report) -> list[Chart]:
    """What each step left of MACs, size and predicted latency (waterfalls, percent of the teacher's), and quality."""
    made = [_waterfall(key, step_path(report, key)) for key in ("macs", "size_bytes", "latency")]
    return [c for c in [*made, _quality_path(report, step_path(report, "quality"))] if c is not None]


@dataclass(frozen=True)
class Stop:
    """One place on the way from teacher to student: the figure there, and what share of the teacher's is left."""

    label: str
    figure: Figure
    share: float


def step_path(report: Report, key: str) -> list[Stop]:
    """The stops of one figure. A step counts by its own before and after, so a chain that mixes schemes stays fair."""
    stops: list[Stop] = []
    previous = getattr(report.teacher, key)
    for step in report.steps:
        after = step.after.get(key)
        before = step.before.get(key) or previous
        previous = after or previous
        share = words.ratio(before, after)
        if step.verb == "teacher" or share is None or after is None:
            continue
        stops = stops or [Stop("teacher", before, 1.0)]
        stops.append(Stop(f"{step.index} {step.verb}", after, stops[-1].share * share))
    return stops


def _waterfall(key: str, stops: Sequence[Stop]) -> Chart | None:
    if not stops:
        return None
    values = [100 * stop.share for stop in stops]
    changes = [after - before for before, after in itertools.pairwise(values)]
    labels = [safe(stop.label) for stop in stops]
    data = {
        "type": "waterfall",
        "x": [*labels, "student"],
        "y": [values[0], *changes, values[-1]],
        "measure": ["absolute", *["relative"] * len(changes), "total"],
        "text": ["100", *(_change_text(c) for c in changes), words.share_text(stops[-1].share).removesuffix(" %")],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": [safe(words.with_interval(stop.figure)) for stop in [*stops, stops[-1]]],
        "hovertemplate": "%{x}: %{hovertext}<extra></extra>",
        "decreasing": {"marker": {"color": "--after"}},
        "increasing": {"marker": {"color": "--accent"}},
        "totals": {"marker": {"color": "--muted"}},
        "connector": {"line": {"color": "--line", "width": 1}},
    }
    name = words.TITLES[key]
    listed = ", ".join(f"{stop.label} {value:.0f}" for stop, value in zip(stops, values, strict=True))
    layout = {"yaxis": {"range": [0, 1.18 * max(values)], "nticks": 5}, "xaxis": {"tickangle": -40}}
    return chart(f"steps-{key}", f"{name} left, %", f"{name}, percent left: {listed}", [data], layout, 250)


def _change_text(change: float) -> str:
    return "0" if abs(change) < 0.05 else f"{words.signed(change)[0]}{words.significant(abs(change), 2)}"


def _quality_path(report: Report, stops: Sequence[Stop]) -> Chart | None:
    if not stops:
        return None
    scale, unit = _scale([stop.figure for stop in stops])
    values = [scale(stop.figure) for stop in stops]
    data = {
        "type": "scatter",
        "mode": "lines+markers+text",
        "x": [safe(stop.label) for stop in stops],
        "y": values,
        "text": ["" if v is None else f"{v:.1f}" if unit == "%" else words.significant(v) for v in values],
        "textposition": "top center",
        "cliponaxis": False,
        "line": {"color": "--after"},
        "marker": {"color": "--after", "size": 8},
        "hovertext": [safe(words.text(stop.figure)) for stop in stops],
        "hovertemplate": "%{x}: %{hovertext}<extra></extra>",
    }
    title = f"{report.quality_name}, {unit}" if unit else report.quality_name
    alt = f"{title} after each step: " + ", ".join(f"{stop.label} {words.text(stop.figure)}" for stop in stops)
    layout = {"yaxis": {"nticks": 5}, "xaxis": {"tickangle": -40}, "pad": "y"}
    return chart("steps-quality", title, alt, [data], layout, 250)


def pareto_chart(report: Report) -> Chart | None:
    """Quality against predicted latency (MACs where no latency is known) of every candidate, the chosen one marked."""
    points = report.pareto.points if report.pareto else []
    by_latency = any(p.latency_ms and p.latency_ms.value is not None for p in points)
    kept = [p for p in points if p.quality and p.quality.value is not None and _across(p, by_latency)]
    if not kept or report.pareto is None:
        return None
    scale, unit = _scale([p.quality for p in kept])
    chosen = [p for p in kept if p.chosen or p.number == report.pareto.chosen]
    front = sorted((p for p in kept if p.on_front), key=lambda p: _value(_across(p, by_latency)))
    rest = [p for p in kept if not p.on_front and p not in chosen]
    groups = [
        _cloud(
            "other candidates", rest, scale, by_latency, "markers", {"color": "--muted", "size": 7, "opacity": 0.65}
        ),
        _cloud("Pareto front", front, scale, by_latency, "lines+markers", {"color": "--after", "size": 9}),
        _cloud("chosen", chosen, scale, by_latency, "markers", {"color": "--accent", "size": 17, "symbol": "star"}),
    ]
    across = f"predicted latency on {words.target_label(report)}, ms" if by_latency else "MACs"
    name = report.pareto.quality_name
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": safe(across)}, "rangemode": "normal"},
        "yaxis": {"title": {"text": safe(f"{name}, {unit}" if unit else name)}},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "showlegend": True,
    }
    limit = next((row.value for row in report.budget if row.limit == "latency_ms"), None) if by_latency else None
    if limit is not None and limit <= 1.5 * max(_value(_across(p, by_latency)) for p in kept):
        layout["shapes"] = [_vertical(limit)]
        layout["annotations"] = [_vertical_label(limit, f"budget {words.significant(limit)} ms")]
    alt = f"{len(kept)} candidates, {len(front)} on the Pareto front" + (
        f", number {chosen[0].number} chosen" if chosen else ""
    )
    return chart("pareto", "Candidates of the search", alt, [g for g in groups if g["x"]], layout, 420)


def uses_chart(report: Report) -> Chart | None:
    """Quality against the predicted latency of one output, a line through the steps of each network and scheme."""
    rows = [r for r in report.uses if r.quality and r.quality.value is not None and r.latency_ms and r.latency_ms.value]
    if len(rows) < 2:
        return None
    scale, unit = _scale([row.quality for row in rows])
    colours = {"teacher float32": "--muted", "student float32": "--accent"}
    groups: dict[str, list[UseRow]] = {}
    for row in sorted(rows, key=lambda row: _value(row.latency_ms)):
        groups.setdefault(f"{row.model} {row.scheme}", []).append(row)
    data = [
        {
            "type": "scatter",
            "name": name,
            "mode": "lines+markers+text",
            "x": [_value(row.latency_ms) for row in group],
            "y": [scale(row.quality) for row in group],
            "text": [str(row.evaluations) for row in group],
            "textposition": "top center",
            "customdata": [
                safe(f"{row.name}: {words.with_interval(row.quality)}, {words.with_interval(row.latency_ms)}")
                for row in group
            ],
            "hovertemplate": "%{customdata}<extra></extra>",
            "marker": {
                "color": colours.get(name, "--after"),
                "size": 9,
                "symbol": ["circle" if row.on_front else "circle-open" for row in group],
            },
            "line": {"color": colours.get(name, "--after"), "width": 1.5},
        }
        for name, group in groups.items()
    ]
    name = f"{report.quality_name}, {unit}" if unit else report.quality_name
    layout: dict[str, Any] = {
        "xaxis": {
            "title": {"text": safe(f"predicted latency of one output on {words.target_label(report)}, ms")},
            "type": "log",
        },
        "yaxis": {"title": {"text": safe(name)}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "showlegend": True,
    }
    front = ", ".join(f"{r.model} {r.scheme} {r.evaluations}" for r in rows if r.on_front)
    alt = f"{len(rows)} ways of use by network evaluations; on the front: {front}"
    return chart("uses", "Numbers: network evaluations; filled: on the front", alt, data, layout, 420)


def _across(point: ParetoPoint, by_latency: bool) -> Figure | None:
    figure = point.latency_ms if by_latency else point.macs
    return figure if figure is not None and figure.value is not None else None


def _value(figure: Figure | None) -> float:
    return float(figure.value) if figure is not None and figure.value is not None else 0.0


def _cloud(
    name: str,
    points: Sequence[ParetoPoint],
    scale: Callable[[Figure | None], float | None],
    by_latency: bool,
    mode: str,
    marker: dict[str, Any],
) -> dict[str, Any]:
    """One group of candidates as a scatter trace; the hover says number, widths and every figure."""
    return {
        "type": "scatter",
        "name": name,
        "mode": mode,
        "x": [_value(_across(p, by_latency)) for p in points],
        "y": [scale(p.quality) for p in points],
        "customdata": [p.number for p in points],
        "text": [_point_words(p) for p in points],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"line": {"color": "--paper", "width": 1}, **marker},
        "line": {"color": "--after", "width": 1.5},
    }


def _point_words(point: ParetoPoint) -> str:
    lines = [
        f"candidate {point.number}",
        safe(f"quality {words.text(point.quality)}"),
        safe(f"latency {words.with_interval(point.latency_ms)}, predicted") if point.latency_ms else "",
        f"MACs {words.text(point.macs)}, parameters {words.text(point.params)}",
        *(safe(point.label[i : i + 60]) for i in range(0, min(len(point.label), 360), 60)),
    ]
    return "<br>".join(line for line in lines if line)


def _vertical(x: float) -> dict[str, Any]:
    line = {"color": "--bad", "width": 1.5, "dash": "dash"}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _vertical_label(x: float, text: str) -> dict[str, Any]:
    font = {"color": "--bad"}
    return {
        "x": x,
        "y": 0.02,
        "yref": "paper",
        "text": text,
        "showarrow": False,
        "xanchor": "right",
        "xshift": -4,
        "font": font,
    }
