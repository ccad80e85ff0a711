"""Measures files on a phone: push, cool down, run, look at the phone, several rounds of it; and clean up."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from compress.errors import DeviceLost, ToolError
from compress.profile.android.state import State, state_of, throttling
from compress.profile.android.tool import LOG, Ask, Report, Tool
from compress.runtimes.adb import Phone, quoted

_PLACE = "/data/local/tmp"  # where a phone that is not rooted lets programs run
_PID = ".running"  # the file in our folder that names the program's process while it runs
_WARMER_C = 1.0  # so much above its first temperature a phone counts as cool again
_LOOK_S = 5.0  # how often a cooling phone is looked at
_CRASHES: dict[int, str] = {
    signal.SIGILL: "it was built for a CPU with other instructions: get one for this phone's",
    signal.SIGKILL: "the phone ended it, mostly because memory ran out",
    signal.SIGABRT: "it gave up: the model may hold an op that it lacks",
}


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: `runs` timed runs after `warm_up`, in each of `rounds`, with pauses to cool down.

    `cool_s` is the longest pause, and the pause itself where the phone shows no temperature; `limit_s` is the longest
    that one round may take.
    """

    runs: int = 50
    warm_up: int = 5
    rounds: int = 3
    threads: int = 1
    cool_s: float = 60.0
    limit_s: float = 600.0


@dataclass(slots=True)
class Measured:
    """What was measured of one file: a report per round, and the phone's state before the first and after each.

    `rested` is its state before anything ran: an earlier file may have left it held back.
    """

    command: str
    rested: State | None = None
    reports: list[Report] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    memory: Report | None = None

    @property
    def n(self) -> int:
        """The timed runs of all rounds."""
        return sum(report.n for report in self.reports)

    def figure(self, name: str) -> tuple[float | None, str]:
        """A figure (see FIGURES) and where it is from: the median of the rounds', or None and why it is not known."""
        reports = [self.memory] if name == "peak_memory_bytes" and self.memory is not None else self.reports
        values = [report.figures[name] for report in reports if name in report.figures]
        if not values:
            return None, reports[0].why.get(name, "not reported")
        if name == "first_ms" or name == "load_ms":  # later rounds find the file in the phone's cache
            return values[0], "of the first round"
        return median(values), f"median of {len(values)} rounds" if len(values) > 1 else "of one round"

    def throttled(self) -> list[str]:
        """The signs that the phone held back (see `throttling`)."""
        key = (
            "latency_p50_ms"
            if all("latency_p50_ms" in report.figures for report in self.reports)
            else "latency_mean_ms"
        )
        rounds = [report.figures[key] for report in self.reports]
        states = [self.rested, *self.states] if self.rested else self.states
        return throttling(states, rounds, [report.times_ms for report in self.reports])


@contextlib.contextmanager
def bench(phone: Phone, log: Callable[[str], None] = lambda line: None) -> Iterator[Bench]:
    """A folder of ours on the phone to measure in; it is deleted at the end, however that comes."""
    made = Bench(phone, f"{_PLACE}/compress-{secrets.token_hex(4)}", log)
    ran = phone.shell(quoted("mkdir", "-p", made.folder))
    if ran.exit_code != 0:
        raise ToolError(f"the phone {phone.serial} gives no place to work in {_PLACE}: {ran.last_line}")
    try:
        yield made
    finally:
        with contextlib.suppress(ToolError):  # a phone that is gone keeps the folder; the cause is raised already
            made.stop()
            phone.remove(made.folder)


class Bench:
    """A folder on a phone with the benchmark programs that were needed so far."""

    def __init__(self, phone: Phone, folder: str, log: Callable[[str], None]) -> None:
        self.phone, self.folder, self._log = phone, folder, log
        self._programs: dict[Path, str] = {}
        self._rested: State | None = None  # before anything ran: the state to cool down to

    def measure(
        self, model: Path, tool: Tool, program: Path, unit: str, effort: Effort, beside: Sequence[Path] = ()
    ) -> Measured:
        """What the tool's program says of the model on this phone.

        A round that fails after another succeeded ends the measuring: the rounds before it are kept, with a note.
        `beside` are files that the model's file names, by their paths from its folder.

        Raises:
            ToolError: the first round failed. DeviceLost: the phone went away before it ended.
        """
        first, notes = self._rest(effort.cool_s)
        on_phone = self._push_program(program)
        remote = f"{self.folder}/{model.name}"
        pushed = {f"{self.folder}/{file.relative_to(model.parent).as_posix()}": file for file in (model, *beside)}
        ask = Ask(on_phone, remote, effort.threads, effort.runs, effort.warm_up, unit)
        measured = Measured(quoted(*tool.command(ask)), self._rested, states=[first], notes=notes)
        try:
            for place, file in pushed.items():
                self._push(file, place)
            self._rounds(measured, tool, ask, effort)
            self._watch_memory(measured, tool, ask, effort)
        finally:
            with contextlib.suppress(ToolError):
                for each in pushed:
                    self.phone.remove(each)
        return measured

    def stop(self) -> None:
        """Ends a program of ours that still runs, as after a time limit: it would slow down all that comes after it."""
        process = quoted(f"{self.folder}/{_PID}")
        self.phone.shell(f"[ -f {process} ] && kill -9 $(cat {process}) && rm -f {process}; true")

    def _rounds(self, measured: Measured, tool: Tool, ask: Ask, effort: Effort) -> None:
        """Adds the reports of all rounds, as far as they come."""
        for number in range(1, effort.rounds + 1):
            try:
                if number > 1:
                    measured.notes += self._rest(effort.cool_s)[1]
                report = tool.read(self._run(tool, tool.command(ask), effort.limit_s), ask)
                measured.reports.append(report)
                self._log(f"  round {number} of {effort.rounds}: {report.figures['latency_mean_ms']:.4g} ms on average")
                measured.states.append(state_of(self.phone))
            except ToolError as error:
                if not measured.reports:
                    raise
                measured.notes.append(f"round {number} of {effort.rounds} failed: {error}")
                return

    def _watch_memory(self, measured: Measured, tool: Tool, ask: Ask, effort: Effort) -> None:
        """Adds peak memory where that takes a run of its own; a failure costs only this figure."""
        command = tool.memory_command(ask)
        if not command or any("failed" in note for note in measured.notes):
            return
        try:
            measured.memory = tool.read(self._run(tool, command, effort.limit_s), ask)
        except ToolError as error:
            measured.notes.append(f"peak memory was not measured: {error}")

    def _run(self, tool: Tool, command: Sequence[str], limit_s: float) -> str:
        """What the program printed or logged; raises ToolError where it did not end well."""
        libraries = quoted(f"LD_LIBRARY_PATH={self.folder}")
        script = (
            f"cd {quoted(self.folder)} && echo $$ > {_PID} && echo {LOG}$$ && exec env {libraries} {quoted(*command)}"
        )
        done = f"ended=$?; rm -f {quoted(f'{self.folder}/{_PID}')}; exit $ended"
        try:
            ran = self.phone.shell(f"sh -c {quoted(script)}; {done}", limit_s)
        except DeviceLost:
            raise
        except ToolError:
            with contextlib.suppress(ToolError):
                self.stop()
            raise
        if ran.exit_code != 0:
            raise ToolError(
                f"{tool.program} on the phone {self.phone.serial} {_ending(ran.exit_code)}: {ran.last_line}"
            )
        process = re.search(rf"{LOG}(\d+)", ran.output)
        logged = self.phone.log(tool.log_tag, int(process.group(1))) if tool.log_tag and process else ""
        return ran.output.replace(process.group(0), "") + logged if process else ran.output

    def _push(self, file: Path, remote: str) -> None:
        """Copies a file into our folder, or into one below it."""
        folder = remote.rpartition("/")[0]
        if folder != self.folder:
            self.phone.shell(quoted("mkdir", "-p", folder))
        self.phone.push(file, remote)

    def _push_program(self, program: Path) -> str:
        """Where the program is on the phone; it and the libraries beside it are pushed once."""
        if program not in self._programs:
            remote = f"{self.folder}/{program.name}"
            for file in (program, *sorted(program.parent.glob("lib*.so"))):
                self.phone.push(file, f"{self.folder}/{file.name}")
            ran = self.phone.shell(quoted("chmod", "755", remote))
            if ran.exit_code != 0:
                raise ToolError(f"{program.name} cannot be made a program on the phone: {ran.last_line}")
            self._programs[program] = remote
        return self._programs[program]

    def _rest(self, limit_s: float) -> tuple[State, list[str]]:
        """The phone's state once it is as cool as before anything ran; with a note where it is not within `limit_s`."""
        state = state_of(self.phone)
        if self._rested is None:
            self._rested = state
            return state, []
        cool_c = self._rested.temperature_c
        if cool_c is None:  # nothing to see when it is cool: the whole pause
            time.sleep(limit_s)
            return state_of(self.phone), []
        end = time.monotonic() + limit_s
        while state.temperature_c is not None and state.temperature_c > cool_c + _WARMER_C:
            if time.monotonic() >= end:
                warm = f"still {state.temperature_c:.1f} °C after {limit_s:.0f} s of cooling down"
                return state, [f"{warm}, {cool_c:.1f} °C before anything ran"]
            time.sleep(min(_LOOK_S, limit_s / 4))
            state = state_of(self.phone)
        return state, []


def _ending(exit_code: int) -> str:
    """How a program ended, in words."""
    if exit_code > 128:
        number = exit_code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        advice = _CRASHES.get(number)
        return f"crashed with {name}{f' ({advice})' if advice else ''}"
    if exit_code in (126, 127):
        return f"cannot be run there ({exit_code}; is it a program for this phone's CPU?)"
    return f"ended with {exit_code}"


def find_program(tool: Tool, folder: Path) -> Path:
    """The tool's program in the user's folder: of its name, or of a name that ends so.

    Raises:
        ToolError: there is none; the message says where to get it.
    """
    exact = folder / tool.program
    found = [exact] if exact.is_file() else sorted(file for file in folder.glob(f"*{tool.program}") if file.is_file())
    if not found:
        raise ToolError(f"{folder}: there is no {tool.program} for the phone in it. Get it: {tool.where}")
    return found[0]


def stamp(program: Path) -> str:
    """What tells builds of a program apart: none of the three prints its version."""
    return f"not printed by {program.name}; sha256 {hashlib.sha256(program.read_bytes()).hexdigest()[:12]}"
