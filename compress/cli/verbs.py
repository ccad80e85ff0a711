"""The commands that work on a recipe: `run` and each of its steps, and what the steps would do (`--dry-run`)."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from compress.cli.options import DryRun, Json, Out, Resume, Seed, Set, Source, Verbose
from compress.errors import RecipeError
from compress.terminal import guarded, print_json, print_table, stdout_for_json

if TYPE_CHECKING:
    from compress.pipeline import RunResult
    from compress.recipe import Recipe

# The verbs that work on a recipe, with what `--help` says.
VERBS = {
    "run": "Do every step of a recipe: from the teacher to verified artifacts and the report.",
    "search": "Do a recipe's steps up to search: widths and depth, and the Pareto front.",
    "rewrite": "Do a recipe's steps up to its last rewrite: cheaper forms of costly ops.",
    "prune": "Do a recipe's steps up to its last prune: remove channels.",
    "distill": "Do a recipe's steps up to its last distill: teach the student.",
    "quantize": "Do a recipe's steps up to quantize: put the student on integers.",
    "solver": "Do a recipe's steps up to solver: learn the numbers of a diffusion model's sampler.",
    "export": "Do a recipe's steps up to export: write the artifacts.",
    "verify": "Do a recipe's steps up to verify: run every artifact in its real runtime.",
    "profile": "Predict what models take on a device, or do a recipe's steps up to profile.",
    "report": "Write report.json and report.html again, doing only what is not done yet.",
}

PIPE_WIDTH = 110  # columns of the report's tables where no terminal says how many it has


def command_for(verb: str) -> Callable[..., None]:
    """The command that does the steps of a recipe up to `verb`."""

    def command(
        context: typer.Context,
        source: Source,
        out: Out = None,
        seed: Seed = None,
        set_: Set = None,
        dry_run: DryRun = False,
        resume: Resume = False,
        as_json: Json = False,
        verbose: Verbose = False,
    ) -> None:
        with guarded(verbose, as_json):
            if dry_run:
                with stdout_for_json(as_json):
                    plan = _dry_run(verb, source, _overrides(set_, seed))
                _print_plan(plan, as_json)
                return
            with stdout_for_json(as_json):
                result = run_recipe(context, verb, source, out, seed, set_, resume)
            _print_result(result, as_json)
            raise typer.Exit(result.exit_code)

    command.__doc__ = VERBS[verb]
    return command


def _overrides(set_: Sequence[str] | None, seed: int | None) -> list[str]:
    """What --set and --seed say, as recipe overrides."""
    return [*(set_ or []), *([f"seed={seed}"] if seed is not None else [])]


def _dry_run(verb: str, source: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The plan and its predicted cost, as plain data."""
    from compress import pipeline

    recipe, folder, _ = _read_source(source, overrides)
    _check_verb(recipe, verb, source)
    plan = pipeline.dry_run(recipe, folder)
    if verb == "export":
        from compress.steps.residency import residency_rows

        plan["residency"] = residency_rows(recipe, folder)
    return plan


def run_recipe(
    context: typer.Context,
    verb: str,
    source: Path,
    out: Path | None,
    seed: int | None,
    set_: Sequence[str] | None,
    resume: bool,
) -> RunResult:
    """The finished run."""
    recipe, folder, run_folder = _read_source(source, _overrides(set_, seed))  # before torch: a bad one ends at once
    _check_verb(recipe, verb, source)
    from compress import pipeline

    return pipeline.run(
        recipe,
        out or run_folder or Path("runs") / recipe.name,
        recipe_folder=folder,
        until=None if verb in ("run", "report") else verb,
        resume=resume,
        command=context.obj or shlex.join(["compress", verb, str(source)]),
    )


def _print_result(result: RunResult, as_json: bool) -> None:
    """Print the report as the page shows it, or as report.json holds it; a run that stops early has none."""
    if result.report is None and as_json:
        print_json({"folder": str(result.folder), "exit_code": result.exit_code})
    elif result.report is None:
        print(f"done: {result.folder}")
    elif as_json:
        print((result.folder / "report.json").read_text(encoding="utf-8"), end="")
    else:
        from rich.console import Console

        from compress.report import print_report

        print_report(result.report, result.folder, Console(width=None if sys.stdout.isatty() else PIPE_WIDTH))


def _read_source(source: Path, overrides: Sequence[str]) -> tuple[Recipe, Path, Path | None]:
    """The recipe behind `source`, the folder its paths start from, and the run folder where `source` is one."""
    from compress.recipe import apply_override, load_recipe, make_recipe

    if not source.is_dir():
        return load_recipe(source, overrides), source.resolve().parent, None
    from compress import pipeline

    recipe, folder = pipeline.load_run(source)
    record = recipe.to_dict()
    for override in overrides:
        apply_override(record, override)
    return make_recipe(record, str(source)), folder, source


def _check_verb(recipe: Recipe, verb: str, source: Path) -> None:
    if verb not in ("run", "report", *(step.verb for step in recipe.steps)):
        raise RecipeError(f"{source}: steps: the recipe has no {verb} step; add '- {verb}: {{}}' to its steps")


def _print_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    import yaml

    residency = plan.pop("residency", [])
    print(yaml.safe_dump(plan, sort_keys=False, allow_unicode=True, width=120), end="")
    if residency:
        _print_residency(residency)


def _print_residency(records: Sequence[dict[str, Any]]) -> None:
    """Print what each op will run as: how many of each kind, op by op, and the reasons."""
    from compress.conformance.residency import STATES, Residence, lines, reasons, summary

    rows = [Residence(**record) for record in records]
    formats = list(dict.fromkeys(row.format for row in rows))
    print("\nResidency: what each op will run as, by the quantizer's rules and the conformance table")
    print_table(["SCHEME", "FORMAT", *(state.upper() for state in STATES)], summary(rows))
    print()
    print_table(["SCHEME", "OP", "WHERE", "FORM", *(format.upper() for format in formats)], lines(rows, formats))
    print()
    print_table(["SCHEME", "FORMAT", "STATE", "DELEGATE", "OPS", "REASON"], reasons(rows))
