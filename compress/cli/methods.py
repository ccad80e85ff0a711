"""`compress methods`: the list of published systems, and the bench that holds each against its own ablation."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from compress.cli.options import Json, Verbose
from compress.errors import CheckFailed, UnknownName
from compress.terminal import guarded, print_json, print_table, stdout_for_json

SUMMARY = "List the published systems: paper, family, tier, built or planned, where; `bench` tries the built ones."
_LIST = "list"
_LEAST_SEEDS = 3  # below that there is no verdict


class _OrList(TyperGroup):
    """A group that lists where none of its commands is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with the command that lists put in front where none is named."""
        if not args or (args[0] not in self.commands and args[0] not in ("--help", "-h")):
            args = [_LIST, *args]
        return super().parse_args(ctx, args)


methods_app = typer.Typer(cls=_OrList, rich_markup_mode=None, add_completion=False, help=SUMMARY)


@methods_app.command(_LIST, short_help="List the published systems (the default).")
def list_all(
    family: Annotated[
        str | None, typer.Option("--family", help="Only families whose name contains this.", show_default=False)
    ] = None,
    built: Annotated[bool, typer.Option("--built", help="Only what can be used today.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the published systems: paper, family, tier, built or planned, and where each stands in the code."""
    with guarded(verbose, as_json):
        from compress.methods import TIERS, list_methods

        rows = list_methods(family, built)
        if as_json:
            print_json([row.to_dict() for row in rows])
            return
        headers = ["NO", "KEY", "FAMILY", "TIER", "STATUS", "WHERE", "PAPER"]
        print_table(headers, [[r.number, r.key, r.family, TIERS[r.tier], r.status, r.where, r.paper] for r in rows])
        print(f"{len(rows)} methods, {sum(row.built for row in rows)} built", file=sys.stderr)


@methods_app.command(short_help="Try each method against its own ablation on small data, and write the table.")
def bench(
    family: Annotated[str, typer.Option("--family", help="Which cases.")] = "generator",
    only: Annotated[
        str | None, typer.Option("--only", metavar="KEY", help="Only this method's cases.", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=_LEAST_SEEDS, help="Seeds per case.")] = _LEAST_SEEDS,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="By default profiles/methods.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what is there, run what is missing.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Try each method against its own ablation on small data (about half an hour for a whole family).

    Writes FAMILY.json, row by row as cases end, and FAMILY.md. A method that loses is shown as losing; that is no
    error. What was not asked for stays as it is in the folder.
    """
    with guarded(verbose, as_json):
        from compress.bench import FAMILIES, HEADERS, cells, run_bench
        from compress.console import Console
        from compress.methods import list_methods
        from compress.resources import data_folder

        if family not in FAMILIES:
            raise UnknownName("family of the methods bench", family, FAMILIES)
        folder = out or data_folder("profiles") / "methods"
        known = {method.key: (method.number, method.name) for method in list_methods()}
        console = Console()
        with stdout_for_json(as_json), console.progress("methods bench") as bar:
            rows = run_bench(
                family, FAMILIES[family], known, folder, seeds, only, resume, bar.update,
                lambda row: console.say(f"{row.method}: {row.name}: {row.verdict}"),
            )  # fmt: skip
        print(f"wrote {folder / family}.json and .md", file=sys.stderr)
        if as_json:
            print_json([asdict(row) for row in rows])
            return
        print_table(HEADERS, [cells(row) for row in rows])
        failed = [f"{row.method} ({row.name}): {row.reason}" for row in rows if row.verdict == "failed"]
        if failed:
            number = f"{len(failed)} case{'s' * (len(failed) > 1)} of the bench failed"
            raise CheckFailed(f"{number}: {'; '.join(failed)}")
