"""`compress profile --measure`: its options, and what it prints."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compress.errors import CompressError, RecipeError
from compress.terminal import one_line, print_json, print_table, stdout_for_json

if TYPE_CHECKING:
    from compress.measure_files import Outcome
    from compress.profile.rows import Row

Measure = Annotated[bool, typer.Option("--measure", help="Run the files instead of predicting them.")]
DeviceSerial = Annotated[
    str, typer.Option("--device", metavar="SERIAL", help="Measure on this Android phone; adb: the only one connected.")
]
AiHub = Annotated[
    str, typer.Option("--ai-hub", metavar="DEVICE", help="Upload the files to AI Hub and measure them there.")
]
Tools = Annotated[
    Path | None,
    typer.Option(
        "--tools", metavar="FOLDER", show_default=False,
        help="Where the phone's benchmark programs are; by default $COMPRESS_TOOLS.",
    ),
]  # fmt: skip
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads of one inference, when measuring.")]
Runs = Annotated[int, typer.Option("--runs", min=1, help="Timed runs, when measuring (on a phone: per round).")]
CoolDown = Annotated[
    float, typer.Option("--cool-down", metavar="SECONDS", min=0.0, help="Longest pause between rounds on a phone.")
]
OutOrRows = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="PATH", show_default=False,
        help="With --measure a CSV file to add rows to; of a recipe the run folder, by default runs/NAME.",
    ),
]  # fmt: skip

_SHOWN = {"latency_p50_ms": "P50", "latency_p90_ms": "P90", "latency_p99_ms": "P99", "first_ms": "FIRST",
          "load_ms": "LOAD"}  # fmt: skip


_ONLY_MEASURING = {"device": "--device", "ai_hub": "--ai-hub", "tools": "--tools", "threads": "--threads",
                   "runs": "--runs", "cool_down": "--cool-down"}  # fmt: skip
_NOT_MEASURING = {"runtime": "--runtime", "input_": "--input", "seed": "--seed", "set_": "--set",
                  "dry_run": "--dry-run", "resume": "--resume"}  # fmt: skip


def refuse_mixed(context: typer.Context, measure: bool) -> None:
    """Raises RecipeError where the command line has options of measuring without --measure, or others with it."""
    unfit = _NOT_MEASURING if measure else _ONLY_MEASURING
    given = [flag for name, flag in unfit.items() if _was_given(context, name)]
    if given and measure:
        raise RecipeError(f"--measure runs files as they are, in their own runtimes: leave {', '.join(given)} out")
    if given:
        raise RecipeError(f"{', '.join(given)}: only where something is measured: add --measure")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def run_measuring(
    context: typer.Context,
    models: list[str],
    where: dict[str, Any],
    effort: dict[str, Any],
    out: Path | None,
    as_json: bool,
) -> None:
    """Measures the models and prints their rows; exits with the code of the first that failed."""
    from compress.measure_files import Where, measure_files
    from compress.profile.android.run import Effort

    command = context.obj or shlex.join(["compress", "profile", *models, "--measure"])
    with stdout_for_json(as_json):
        done = measure_files(models, Where(**where), Effort(**effort), command, out, _say)
    if as_json:
        print_json([*(row.to_dict() for row in done.rows), *_failures(done)])
    elif done.rows:
        _print(done.rows)
        if out is not None:
            print(f"added {done.added} row{'s' * (done.added != 1)} to {out}")
    for name, error in done.failed.items():
        _say(f"error: {_named(name, error)}")
    if done.failed:
        raise typer.Exit(next(iter(done.failed.values())).exit_code)


def _say(line: str) -> None:
    """Print a line that is not the result."""
    print(line, file=sys.stderr)


def _named(name: str, error: CompressError) -> str:
    """The error's line, with the file's name in front where it does not say it."""
    message = one_line(error)
    return message if name in message else f"{name}: {message}"


def _failures(done: Outcome) -> list[dict[str, Any]]:
    return [
        {"model": name, "error": _named(name, error), "kind": type(error).__name__, "exit_code": error.exit_code}
        for name, error in done.failed.items()
    ]


def _print(rows: list[Row]) -> None:
    """Print the rows as a table, then on what they were measured and what is to be known of them."""
    cells = [
        [row.model, *(_number(row.figures[name].value) for name in _SHOWN), _mebibytes(row), str(row.n or ""),
         {True: "yes", False: "no", None: ""}[row.throttled]]
        for row in rows
    ]  # fmt: skip
    print_table(["MODEL", *(f"{name}, MS" for name in _SHOWN.values()), "PEAK, MIB", "N", "THROTTLED"], cells)
    for place in dict.fromkeys(_place(row) for row in rows):
        print(place)
    for row in rows:
        if row.latency is not row.figures["latency_p50_ms"]:
            print(f"  {row.model}: {row.latency.value:.4g} ms is the mean: {row.figures['latency_p50_ms'].source}")
        if row.throttled:
            print(f"  {row.model}: throttled, so slower than it would be cool: {row.throttled_why}")
        if row.notes:
            print(f"  {row.model}: {row.notes}")


def _place(row: Row) -> str:
    threads = f", {row.threads} thread{'s' * (row.threads > 1)}" if row.threads else ""
    soc = f" ({row.soc})" if row.soc else ""
    governor = f", governor {row.governor}" if row.governor else ""
    return f"measured on {row.device}{soc}, {row.unit}, {row.runtime}{threads}{governor}; {row.os}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _mebibytes(row: Row) -> str:
    value = row.figures["peak_memory_bytes"].value
    return "-" if value is None else f"{value / 2**20:.1f}"
