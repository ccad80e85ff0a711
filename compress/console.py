"""What a run says while it works: one line per event and a progress bar with the time left, all on stderr."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger("compress")


class Console:
    """Lines and progress bars on stderr, or nothing at all when quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.rich = RichConsole(stderr=True, quiet=quiet, highlight=False)

    def say(self, text: str) -> None:
        """Print one line."""
        self.rich.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print one warning line."""
        self.rich.print(f"[yellow]warning:[/yellow] {_plain(text)}")

    @contextmanager
    def progress(self, title: str) -> Iterator[Bar]:
        """A progress bar with elapsed and remaining time; on a pipe it stays silent."""
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(
            *columns, console=self.rich, transient=True, disable=self.quiet or not self.rich.is_terminal
        ) as bars:
            yield Bar(bars, bars.add_task(title, total=None, note=""))


class Bar:
    """One progress bar."""

    def __init__(self, bars: Progress, task: object) -> None:
        self._bars, self._task = bars, task

    def update(self, done: int, total: int, note: str = "") -> None:
        """Move the bar to `done` of `total`."""
        self._bars.update(self._task, completed=done, total=total, note=note)  # type: ignore[arg-type]

    def watch(self, step: int, total: int, epoch: int, losses: Mapping[str, float]) -> None:
        """Follow a training step (the signature the training loop calls)."""
        terms = " ".join(f"{name} {value:.3f}" for name, value in losses.items() if "learning_rate" not in name)
        self.update(step, total, f"epoch {epoch + 1} {terms}")


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
