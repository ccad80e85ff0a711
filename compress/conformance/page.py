"""The conformance table as one page: a matrix of cases, formats and schemes; nothing is fetched when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from compress.conformance.case import KINDS
from compress.conformance.cases import CASES
from compress.conformance.run import WORDS, Result
from compress.conformance.table import Table

_TEMPLATES = Path(__file__).parent / "templates"
_SHORT = {"pass": "pass", "fell back": "float", "refused": "refused", "wrong": "WRONG"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(table: Table) -> str:
    """The page of a table; every text in it is escaped, and a content policy forbids scripts."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    notes: dict[str, int] = {}
    columns = [(format, scheme) for format in table.formats for scheme in table.schemes]
    return environment.get_template("conformance.html.j2").render(
        made=table.made,
        formats=table.formats,
        schemes=table.schemes,
        columns=columns,
        words=[(word, _SHORT[word], _class_of(word)) for word in WORDS],
        counts=[_counts(table, format, scheme) for format, scheme in columns],
        families=_families(table, columns, notes),
        kinds=_kinds(table, columns),
        notes=list(notes),
        runtimes=_runtimes(table),
        policy=_POLICY,
        style=Markup((_TEMPLATES / "conformance.css").read_text()),
    )


def _class_of(word: str) -> str:
    return word.replace(" ", "-")


def _counts(table: Table, format: str, scheme: str) -> dict[str, Any]:
    counts = table.counts(scheme, format)
    total = sum(counts[word] for word in WORDS)
    return {"format": format, "scheme": scheme, "total": total, "structure": counts["structure"],
            "words": [counts[word] for word in WORDS]}  # fmt: skip


def _families(table: Table, columns: list[tuple[str, str]], notes: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Family -> its cases, each with one cell per column; reasons are numbered into `notes`."""
    families: dict[str, list[dict[str, Any]]] = {}
    for case in dict.fromkeys(case for case, _, _ in table.results):
        cells = [_cell(table.results.get((case, scheme, format)), notes) for format, scheme in columns]
        one = CASES.get(case)
        row = {"name": case, "kinds": one.kinds if one else (), "cells": cells}
        families.setdefault(one.family if one else "no longer in the suite", []).append(row)
    return families


def _cell(result: Result | None, notes: dict[str, int]) -> dict[str, Any]:
    if result is None:
        return {"class": "none", "text": "–", "note": 0, "detail": ""}
    detail = "structure" if result.checked == "structure" else ""
    if result.sqnr_db is not None:
        detail = "exact" if result.sqnr_db >= 300 else f"{result.sqnr_db:.0f}"
    note = notes.setdefault(result.reason, len(notes) + 1) if result.reason else 0
    return {"class": _class_of(result.verdict), "text": _SHORT[result.verdict], "note": note, "detail": detail}


def _kinds(table: Table, columns: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """For each kind of model, how many of its cases pass, fall back and are there, per column."""
    rows = []
    for kind in KINDS:
        needed = {name for name, case in CASES.items() if kind in case.kinds}
        cells = []
        for format, scheme in columns:
            found = [r for (c, s, f), r in table.results.items() if (s, f) == (scheme, format) and c in needed]
            passed, fell = (sum(r.verdict == word for r in found) for word in ("pass", "fell back"))
            cells.append((passed, fell, len(found)))
        rows.append({"kind": kind, "cells": cells})
    return rows


def _runtimes(table: Table) -> dict[str, list[str]]:
    """Format -> what ran its files, as the results say."""
    found: dict[str, dict[str, None]] = {}
    for (_, _, format), result in table.results.items():
        if result.ran_on:
            found.setdefault(format, {})[f"{result.ran_on}; {result.delegate}"] = None
    return {format: list(texts) for format, texts in found.items()}
