"""The command line: arguments in, one call, text out. Heavy rooms are imported inside the commands that need them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compress.errors import RecipeError
from compress.terminal import guarded, print_json, print_table, stdout_for_json

if TYPE_CHECKING:
    from compress.pipeline import RunResult
    from compress.recipe import Recipe

# The verbs that work on a recipe, with what `--help` says.
VERBS = {
    "run": "Do every step of a recipe: from the teacher to verified artifacts and the report.",
    "search": "Do a recipe's steps up to search: widths and depth, and the Pareto front.",
    "prune": "Do a recipe's steps up to its last prune: remove channels.",
    "distill": "Do a recipe's steps up to its last distill: teach the student.",
    "quantize": "Do a recipe's steps up to quantize: put the student on integers.",
    "export": "Do a recipe's steps up to export: write the artifacts.",
    "verify": "Do a recipe's steps up to verify: run every artifact in its real runtime.",
    "profile": "Do a recipe's steps up to profile: measure here, predict for the target.",
    "report": "Write report.json and report.html again, doing only what is not done yet.",
}

PIPE_WIDTH = 110  # columns of the report's tables where no terminal says how many it has

Source = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe (YAML), or an earlier run's folder.")]
OptionalSource = Annotated[
    Path | None,
    typer.Argument(metavar="RECIPE", help="A recipe (YAML), or an earlier run's folder.", show_default=False),
]
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

app = typer.Typer(
    name="compress",
    help="Compress a trained PyTorch model into verified files that run on a phone, inside a budget.",
    epilog="Exit codes: 0 done, 1 a check failed, 2 bad recipe or arguments, 3 over budget, 4 a tool is missing.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of one command line, by default this process's own."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(arguments, prog_name="compress", obj=shlex.join(["compress", *arguments]))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _job(verb: str) -> Callable[..., None]:
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
            overrides = _overrides(set_, seed)
            if dry_run:
                with stdout_for_json(as_json):
                    plan = _dry_run(verb, source, overrides)
                _print_plan(plan, as_json)
                return
            line = context.obj or shlex.join(["compress", verb, str(source)])
            with stdout_for_json(as_json):
                result = _run(verb, source, overrides, out, resume, line)
            _print_result(result, as_json)
            raise typer.Exit(result.exit_code)

    command.__doc__ = VERBS[verb]
    return command


def _verify() -> Callable[..., None]:
    """The verify command: the steps up to verify, and on request the artifacts on another processor's kernels."""
    steps = _job("verify")

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
                overrides = _overrides(set_, seed)
                line = context.obj or shlex.join(["compress", "verify", str(source)])
                with stdout_for_json(as_json):
                    record = _emulated(str(arch), lambda: _run("verify", source, overrides, out, resume, line))
                _print_emulated(record, as_json)
                raise typer.Exit(record["exit_code"])

    command.__doc__ = f"{VERBS['verify']}\n\nWith --arch arm64 on emulated ARM kernels too."
    return command


for _verb, _summary in VERBS.items():
    app.command(_verb, short_help=_summary)(_verify() if _verb == "verify" else _job(_verb))


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


def _run(verb: str, source: Path, overrides: Sequence[str], out: Path | None, resume: bool, line: str) -> RunResult:
    """The finished run."""
    recipe, folder, run_folder = _read_source(source, overrides)  # before torch: a bad recipe is refused at once
    _check_verb(recipe, verb, source)
    from compress import pipeline

    return pipeline.run(
        recipe,
        out or run_folder or Path("runs") / recipe.name,
        recipe_folder=folder,
        until=None if verb in ("run", "report") else verb,
        resume=resume,
        command=line,
    )


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


@app.command(short_help="Write a commented recipe and a task file to start from with your own model.")
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


@app.command(short_help="List the devices, and what stands behind each prediction.")
def targets(as_json: Json = False, verbose: Verbose = False) -> None:
    """List the devices: units, runtimes, schemes, and what stands behind each prediction."""
    with guarded(verbose, as_json):
        from compress.catalogue import target_rows

        rows = target_rows()
        if as_json:
            print_json(rows)
            return
        keys = ("name", "soc", "unit", "runtimes", "schemes", "profile")
        cells = [[", ".join(row[k]) if isinstance(row[k], list) else row[k] for k in keys] for row in rows]
        print_table([key.upper() for key in keys], cells)


@app.command(short_help="List the export formats, and what to install for each.")
def formats(as_json: Json = False, verbose: Verbose = False) -> None:
    """List the export formats: whether this machine can write and run each, and what to install if not."""
    with guarded(verbose, as_json):
        from compress.catalogue import format_rows

        rows = format_rows()
        if as_json:
            print_json(rows)
        else:
            print_table(["FORMAT", "CAN BE WRITTEN HERE", "CAN RUN HERE"], [list(row.values()) for row in rows])


@app.command(short_help="List the published systems, built and planned.")
def methods(
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


@app.command(short_help="Print the JSON Schema of a recipe, for editors.")
def schema(verbose: Verbose = False) -> None:
    """Print the JSON Schema of a recipe, for editors."""
    with guarded(verbose):
        from compress.schema import recipe_schema

        print_json(recipe_schema())


@app.command(short_help="Say what is installed, what is missing, and how to get it.")
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


@app.command(short_help="Try every operator in every format and scheme, and write the table.")
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
