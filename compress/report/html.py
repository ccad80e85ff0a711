"""The report as one page: template, styles, script and plotly in one file; nothing is fetched when it is read."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from compress.report import charts, curves, devices, words
from compress.report.figure import Figure
from compress.report.schema import METRICS, Report, StepRow

TEMPLATES = Path(__file__).parent / "templates"
_ROWS = (*METRICS, "peak_activation_bytes")


def render(report: Report) -> str:
    """The page of a report; every text from the run is escaped, and a content policy forbids all other scripts."""
    drawn = _charts(report)
    scripts = [_plotly(), (TEMPLATES / "report.js").read_text()] if drawn else []
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            rows=_rows(report),
            more_names=_more_names(report),
            sheet_names=_sheet_names(report),
            tiles=_tiles(report),
            charts={c["key"]: c for c in drawn},
            groups=_groups(report, drawn),
            chart_data=_script_json({c["key"]: c for c in drawn}),
            recipe=yaml.safe_dump(report.recipe, sort_keys=False, allow_unicode=True, width=100)
            if report.recipe
            else "",
            target=words.target_label(report),
            measured_on=devices.heading(report),
            status=words.status(report),
            sources=report.target.get("sources") or {},
            facts_of_target={k: v for k, v in report.target.items() if k != "sources" and v not in (None, "", [], {})},
            style=Markup((TEMPLATES / "style.css").read_text()),
            scripts=[Markup(script) for script in scripts],
            policy=_policy(scripts),
        )
    )


def _environment() -> jinja2.Environment:
    """The templates with the report's words as filters; a misspelt name is an error, not an empty place."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure_text=words.text,
        interval=words.interval,
        origin=words.origin,
        value_text=words.value_text,
        share=words.share_text,
        signed=words.signed,
        raw=json.dumps,
        counted=counted,
        limit_unit=words.limit_unit,
        grouped=words.grouped,
        duration=duration,
        tiny=tiny,
        capital=lambda text: text[:1].upper() + text[1:],
        short=lambda value: value if isinstance(value, str) else json.dumps(value, default=str),
    )
    environment.globals.update(devices=devices)
    environment.globals.update(titles=words.TITLES, metrics=METRICS, ratio=words.ratio, not_run=words.NOT_RUN, has=has)
    return environment


def _plotly() -> str:
    """The whole plotly.js, as the Python package ships it."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """A content security policy that runs exactly `scripts` and loads nothing from anywhere."""
    hashes = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{h}'" for h in hashes) or "'none'"
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; media-src data:"


def _script_json(record: Any) -> Markup:
    """JSON that may stand inside a script element: no text in it can end the element."""
    text = json.dumps(record, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _charts(report: Report) -> list[charts.Chart]:
    """Every chart that has something to show."""
    unit = report.teacher.quality.unit if report.teacher.quality else ""
    wholes = [each for each in (charts.pareto_chart(report), charts.uses_chart(report)) if each is not None]
    training = [
        c for step in report.steps if step.history for c in curves.training_charts(step, report.quality_name, unit)
    ]
    return [*charts.step_charts(report), *wholes, *curves.layer_charts(report), *training]


def _groups(report: Report, drawn: list[charts.Chart]) -> dict[str, list[charts.Chart]]:
    """The charts by the section they stand in."""
    training = ("loss-", "quality-")
    return {
        "steps": [c for c in drawn if c["key"].startswith("steps-")],
        "layers": [c for c in drawn if c["key"].startswith("layers-")],
        "training": [c for c in drawn if c["key"].startswith(training)],
    }


def _rows(report: Report) -> list[dict[str, Any]]:
    """The rows of the teacher-student table: title, path of the figure, both figures, and their relation in words."""
    made = []
    for key in _ROWS:
        before, after = getattr(report.teacher, key), getattr(report.student, key)
        title = {"quality": report.quality_name, "latency": f"Latency on {words.target_label(report)}"}.get(
            key, words.TITLES[key]
        )
        made.append(_row(title, key, before, after, key == "quality"))
    for name in _more_names(report):
        pair = report.teacher.more_qualities.get(name), report.student.more_qualities.get(name)
        made.append(_row(name, f"more_qualities.{name}", *pair, True))
    return [row for row in made if row["before"] or row["after"]]


def _more_names(report: Report) -> list[str]:
    """The further figures that any model has."""
    named = [report.teacher.more_qualities, report.student.more_qualities]
    named += [row.more_qualities for row in report.references]
    return list(dict.fromkeys(name for figures in named for name in figures))


def _sheet_names(report: Report) -> list[str]:
    """The columns of the sheet behind the input: all that answered with a picture; none where nobody did."""
    answers = [sample.outputs for sample in report.samples]
    if not any(answer.startswith("data:image/") for outputs in answers for answer in outputs.values()):
        return []
    return list(dict.fromkeys(name for outputs in answers for name in outputs))


def _row(title: str, key: str, before: Figure | None, after: Figure | None, as_difference: bool) -> dict[str, Any]:
    relation = words.share_text(words.ratio(before, after))
    if as_difference:
        relation = f"{words.signed(words.difference(before, after))} {words.difference_unit(after)}"
    return {"title": title, "key": key, "before": before, "after": after, "relation": relation}


def _tiles(report: Report) -> list[dict[str, Any]]:
    """The big figures: share of MACs, size and predicted latency that is left, and the difference in quality."""
    teacher, student = report.teacher, report.student
    where = f"of its latency, predicted on {words.target_label(report)}"
    labels = (("macs", "of the teacher's MACs"), ("size_bytes", "of the teacher's size"), ("latency", where))
    tiles = []
    for key, label in labels:
        before, after = getattr(teacher, key), getattr(student, key)
        share = words.ratio(before, after)
        if share is not None:
            big = words.share_text(share)
            tiles.append({"key": key, "big": big, "label": label, "share": share, "before": before, "after": after})
    change = words.difference(teacher.quality, student.quality)
    if change is not None:
        unit = words.difference_unit(student.quality)
        label = (
            f"{unit} of {report.quality_name}, against the teacher"
            if unit
            else f"{report.quality_name}, against the teacher"
        )
        big = words.signed(change)
        tiles.append(
            {
                "key": "quality",
                "big": big,
                "label": label,
                "share": change,
                "before": teacher.quality,
                "after": student.quality,
            }
        )
    return tiles


def counted(value: float | None, unit: str) -> Figure | None:
    """A bare count as a figure, so that it is shown like one."""
    return None if value is None else Figure(value=value, unit=unit, origin="counted")


def duration(seconds: float) -> str:
    """Wall time: "41.3 s", "6 min 12 s", "1 h 04 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def has(step: StepRow) -> bool:
    """Whether a step has details to unfold."""
    return bool(step.settings or step.plan or step.key)


def tiny(uri: str) -> bool:
    """Whether a PNG data URI is under 65 px wide, so that the page shows its pixels instead of blurring them."""
    head = base64.b64decode(uri.partition(",")[2][:32])  # signature, IHDR length and name, width at byte 16
    return uri.startswith("data:image/png") and 0 < int.from_bytes(head[16:20], "big") <= 64
