"""What every benchmark program is to us: a command line, and what it prints as figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from compress.errors import ToolError
from compress.profile.rows import FIGURES

LOG = "compress-pid="  # the line that says which process the program is


@dataclass(frozen=True, slots=True)
class Ask:
    """What a program is asked to do with the model at `model`, all paths on the phone."""

    program: str
    model: str
    threads: int
    runs: int
    warm_up: int
    unit: str = "cpu"


@dataclass(frozen=True, slots=True)
class Report:
    """What one run of a program said: its figures (those of FIGURES that it reports), and how many runs they are of.

    `times_ms` are the single runs in their order, where the program tells them. `why` says of a figure that is not
    there why it is not.
    """

    n: int
    figures: Mapping[str, float]
    times_ms: tuple[float, ...] = ()
    why: Mapping[str, str] = field(default_factory=dict)


class Tool(Protocol):
    """One runtime's benchmark program."""

    runtime: str  # "LiteRT"
    format: str  # a key of compress.runtimes.RUNTIMES
    program: str  # the name of its file
    where: str  # where to get it, for a user who has not
    log_tag: str  # of the phone's log, where it writes there instead of printing; else ""
    units: tuple[str, ...]

    def command(self, ask: Ask) -> list[str]:
        """The command line that times the model."""
        ...

    def memory_command(self, ask: Ask) -> list[str]:
        """The command line of a run that only watches memory; [] where timing reports it, or nothing does."""
        ...

    def read(self, output: str, ask: Ask) -> Report:
        """The figures in what the program printed for `ask`; raises ToolError where there are none."""
        ...


def number_after(label: str, output: str) -> float | None:
    """The last number that follows `label` (a regular expression) in the output, or None."""
    found = re.findall(label + r"\s*([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)", output)
    return float(found[-1]) if found else None


def unreadable(program: str, output: str) -> ToolError:
    """The error for output that holds no time."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = f"its last line: {lines[-1][:160]}" if lines else "it printed nothing"
    return ToolError(f"{program} printed no times that can be read ({said})")


def missing(reported: Mapping[str, float], reasons: Mapping[str, str], default: str) -> dict[str, str]:
    """Why each figure that is not among `reported` is not."""
    return {name: reasons.get(name, default) for name in FIGURES if name not in reported}
