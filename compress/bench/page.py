"""The table as a page of Markdown: verdicts first, then one section per method with every seed's figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from statistics import median

from compress.bench.table import Row

_EVALUATIONS = re.compile(r"\d+ evaluations?")
HEADERS = ("NO", "METHOD", "CASE", "METRIC", "WITH", "WITHOUT", "VERDICT", "CPU SECONDS")
_HEAD = """# Methods bench: {family}

Each method against its own ablation (its idea switched off), on small beds, with the same budget on both sides.
`compress methods bench --family {family}` makes this page and the JSON beside it.

A win or a loss needs the same sign in every seed, or a mean difference above 2 standard errors; all else is no
difference. Figures are medians over the seeds. They say whether an idea works here, at this scale and budget; they are
not comparable with any published figure.
"""


def cells(row: Row) -> list[str]:
    """A row's cells under `HEADERS`."""
    number = "–" if row.number is None else str(row.number)
    arrow = "↑" if row.higher_is_better else "↓"
    unit = f", {row.unit}" if row.unit else ""
    middle = [_figure(median(side)) if side else "–" for side in (row.with_idea, row.without)]
    return [number, row.method, row.name, f"{row.metric}{unit} {arrow}", *middle, row.verdict, f"{row.cpu_seconds:.0f}"]


def render(family: str, rows: Sequence[Row]) -> str:
    """The page."""
    counts = ", ".join(f"{sum(row.verdict == v for row in rows)} {v}" for v in dict.fromkeys(r.verdict for r in rows))
    minutes = sum(row.cpu_seconds for row in rows) / 60
    total = f"{len(rows)} cases: {counts or 'none yet'}; {minutes:.0f} minutes of processor time."
    lines = [_HEAD.format(family=family), total, ""]
    lines += [_line(HEADERS), _line(["---"] * len(HEADERS)), *(_line(cells(row)) for row in rows), ""]
    lines += _by_evaluations(rows)
    for (_, title), found in groupby(rows, key=lambda row: (row.method, row.title)):
        group = list(found)
        number = "" if group[0].number is None else f"{group[0].number} "
        lines += [f"## {number}{title} (`{group[0].method}`)", ""]
        for row in group:
            lines += [*_section(row), ""]
    return "\n".join(lines).rstrip() + "\n"


def _by_evaluations(rows: Sequence[Row]) -> list[str]:
    """Quality against the number of network evaluations, where cases are of that: a line for each method."""
    found = {(row.title, int(row.name.split()[0])): row for row in rows if _EVALUATIONS.fullmatch(row.name)}
    counts = sorted({count for _, count in found})
    if not counts:
        return []
    rest = {count: next(row for (_, c), row in found.items() if c == count).without for count in counts}
    teacher = ["the teacher, Euler steps", *(_figure(median(rest[c])) if rest[c] else "–" for c in counts), ""]
    lines = [
        "## Quality against network evaluations",
        "",
        f"{next(iter(found.values())).metric}; medians over seeds.",
        "",
    ]
    lines += [
        _line(["METHOD", *map(str, counts), "CPU SECONDS A SEED"]),
        _line(["---"] * (len(counts) + 2)),
        _line(teacher),
    ]
    for title in dict.fromkeys(title for title, _ in found):
        of_method = {count: found[title, count] for count in counts if (title, count) in found}
        shown = [
            _figure(median(of_method[c].with_idea)) if c in of_method and of_method[c].with_idea else "–"
            for c in counts
        ]
        seconds = sum(row.cpu_seconds / max(1, len(row.with_idea)) for row in of_method.values())
        lines.append(_line([title, *shown, f"{seconds:.0f}"]))
    return [*lines, ""]


def _section(row: Row) -> list[str]:
    made = ", ".join(f"{name} {value}" for name, value in row.made.items() if name != "date")
    unit = f" ({row.unit})" if row.unit else ""
    found = (
        f"failed: {row.reason}"
        if row.verdict == "failed"
        else f"with {_figures(row.with_idea)}; without {_figures(row.without)}: **{row.verdict}**"
    )
    return [
        f"**{row.name}.** {row.question}",
        "",
        f"- {row.metric}{unit}, {'higher' if row.higher_is_better else 'lower'} is better",
        f"- {found}",
        f"- the card: {row.card}",
        f"- {row.cpu_seconds:.0f} s of processor time for {len(row.seeds)} seeds, {row.made['date']}; {made}",
    ]


def _figures(side: Sequence[float]) -> str:
    return f"{_figure(median(side))} (seeds: {', '.join(map(_figure, side))})"


def _figure(value: float) -> str:
    return f"{value:.4g}"


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', '/') for text in texts)} |"
