"""A phone over adb: find it, push files, run commands. Every call is one process with a time limit.

The shell on the phone is given one string, so every word of a command is quoted for it here. What a command printed and
how it ended come back through a marker line of our own: adb before Android 7 returns 0 whatever happened, and a missing
marker tells a phone that went away from a command that failed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.errors import DeviceLost, InputError, ToolError, UnknownName

ANY = "adb"  # in a serial's place: the only phone that is connected
SHORT_S, PUSH_S = 30.0, 600.0  # how long an answer or a file may take

_PLATFORM_TOOLS = "https://developer.android.com/tools/releases/platform-tools"
_END = "compress-exit="
_ENDED = re.compile(rf"\n?{_END}(\d+)\s*$")
_GONE = ("not found", "device offline", "error: closed", "disconnected", "protocol fault", "connection reset", "no dev")


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command on the phone ended, and all that it printed."""

    exit_code: int
    output: str

    @property
    def last_line(self) -> str:
        """The last line that is not empty, at most 200 characters of it."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1][:200] if lines else "it printed nothing"


@dataclass(frozen=True, slots=True)
class Phone:
    """A connected phone that lets this computer in."""

    serial: str

    def shell(self, script: str, timeout_s: float = SHORT_S) -> Ran:
        """What the phone's shell did with `script`, whose words are quoted already (see `quoted`).

        Raises:
            DeviceLost: the phone went away. ToolError: it did not answer in time.
        """
        wrapped = f"( {script} ) 2>&1; printf '\\n{_END}%d\\n' $?"
        done = _adb(["-s", self.serial, "shell", wrapped], timeout_s, f"the phone {self.serial}")
        output = done.stdout.replace("\r\n", "\n")
        ended = _ENDED.search(output)
        if ended is None:
            raise _refusal(done.stderr, self.serial)
        return Ran(int(ended.group(1)), output[: ended.start()])

    def read(self, script: str) -> str:
        """What a short command printed; "" where it failed, as where a file may not be read."""
        ran = self.shell(script)
        return ran.output if ran.exit_code == 0 else ""

    def push(self, local: Path, remote: str) -> None:
        """Copies a file to the phone.

        Raises:
            DeviceLost, ToolError: the phone went away, is full, or does not take the file.
        """
        done = _adb(["-s", self.serial, "push", str(local), remote], PUSH_S, f"the phone {self.serial}")
        if done.returncode != 0:
            raise _refusal(done.stderr or done.stdout, self.serial, f"{local} was not copied: ")

    def remove(self, remote: str) -> None:
        """Deletes a file or folder of ours on the phone; a phone that is gone keeps it."""
        self.shell(quoted("rm", "-rf", remote))

    def log(self, tag: str, process_id: int) -> str:
        """The messages that one process wrote to the phone's log under a tag, oldest first, without their stamps."""
        return self.read(quoted("logcat", "-d", "-v", "raw", f"--pid={process_id}", "-s", f"{tag}:V"))


def quoted(*words: str) -> str:
    """The words as one command for the phone's shell, each of them whole whatever it holds."""
    return shlex.join(words)


def connect(serial: str = ANY) -> Phone:
    """The phone with this serial, or the only one that is connected.

    Raises:
        ToolError: there is no adb, no phone, or it does not let this computer in.
        InputError: several phones are connected and none was named. UnknownName: there is none of this serial.
    """
    states = devices()
    if not states:
        raise ToolError(
            "no phone is connected: plug one in, switch on USB debugging in its developer options, and see that "
            "`adb devices` lists it"
        )
    if serial == ANY:
        if len(states) > 1:
            raise InputError(f"several phones are connected: name one with --device: {', '.join(sorted(states))}")
        serial = next(iter(states))
    if serial not in states:
        raise UnknownName("phone", serial, states)
    if states[serial] != "device":
        raise _shut(serial, states[serial])
    return Phone(serial)


def devices() -> dict[str, str]:
    """The state of each phone that adb sees, by its serial: "device" where it is ready."""
    done = _adb(["devices"], SHORT_S, "adb")
    if done.returncode != 0:
        raise ToolError(f"adb cannot list phones: {_last(done.stderr)}")
    rows = [line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line]
    return {row[0].strip(): row[1].strip() for row in rows}


def _adb(arguments: Sequence[str], timeout_s: float, who: str) -> subprocess.CompletedProcess[str]:
    """The finished adb process; raises ToolError where there is no adb or no answer in time."""
    program = shutil.which("adb")
    if program is None:
        raise ToolError(f"adb is not installed: get Android's platform-tools ({_PLATFORM_TOOLS}) and put adb on PATH")
    try:
        return subprocess.run(
            [program, *arguments], capture_output=True, text=True, errors="replace", timeout=timeout_s,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{who} did not answer within {timeout_s:.0f} s (adb {_verb(arguments)})") from error
    except OSError as error:
        raise ToolError(f"{program} cannot be run: {error.strerror or error}") from error


def _verb(arguments: Sequence[str]) -> str:
    return arguments[2] if arguments[0] == "-s" else arguments[0]


def _refusal(message: str, serial: str, what: str = "") -> ToolError:
    """The error that adb's own message stands for."""
    text = message.lower()
    if "unauthorized" in text:
        return _shut(serial, "unauthorized")
    if "no space left" in text:
        return ToolError(f"{what}the phone {serial} is full: free some space on it and run again")
    if any(sign in text for sign in _GONE) or not text.strip():
        return DeviceLost(f"{what}the phone {serial} is not there any more ({_last(message)}): plug it in again")
    return ToolError(f"{what}adb says: {_last(message)}")


def _shut(serial: str, state: str) -> ToolError:
    """The error for a phone that is connected and cannot be used."""
    if state == "unauthorized":
        return ToolError(
            f"the phone {serial} does not trust this computer yet: unlock it and accept 'Allow USB debugging', then "
            "run again"
        )
    advice = "plug it in again, or run `adb kill-server`" if state == "offline" else "see `adb devices`"
    return ToolError(f"the phone {serial} cannot be used, adb calls it '{state}': {advice}")


def _last(message: str) -> str:
    """The last line of a message of adb's that says something."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1].removeprefix("adb: ").removeprefix("error: ")[:200] if lines else "the connection ended"
