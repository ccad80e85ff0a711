"""The commands that need no recipe: what there is, what is installed, and a first recipe to start from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from compress.cli.options import Json, Verbose
from compress.terminal import guarded, print_json, print_table, stdout_for_json


def init(
    folder: Annotated[Path, typer.Argument(metavar="NAME_OR_FOLDER", help="Where to write recipe.yaml and task.py.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    verbose: Verbose = False,
) -> None:
    """Write a commented recipe and a task file to start from with your own model.

    Both run as they are, on a small made-up task: try them, then put your model and data in.
    """
    with guarded(verbose):
        from compress.starter import write_templates

        recipe, task = write_templates(folder, force)
        print(f"wrote {recipe} and {task}")
        print(f"try:  compress run {recipe}\nthen: put your model and data into {task}")


def targets(as_json: Json = False, verbose: Verbose = False) -> None:
    """List the devices: units, runtimes, schemes, and what stands behind each prediction.

    The error is the mean one on models that the fit never saw, whole families of them where there are enough.
    """
    with guarded(verbose, as_json):
        from compress.catalogue import target_rows

        rows = target_rows()
        if as_json:
            print_json(rows)
            return
        keys = ("name", "soc", "unit", "hardware", "memory", "runtimes", "schemes", "profile")
        cells = [[", ".join(row[k]) if isinstance(row[k], list) else row[k] for k in keys] for row in rows]
        print_table([key.upper() for key in keys], cells)


def formats(as_json: Json = False, verbose: Verbose = False) -> None:
    """List the export formats: whether this machine can write and run each, and what to install if not."""
    with guarded(verbose, as_json):
        from compress.catalogue import format_rows

        rows = format_rows()
        if as_json:
            print_json(rows)
        else:
            print_table(["FORMAT", "CAN BE WRITTEN HERE", "CAN RUN HERE"], [list(row.values()) for row in rows])


def schema(verbose: Verbose = False) -> None:
    """Print the JSON Schema of a recipe, for editors."""
    with guarded(verbose):
        from compress.schema import recipe_schema

        print_json(recipe_schema())


def doctor(as_json: Json = False, verbose: Verbose = False) -> None:
    """Say what is installed, what is missing, and the line that brings it."""
    with guarded(verbose, as_json):
        from compress.doctor import examine

        state = examine()
        if as_json:
            print_json(state)
            return
        tools = state.pop("tools")
        print_table(["MACHINE", ""], list(state.items()))
        rows = [[tool["name"], tool["version"] or f"missing: {tool['install']}", tool["purpose"]] for tool in tools]
        print()
        print_table(["TOOL", "VERSION", "NEEDED FOR"], rows)


def conformance(
    formats: Annotated[
        str | None, typer.Option("--formats", metavar="LIST", help="Such as onnx,litert.", show_default=False)
    ] = None,
    schemes: Annotated[
        str | None, typer.Option("--schemes", metavar="LIST", help="Such as float32,w8a8.", show_default=False)
    ] = None,
    cases: Annotated[str, typer.Option("--cases", metavar="PATTERN", help="Names or families: 'conv*'.")] = "*",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="By default profiles/conformance.", show_default=False),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Try every operator in every format and scheme, and write the table (about an hour for all of them).

    Writes conformance.json, which the residency check of `export --dry-run` reads, and index.html. What was not asked
    for stays as it is in the folder, as long as it was made with the same tools.
    """
    with guarded(verbose, as_json):
        from compress.conformance import SCHEMES, count_rows, make_table
        from compress.conformance.suite import COUNT_HEADERS
        from compress.console import Console
        from compress.export import EXPORTERS
        from compress.resources import data_folder

        folder = out or data_folder("profiles") / "conformance"
        asked = [text.split(",") if text else None for text in (formats, schemes)]
        with stdout_for_json(as_json), Console().progress("conformance") as bar:
            table = make_table(folder, asked[0] or tuple(EXPORTERS), asked[1] or SCHEMES, cases, bar.update)
        rows = count_rows(table)
        if as_json:
            print_json([dict(zip(COUNT_HEADERS, row, strict=True)) for row in rows])
            return
        print_table(COUNT_HEADERS, rows)
        print(f"wrote {folder}", file=sys.stderr)


COMMANDS = (init, targets, formats, schema, doctor, conformance)
"""In the order of `compress --help`; the first line of each one's docstring is what it says there."""
