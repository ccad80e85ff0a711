"""The whole suite: every case in every scheme and format, into a table and a page, as far as it was asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from compress.conformance.cases import find_cases
from compress.conformance.page import render
from compress.conformance.pool import Worker, processes_here, run_all
from compress.conformance.run import SCHEMES, Result
from compress.conformance.table import NAME, Table, conditions, load_table, save_table
from compress.errors import UnknownName
from compress.export import EXPORTERS
from compress.files import write_text
from compress.verify.thresholds import THRESHOLDS

PAGE = "index.html"
_SAVE_EVERY_S = 60.0

Watch = Callable[[int, int, str], None]


def make_table(
    folder: Path,
    formats: Sequence[str] = tuple(EXPORTERS),
    schemes: Sequence[str] = SCHEMES,
    pattern: str = "*",
    watch: Watch = lambda done, total, note: None,
    make_worker: Callable[[], Worker] = Worker,
) -> Table:
    """Run the cases and write `conformance.json` and `index.html` into `folder`; the table with all that is there.

    Results of the same tools that lie in the folder already and were not asked for are kept. The files are written
    once a minute as well, so that an interrupted run leaves what it has.

    Args:
        folder: where the table lies, or will.
        formats: of compress.export.EXPORTERS.
        schemes: of compress.verify.thresholds.THRESHOLDS.
        pattern: a shell pattern over names and families of cases.
        watch: told (done, total, what was done last) after each task.
        make_worker: another kind of process, for tests.

    Raises:
        UnknownName: no such format, scheme or case.
    """
    for kind, names, known in (("format", formats, EXPORTERS), ("scheme", schemes, THRESHOLDS)):
        for name in names:
            if name not in known:
                raise UnknownName(kind, name, known)
    tasks = [(case.name, scheme, tuple(formats)) for case in find_cases(pattern) for scheme in schemes]
    older, made = load_table(folder / NAME), conditions()
    fresh: list[Result] = []
    saved = time.monotonic()
    for done, results in enumerate(run_all(tasks, processes_here(), make_worker), 1):
        fresh += results
        watch(done, len(tasks), f"{results[0].case} {results[0].scheme}")
        if time.monotonic() - saved > _SAVE_EVERY_S:
            _write(older.with_results(fresh, made), folder)
            saved = time.monotonic()
    table = older.with_results(fresh, made)
    _write(table, folder)
    return table


def _write(table: Table, folder: Path) -> None:
    save_table(table, folder / NAME)
    write_text(folder / PAGE, render(table))


def count_rows(table: Table) -> list[list[str]]:
    """One row per format and scheme: format, scheme, cases, then how many have each verdict."""
    rows = []
    for format in table.formats:
        for scheme in table.schemes:
            counts = table.counts(scheme, format)
            words = [str(counts[word]) for word in ("pass", "fell back", "refused", "wrong", "structure")]
            total = sum(counts.values()) - counts["structure"]
            if total:
                rows.append([format, scheme, str(total), *words])
    return rows


COUNT_HEADERS = ("FORMAT", "SCHEME", "CASES", "PASS", "FELL BACK", "REFUSED", "WRONG", "OF THESE NOT RUN")
