"""The options that several commands share, and the application that they all belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe (YAML), or an earlier run's folder.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="Run folder; by default runs/NAME.", show_default=False),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of everything random.", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: distill.epochs=5.", show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and the predicted cost; train nothing.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run inside the step it was in.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Log details; print a traceback on errors.")]

app = typer.Typer(
    name="compress",
    help="Compress a trained PyTorch model into verified files that run on a phone, inside a budget.",
    epilog="Exit codes: 0 done, 1 a check failed, 2 bad recipe or arguments, 3 over budget, 4 a tool is missing.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
