"""Writes a report into a run folder."""

from __future__ import annotations

from pathlib import Path

from compress.files import write_json, write_text
from compress.report.html import render
from compress.report.schema import Report
from compress.report.words import verdict


def write(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write `report.json` and `report.html` into `folder`, each atomically, and return their paths.

    An empty `verdict` is filled in, in `report` too. The page is made before either file is touched.

    Raises:
        RunFolderError: the folder cannot be written, or the disk is full.
    """
    report.verdict = report.verdict or verdict(report)
    page = render(report)
    json_path, html_path = folder / "report.json", folder / "report.html"
    write_json(json_path, report.to_dict())
    write_text(html_path, page)
    return json_path, html_path
