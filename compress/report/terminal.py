"""The end of a run on the terminal: what came out, whether it fits, and where the report lies. 100 columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from compress.report import devices, words
from compress.report.figure import Figure
from compress.report.schema import METRICS, ArtifactRow, Figures, ReferenceRow, Report

_STYLES = {"good": "bold green", "bad": "bold red", "open": "bold"}


def print_report(report: Report, folder: Path | None = None, console: Console | None = None) -> None:
    """Print the report's tables to `console` (default: standard output), and where its files in `folder` are."""
    console = console or Console()
    for part in parts(report):
        console.print(part)
    if folder is not None:
        console.print(Text.assemble(("report  ", "bold"), str(folder / "report.html")), soft_wrap=True)


def parts(report: Report) -> Iterator[RenderableType]:
    """The verdict, then each table that has rows, then the warnings."""
    side, outcome = words.status(report)
    yield Text.assemble((f"{report.name}: {outcome}", _STYLES[side]))
    yield Text(report.verdict or words.verdict(report))
    for make in (models, references, budget, also, uses, artifacts, measured, baseline):
        table = make(report)
        if table.row_count:
            yield Text()
            yield table
        if make is measured:
            yield from (Text(f"  {line}", style="dim") for line in devices.told(report))
    yield Text()
    yield from (Text(f"warning: {warning}", style="yellow") for warning in report.warnings)


def _table(title: str, *columns: str, numbers: int = 0) -> Table:
    """A plain table; the columns from the second on are right-aligned, `numbers` of them (0: all)."""
    looks: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "padding": (0, 1)}
    table = Table(title=Text(title), title_justify="left", title_style="bold", **looks)
    for place, column in enumerate(columns):
        right = place > 0 and (not numbers or place <= numbers)
        table.add_column(Text(column), justify="right" if right else "left", overflow="fold")
    return table


def _cell(figure: Figure | None, with_origin: bool = False) -> Text:
    """A figure as a cell: value, interval, and its origin on request."""
    shown = words.with_interval(figure)
    return Text(
        f"{shown} {figure.origin}" if with_origin and figure is not None and figure.value is not None else shown
    )


def models(report: Report) -> Table:
    """Teacher against student."""
    names = (f"teacher, {report.teacher.scheme}", f"student, {report.student.scheme}")
    table = _table("Teacher and student", "", *names, "of teacher", "origin")
    table.columns[-1].justify = "left"
    for key in METRICS:
        before, after = getattr(report.teacher, key), getattr(report.student, key)
        if before is None and after is None:
            continue
        title = {"quality": report.quality_name, "latency": "Latency"}.get(key, words.TITLES[key])
        relation = words.share_text(words.ratio(before, after))
        if key == "quality":
            relation = f"{words.signed(words.difference(before, after))} {words.difference_unit(after)}".strip()
        kind = (after or before).origin
        where = f"{kind}, {words.target_label(report)}" if key == "latency" else kind
        table.add_row(Text(title), _cell(before), _cell(after), Text(relation), Text(where))
    return table


def references(report: Report) -> Table:
    """The student among its teacher and what else it is held against: quality, further figures and MACs."""
    own = [(f"teacher, {report.teacher.scheme}", report.teacher), (f"student, {report.student.scheme}", report.student)]
    rows: list[tuple[str, Figures | ReferenceRow]] = [*own, *((row.name, row) for row in report.references)]
    names = list(dict.fromkeys(name for _, row in rows for name in row.more_qualities))
    table = _table("Held against", "", report.quality_name, *names, "MACs")
    for name, row in rows if report.references else ():
        more = [_cell(row.more_qualities.get(key)) for key in names]
        table.add_row(Text(name), _cell(row.quality), *more, _cell(row.macs))
    return table


def budget(report: Report) -> Table:
    """Each limit, and whether it is met."""
    table = _table("Budget", "limit", "allowed", "student", "met", numbers=2)
    for row in report.budget:
        met = (
            Text("not decided") if row.met is None else Text("met", "green") if row.met else Text("not met", "bold red")
        )
        unit = words.limit_unit(row.limit, row.unit or (row.actual.unit if row.actual else ""))
        allowed = Text(words.value_text(row.value, unit))
        table.add_row(
            Text(row.limit), allowed, _cell(row.actual, True), Text.assemble(met, f"  {row.note}" if row.note else "")
        )
    return table


def also(report: Report) -> Table:
    """Teacher and student on further devices."""
    names = ("target", "teacher, float32", "student, float32", f"student, {report.student.scheme}")
    table = _table("Predicted on other targets", *names)
    for row in report.also:
        figures = (row.teacher, row.student_float32, row.student)
        table.add_row(Text(f"{row.target} {row.unit}"), *(_cell(figure, True) for figure in figures))
    return table


def uses(report: Report) -> Table:
    """Every way of use: what one output takes over all evaluations."""
    names = ("network", "scheme", "sampler", "evaluations", report.quality_name, "MACs", "latency", "front")
    table = _table(f"Steps, network and scheme; latency predicted on {words.target_label(report)}", *names)
    for row in report.uses:
        plain = (row.model, row.scheme, row.name, str(row.evaluations))
        figures = (row.quality, row.macs, row.latency_ms)
        table.add_row(*map(Text, plain), *(_cell(figure) for figure in figures), Text("yes" if row.on_front else ""))
    return table


def artifacts(report: Report) -> Table:
    """Each file: size, parity, quality and latency on this host."""
    names = ("file", "size", "max error", "SQNR", report.quality_name, "host p50", "host p90", "check")
    table = _table("Artifacts, checked and measured on this host (not on the target)", *names)
    table.columns[0].no_wrap = True
    table.columns[-1].justify = "left"
    for row in report.artifacts:
        size = Text(words.value_text(row.size_bytes, "bytes")) if row.size_bytes is not None else Text("\N{EN DASH}")
        shown = [_cell(figure) for figure in (row.max_error, row.sqnr_db, row.quality, row.latency, row.latency_p90)]
        table.add_row(Text(f"{row.format} {row.scheme}"), size, *shown, _check(row))
    return table


def _check(row: ArtifactRow) -> Text:
    """What verification said of an artifact, and why where it did not pass."""
    if row.passed is False:
        return Text(f"failed: {row.reason}".removesuffix(": "), "bold red")
    if not row.ran_on:
        return Text(words.NOT_RUN)
    if not row.passed:
        return Text("not checked")
    if row.ran_on.startswith(words.NOT_RUN):
        return Text("structure", "yellow")
    return Text("evaluated" if "reference evaluator" in row.ran_on else "passed", "green")


def measured(report: Report) -> Table:
    """Each file on each device it was measured on, beside what was predicted for the target."""
    title = f"{devices.heading(report)}, beside the prediction for {words.target_label(report)}"
    table = _table(title, "file", "measured on", "p50", "p90", "predicted", "error", "in interval")
    table.columns[0].no_wrap = True
    for column in (1, -1):
        table.columns[column].justify = "left"
    for _, artifact, row in devices.rows(report):
        predicted = artifact.predicted_latency if not row.not_compared else None
        table.add_row(
            Text(f"{artifact.format} {artifact.scheme}"),
            Text(devices.place(row), "yellow" if row.throttled else ""),
            *(_cell(figure) for figure in (row.latency_p50_ms, row.latency_p90_ms, predicted)),
            Text(devices.error(row)),
            Text(devices.inside(row), "bold" if row.in_interval is False else ""),
        )
    return table


def baseline(report: Report) -> Table:
    """Teacher and student on this host, measured alternately."""
    table = _table(
        "Host comparison, measured alternately on this host (not on the target)",
        "model",
        "format",
        "size",
        "p50",
        "p90",
    )
    table.columns[1].justify = "left"
    for row in report.baseline:
        size = words.value_text(row.size_bytes, "bytes") if row.size_bytes is not None else "\N{EN DASH}"
        table.add_row(Text(row.name), Text(row.format), Text(size), _cell(row.latency), _cell(row.latency_p90))
    return table
