"""adb: which phone, what its shell is told, and what goes wrong, each in one line. The fake's shell is a real one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from compress.errors import CompressError, DeviceLost, InputError, ToolError, UnknownName
from compress.runtimes import adb
from compress.runtimes.adb import Phone, connect, quoted
from tests import phone_outputs as real
from tests.fake_phone import SERIAL, FakePhone


def test_the_only_phone_is_taken_and_a_named_one_found(phone: FakePhone) -> None:
    assert connect() == connect(SERIAL) == Phone(SERIAL)
    phone.write(devices=real.TWO_PHONES)
    assert connect("emulator-5554").serial == "emulator-5554"


@pytest.mark.parametrize(("listed", "serial", "error", "words"), [
    (real.NO_PHONE, "adb", ToolError, "USB debugging"),
    (real.UNAUTHORIZED, "adb", ToolError, "accept 'Allow USB debugging'"),
    (real.OFFLINE, "adb", ToolError, "kill-server"),
    (real.TWO_PHONES, "adb", InputError, f"--device: {SERIAL}, emulator-5554"),
    (real.ONE_PHONE, "R5CT20ABCDX", UnknownName, f"did you mean {SERIAL}"),
], ids=["none", "unauthorized", "offline", "two", "another"])  # fmt: skip
def test_a_phone_that_cannot_be_had_is_one_line(
    phone: FakePhone, listed: str, serial: str, error: type[CompressError], words: str
) -> None:
    phone.write(devices=listed)
    with pytest.raises(error, match=words) as found:
        connect(serial)
    assert "\n" not in str(found.value)
    assert "shell" not in phone.calls(), "nothing is run on a phone that was not chosen"


def test_without_adb_it_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="platform-tools") as found:
        connect()
    assert found.value.exit_code == 4


NAMES = ["plain.tflite", "with space.tflite", "it's.tflite", "$HOME;rm -rf x.tflite", 'a"b`c`.tflite', "ü&|*?.tflite"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_reaches_the_phone_whole(phone: FakePhone, tmp_path: Path, name: str) -> None:
    there = connect()
    (tmp_path / "model").write_text("weights")
    remote = f"/data/local/tmp/{name}"
    there.push(tmp_path / "model", remote)
    assert phone.left() == [name]
    assert there.shell(quoted("cat", remote)).output == "weights"
    there.remove(remote)
    assert phone.left() == []


@pytest.mark.parametrize("old", [False, True], ids=["now", "before Android 7"])
def test_how_a_command_ended_is_known_even_where_adb_does_not_say(phone: FakePhone, old: bool) -> None:
    phone.write(**({"old": ""} if old else {}))
    ran = connect().shell("echo one; echo two >&2; exit 7")
    assert (ran.exit_code, ran.output.split(), ran.last_line) == (7, ["one", "two"], "two")


def test_what_may_not_be_read_is_empty(phone: FakePhone) -> None:
    assert connect().read("dumpsys nothing") == ""
    assert "Thermal Status: 0" in connect().read("dumpsys thermalservice")


def test_the_log_is_that_of_one_process(phone: FakePhone) -> None:
    phone.write(pid="77", log="ours\n")
    assert connect().log("ExecuTorch", 77).strip() == "ours"
    assert "ours" not in connect().log("ExecuTorch", 78)


def test_a_full_phone_says_so(phone: FakePhone, tmp_path: Path) -> None:
    phone.write(full="")
    (tmp_path / "model").write_text("weights")
    with pytest.raises(ToolError, match="is full: free some space") as found:
        connect().push(tmp_path / "model", "/data/local/tmp/model")
    assert not isinstance(found.value, DeviceLost)


def test_a_phone_that_goes_away_is_told_from_a_command_that_fails(phone: FakePhone) -> None:
    there = connect()
    assert there.shell("false").exit_code == 1
    with pytest.raises(DeviceLost, match="not there any more"):
        there.shell(f"echo half; : > {quoted(str(phone.root / 'lost'))}")
    with pytest.raises(DeviceLost, match=f"device '{SERIAL}' not found"):
        there.shell("true")


def test_no_answer_in_time_is_an_error(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **options: float) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    there = connect()
    monkeypatch.setattr(adb.subprocess, "run", hang)
    with pytest.raises(ToolError, match="did not answer within 30 s \\(adb shell\\)"):
        there.shell("sleep 99")
