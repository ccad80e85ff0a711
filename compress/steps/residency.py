"""The residency check of a recipe: what each op will run as in the formats it writes, before anything is trained."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from compress.conformance import load_table, residency
from compress.console import Console
from compress.job import Job
from compress.recipe import Export, Recipe


def residency_rows(recipe: Recipe, recipe_folder: Path) -> list[dict[str, Any]]:
    """One row of plain data per scheme, op and format, on the network it starts from (see `compress.conformance`).

    Pruning and search make layers thinner and fewer, not of another kind: the student's ops are among these.
    """
    settings = next((step.settings for step in recipe.steps if step.verb == "export"), Export())
    schemes = settings.schemes or tuple(dict.fromkeys(("float32", recipe.scheme)))
    table = load_table()
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(recipe, recipe_folder.resolve(), Path(scratch), Console(quiet=True))
        job.__dict__["traced_teacher"] = job.untrained_teacher()
        model = job.base
    rows = [row for scheme in schemes for row in residency(model, scheme, settings.formats, table)]
    return [row.to_dict() for row in rows]
