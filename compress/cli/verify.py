"""The verify command: a recipe's steps up to verify, and on request golden data or another processor's kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compress.cli.options import DryRun, Json, Out, Resume, Seed, Set, Verbose
from compress.cli.verbs import VERBS, command_for, run_recipe
from compress.terminal import guarded, print_json, print_table, stdout_for_json

if TYPE_CHECKING:
    from compress.pipeline import RunResult

OptionalSource = Annotated[
    Path | None,
    typer.Argument(metavar="RECIPE", help="A recipe (YAML), or an earlier run's folder.", show_default=False),
]
Arch = Annotated[
    str | None,
    typer.Option("--arch", metavar="NAME", help="Then run the artifacts on emulated arm64 too.", show_default=False),
]
Setup = Annotated[
    str | None,
    typer.Option("--setup", metavar="NAME", help="Fetch what --arch needs (arm64), once.", show_default=False),
]
Golden = Annotated[
    Path | None,
    typer.Option(
        "--golden", metavar="ARTIFACT", help="Check one file by the golden data beside it.", show_default=False
    ),
]


def verify_command() -> Callable[..., None]:
    """The verify command: the steps up to verify, and on request the artifacts on another processor's kernels."""
    steps = command_for("verify")

    def command(
        context: typer.Context,
        source: OptionalSource = None,
        arch: Arch = None,
        setup: Setup = None,
        golden: Golden = None,
        out: Out = None,
        seed: Seed = None,
        set_: Set = None,
        dry_run: DryRun = False,
        resume: Resume = False,
        as_json: Json = False,
        verbose: Verbose = False,
    ) -> None:
        if setup is not None:
            with guarded(verbose, as_json):
                _set_up(setup, as_json)
        if golden is not None:
            with guarded(verbose, as_json):
                raise typer.Exit(_check_golden(golden, as_json))
        if source is None and setup is None:
            context.fail("Missing argument 'RECIPE'.")
        if source is not None and (arch is None or dry_run):
            steps(context, source, out, seed, set_, dry_run, resume, as_json, verbose)
        elif source is not None:
            with guarded(verbose, as_json):
                with stdout_for_json(as_json):
                    record = _emulated(
                        str(arch), lambda: run_recipe(context, "verify", source, out, seed, set_, resume)
                    )
                _print_emulated(record, as_json)
                raise typer.Exit(record["exit_code"])

    command.__doc__ = f"{VERBS['verify']}\n\nWith --arch arm64 on emulated ARM kernels too."
    return command


def _check_golden(artifact: Path, as_json: bool) -> int:
    """The exit code of an artifact's check by its golden data; says what was found."""
    with stdout_for_json(as_json):
        from compress.verify import check_golden

        found = check_golden(artifact)
    if as_json:
        print_json(found.to_dict())
    else:
        print(found)
    return int(not found.passed)


def _set_up(arch: str, as_json: bool) -> None:
    """Make the emulated system and say what it holds."""
    from compress.console import Console
    from compress.runtimes.arm64.root import check_arch
    from compress.runtimes.arm64.setup import set_up

    check_arch(arch)
    with stdout_for_json(as_json):
        root = set_up(Console().say)
    record = {"folder": str(root.folder), "system": root.describe(), "runtimes": root.manifest["runtimes"]}
    if as_json:
        print_json(record)
    else:
        print(f"{record['system']} is ready: {', '.join(record['runtimes'].values())} in {root.folder}")


def _emulated(arch: str, run: Callable[[], RunResult]) -> dict[str, Any]:
    """What the artifacts of a run do on emulated `arch`; that it is set up is known before anything is run."""
    from compress.runtimes.arm64.root import check_arch, find_root

    check_arch(arch)
    root = find_root()
    result = run()
    from compress import pipeline
    from compress.console import Console
    from compress.job import Job
    from compress.steps.arm64 import verify_run

    recipe, folder = pipeline.load_run(result.folder)
    rows = verify_run(Job(recipe, folder, result.folder, Console()), root)
    exit_code = max(result.exit_code, int(not all(row["passed"] for row in rows)))
    return {"folder": str(result.folder), "system": root.describe(), "rows": rows, "exit_code": exit_code}


def _print_emulated(record: dict[str, Any], as_json: bool) -> None:
    """Print the rows of `_emulated`, one per artifact."""
    if as_json:
        print_json(record)
        return
    from compress.steps.arm64 import HEADERS, cells

    print_table(HEADERS, [cells(row) for row in record["rows"]])
