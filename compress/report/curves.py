"""The charts of what repeats: cost per layer before and after, and training curves per step (see `charts`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress.report import words
from compress.report.charts import Chart, chart, safe
from compress.report.figure import Figure
from compress.report.schema import LayerRow, Report, StepRow

ROW_PX = 22  # of one layer in the layer chart
_DASHES = ("solid", "dash", "dot", "dashdot")
_LINES = ("--after", "--before", "--third", "--ink")


def _epochs_layout(count: int) -> dict[str, Any]:
    """Axes for a curve over epochs; few epochs get one tick each, since there is nothing between them."""
    ticks = {"dtick": 1, "tick0": 1} if count <= 8 else {"nticks": 8}
    return {"xaxis": {"title": {"text": "epoch"}, "tickformat": "d", **ticks}, "yaxis": {"nticks": 5}}


def layer_charts(report: Report) -> list[Chart]:
    """MACs and predicted latency of every layer, before and after, in the order of the network."""
    rows = report.layers
    kinds = [
        ("macs", "MACs", [(r.macs_before, r.macs_after) for r in rows]),
        (
            "latency",
            f"Predicted ms on {words.target_label(report)}",
            [(r.latency_before_ms, r.latency_after_ms) for r in rows],
        ),
    ]
    return [
        _bars(key, title, rows, pairs) for key, title, pairs in kinds if any(f and f.value for p in pairs for f in p)
    ]


def _bars(
    key: str, title: str, rows: Sequence[LayerRow], pairs: Sequence[tuple[Figure | None, Figure | None]]
) -> Chart:
    places = list(range(len(rows)))
    data = []
    for side, name, colour in ((0, "teacher", "--before"), (1, "student", "--after")):
        values = [p[side].value if p[side] is not None else None for p in pairs]  # type: ignore[union-attr]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": places,
                "x": values,
                "marker": {"color": colour},
                "text": [_layer_words(row, pair[side]) for row, pair in zip(rows, pairs, strict=True)],
                "textposition": "none",
                "hovertemplate": f"%{{text}}<extra>{name}</extra>",
            }
        )
    layout = {
        "barmode": "group",
        "bargap": 0.3,
        "bargroupgap": 0,
        "yaxis": {
            "autorange": False,
            "range": [len(rows) - 0.4, -0.6],
            "tickvals": places,
            "ticktext": [safe(row.where or row.name) for row in rows],
            "showgrid": False,
            "zeroline": False,
        },
        "xaxis": {"rangemode": "tozero", "side": "top", "nticks": 5},
        "labels": "y",
    }
    alt = f"{title} of {len(rows)} layers, teacher against student; the table below holds every value"
    return chart(f"layers-{key}", title, alt, data, layout, 44 + ROW_PX * len(rows))


def _layer_words(row: LayerRow, figure: Figure | None) -> str:
    channels = f"channels {row.channels_before} to {row.channels_after}" if row.channels_before is not None else ""
    lines = [
        row.where or row.name,
        row.kind,
        words.with_interval(figure),
        channels,
        f"bound by {row.bound}" if row.bound else "",
    ]
    return "<br>".join(safe(line) for line in lines if line)


def training_charts(step: StepRow, quality_name: str, unit: str) -> list[Chart]:
    """The loss terms and the validation quality of one step, epoch by epoch."""
    epochs = [row.epoch + 1 for row in step.history]
    terms = list(dict.fromkeys(name for row in step.history for name in row.losses))
    rates = [f"learning rate {row.learning_rate:.3g}" if row.learning_rate is not None else "" for row in step.history]
    losses = [
        {**_curve(name, epochs, [row.losses.get(name) for row in step.history], place), "text": rates}
        for place, name in enumerate(terms)
    ]
    factor, shown = (100.0, "%") if unit in ("fraction", "share") else (1.0, unit)
    quality = [None if row.quality is None else factor * row.quality for row in step.history]
    label, made, layout = f"{step.index} {step.verb}", [], _epochs_layout(len(epochs))
    many = {"showlegend": len(losses) > 1, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}}
    if losses:
        alt = f"training loss of step {label} over {len(epochs)} epochs: {', '.join(terms)}"
        made.append(chart(f"loss-{step.index}", f"{label}: loss", alt, losses, {**layout, **many}, 230))
    if any(value is not None for value in quality):
        title = f"{label}: {quality_name} on validation" + (f", {shown}" if shown else "")
        alt = f"{title}, over {len(epochs)} epochs"
        made.append(chart(f"quality-{step.index}", title, alt, [_curve(quality_name, epochs, quality, 0)], layout, 230))
    return made


def _curve(name: str, epochs: Sequence[int], values: Sequence[float | None], place: int) -> dict[str, Any]:
    """One line over epochs; the `place`-th colour and dash, so that no curve is told by colour alone."""
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(epochs) < 20 else "lines",
        "name": safe(name),
        "x": list(epochs),
        "y": list(values),
        "text": [""] * len(epochs),
        "connectgaps": True,
        "line": {"color": _LINES[place % 4], "dash": _DASHES[place % 4], "width": 2},
        "marker": {"size": 5},
        "hovertemplate": "epoch %{x}: %{y:.4g} %{text}<extra></extra>",
    }
