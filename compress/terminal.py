"""How a command meets its terminal: errors as one line and an exit code, tables, and a stdout that holds JSON alone."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from compress.errors import CompressError, Infeasible

BUG, INTERRUPTED = 70, 130  # exit codes of an error of ours and of Ctrl-C; the others are in compress/errors.py


@contextlib.contextmanager
def guarded(verbose: bool, as_json: bool = False) -> Iterator[None]:
    """Turn every error inside into one line on stderr and an exit code; the traceback comes with `-v` only."""
    if verbose:
        logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
        logging.getLogger("compress").setLevel(logging.DEBUG)
    else:  # of the libraries underneath: nothing that a user of the command line can act on
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        yield
        sys.stdout.flush()
    except (typer.Exit, typer.Abort):
        raise
    except CompressError as error:
        _complain(f"error: {one_line(error)}", verbose)
        if as_json:
            print_json(error_record(error))
        raise typer.Exit(error.exit_code) from error
    except BrokenPipeError as error:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise typer.Exit(0) from error
    except KeyboardInterrupt as error:
        _complain("interrupted: the same command with --resume continues from the last checkpoint", verbose)
        raise typer.Exit(INTERRUPTED) from error
    except Exception as error:
        hint = "" if verbose else " (run with -v for the traceback)"
        _complain(f"internal error: {type(error).__name__}: {one_line(error)}{hint}", verbose)
        raise typer.Exit(BUG) from error


def _complain(message: str, verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
    print(message, file=sys.stderr)


def one_line(error: BaseException) -> str:
    """The error's message on one line."""
    return " ".join(str(error).split())


def error_record(error: CompressError) -> dict[str, Any]:
    """The error as plain data, for `--json`; a budget that cannot be met comes with the closest plan."""
    record: dict[str, Any] = {"error": one_line(error), "kind": type(error).__name__, "exit_code": error.exit_code}
    if isinstance(error, Infeasible):
        from compress.report.figure import plain

        record |= {"limit": error.limit, "closest": plain(error.closest)}
    return record


@contextlib.contextmanager
def stdout_for_json(wanted: bool) -> Iterator[None]:
    """Send what user code and native libraries print to stderr meanwhile, so that stdout holds our JSON alone."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def print_json(record: Any) -> None:
    """Print plain data as JSON on stdout."""
    print(json.dumps(record, indent=1, allow_nan=False))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under headers: wrapped to the terminal, one line per row on a pipe."""
    if sys.stdout.isatty():
        _print_wrapped(headers, rows)
        return
    cells = [[str(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_wrapped(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headers, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # Text: brackets in a cell are no markup
    Console().print(table)
