"""A phone made of a folder, with a fake adb first on PATH (see tests/fake_adb.py)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests import phone_outputs as real

SERIAL = "R5CT20ABCDE"
TOOLS = ("benchmark_model", "executor_runner", "onnxruntime_perf_test")
_CPU = "sys/devices/system/cpu/cpu{}/cpufreq/{}"
_PROPERTIES = {
    "ro.product.manufacturer": "acme",
    "ro.product.model": "A 1",
    "ro.soc.manufacturer": "QTI",
    "ro.soc.model": "SM0000",
    "ro.build.version.release": "15",
    "ro.build.fingerprint": "acme/a1/a1:15/AP3A.240905/1:user/release-keys",
}
# The phone's own programs. The log has lines of other processes too; a benchmark program plays back its rounds.
_GETPROP = "\n".join(f'[ "$1" = {name} ] && echo "{value}" && exit' for name, value in _PROPERTIES.items()) + "\necho"
_DUMPSYS = 'cat "$FAKE_PHONE/$1" 2>/dev/null || { echo "Can\'t find service: $1"; exit 20; }'
_LOGCAT = """
for word in "$@"; do case "$word" in --pid=*) pid="${word#--pid=}" ;; esac; done
[ "$pid" = "$(cat "$FAKE_PHONE/pid")" ] && cat "$FAKE_PHONE/log" || echo "Model loaded in 999.000000 ms."
"""
_TOOL = """#!/bin/sh
round=$(($(cat "$FAKE_PHONE/round") + 1))
echo $round > "$FAKE_PHONE/round"
echo $$ > "$FAKE_PHONE/pid"
printf '%s\\n' "$@" > "$FAKE_PHONE/arguments_$round"
pwd > "$FAKE_PHONE/folder"
for last in "$@"; do :; done
[ -f "$FAKE_PHONE/event_$round" ] && . "$FAKE_PHONE/event_$round"
cd "$FAKE_PHONE"
cat "output_$round" 2>/dev/null || cat "output_${last##*/}" 2>/dev/null || cat output
"""


class FakePhone:
    """The phone's folder, and what a test may change in it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root / "phone"
        (self.root / "data/local/tmp").mkdir(parents=True)
        self.tools = root / "tools"
        self.tools.mkdir()
        for name in TOOLS:
            (self.tools / name).write_text(_TOOL)
        self._programs(root / "bin", {"adb": f'exec "{sys.executable}" -S "{_script()}" "$@"'})
        self._programs(self.root / "bin", {"getprop": _GETPROP, "dumpsys": _DUMPSYS, "logcat": _LOGCAT})
        self.write(devices=real.ONE_PHONE, thermalservice=real.THERMAL, battery=real.BATTERY, round="0", output="")
        for cpu, cap in ((0, 1_804_800), (4, 2_841_600), (7, 2_841_600)):
            self.clock(cpu, cap)
        monkeypatch.setenv("FAKE_PHONE", str(self.root))
        monkeypatch.setenv("PATH", f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr("compress.profile.android.run._LOOK_S", 0.0)

    def _programs(self, folder: Path, programs: dict[str, str]) -> None:
        folder.mkdir()
        for name, text in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)

    def write(self, **files: str) -> None:
        """Sets files of the phone: `output_2` is what round 2 prints, `event_2` what happens in it (shell)."""
        for name, text in files.items():
            (self.root / name).write_text(text)

    def clock(self, cpu: int, cap_khz: int) -> None:
        """Sets the highest clock that a CPU may run at."""
        values = {"scaling_governor": "schedutil", "scaling_max_freq": cap_khz, "scaling_cur_freq": 300_000}
        for name, value in values.items():
            path = self.root / _CPU.format(cpu, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")

    def cap_path(self, cpu: int) -> Path:
        """The file that holds a CPU's highest clock."""
        return self.root / _CPU.format(cpu, "scaling_max_freq")

    def arguments(self, round: int = 1) -> list[str]:
        """What the benchmark program was called with."""
        return (self.root / f"arguments_{round}").read_text().splitlines()

    def left(self) -> list[str]:
        """What lies in the phone's folder for temporary files."""
        return [path.name for path in (self.root / "data/local/tmp").iterdir()]

    def calls(self) -> str:
        """All that adb was asked."""
        path = self.root / "calls"
        return path.read_text() if path.exists() else ""


def _script() -> Path:
    return Path(__file__).with_name("fake_adb.py")
