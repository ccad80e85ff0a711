"""Runs the cases of a family, writes each row as soon as it is there, and the page at the end."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from compress.bench.case import Case
from compress.bench.page import render
from compress.bench.table import Row, Verdict, in_order, read_rows, verdict, write_rows
from compress.errors import CompressError, ToolMissing, UnknownName
from compress.files import write_text

Known = Mapping[str, tuple[int, str]]
"""A method's key to its number and name in the list of methods."""
Watch = Callable[[int, int, str], None]


def run_bench(
    family: str,
    cases: Sequence[Case],
    known: Known,
    folder: Path,
    seeds: int,
    only: str | None = None,
    resume: bool = False,
    watch: Watch = lambda done, total, note: None,
    tell: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """The rows of a family's table after its cases were run; `folder` gets FAMILY.json and FAMILY.md.

    Args:
        family: names the files.
        cases: all cases of the family, in the table's order.
        known: the list of methods.
        folder: rows that are there and were not asked for stay.
        seeds: how many, from 0.
        only: the key of the one method to run.
        resume: keep rows that were made with these seeds and tools, and did not fail.
        watch: called before each seed of each case.
        tell: called with each row as it is there.

    Raises:
        UnknownName: no case is of the method asked for.
        ToolMissing: a bed needs a tool that is not installed.
    """
    asked = [case for case in cases if only in (None, case.method)]
    if not asked:
        raise UnknownName("method of the bench", str(only), {case.method for case in cases})
    path = folder / f"{family}.json"
    if resume:
        kept = {row.key: row for row in read_rows(path)}
        asked = [case for case in asked if not _is_done(kept.get((case.method, case.name)), seeds)]
    folder.mkdir(parents=True, exist_ok=True)
    for place, case in enumerate(asked):

        def note(seed: int, place: int = place, case: Case = case) -> None:
            watch(place * seeds + seed, len(asked) * seeds, f"{case.method}: {case.name}, seed {seed}")

        row = run_case(case, known, seeds, note)
        # Read again each time: another process may be at other methods of the same table.
        write_rows(path, in_order([*(old for old in read_rows(path) if old.key != row.key), row], cases))
        tell(row)
    found = in_order(read_rows(path), cases)
    write_text(folder / f"{family}.md", render(family, found))
    return found


def run_case(case: Case, known: Known, seeds: int, note: Callable[[int], None] = lambda seed: None) -> Row:
    """The row of one case; where a side refuses or diverges, the row says so instead of stopping the bench."""
    number, title = known.get(case.method, (None, case.method))
    about = {name: value for name, value in asdict(case).items() if name != "run"}
    pairs: list[tuple[float, float]] = []
    started, reason = time.process_time(), ""
    outcome: Verdict = "failed"
    try:
        for seed in range(seeds):
            note(seed)
            first, second = case.run(seed)
            pairs.append((float(first), float(second)))
        with_idea, without = (tuple(side) for side in zip(*pairs, strict=True))
        outcome = verdict(with_idea, without, case.higher_is_better)
    except ToolMissing:
        raise
    except CompressError as error:
        with_idea, without, reason = (), (), " ".join(str(error).split())
    return Row(
        **about, number=number, title=title, seeds=tuple(range(seeds)), with_idea=with_idea, without=without,
        verdict=outcome, reason=reason, cpu_seconds=round(time.process_time() - started, 1), made=conditions(),
    )  # fmt: skip


def conditions() -> dict[str, str]:
    """What figures depend on beside the code, and today's date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "host": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
    }


def _is_done(row: Row | None, seeds: int) -> bool:
    """Whether a row stands for what running its case again would give."""
    if row is None or row.verdict == "failed":
        return False
    same = {name: value for name, value in conditions().items() if name != "date"}
    return row.seeds == tuple(range(seeds)) and same.items() <= row.made.items()
