"""A stand-in for adb: a folder plays the phone, and its shell is this machine's, so quoting and exit codes are real.

FAKE_PHONE names the folder. In it: `devices` (what `adb devices` prints), `bin/` (the phone's own programs), `sys/` and
`data/local/tmp/`; `lost` once the phone has gone, `full` where nothing more fits. Every call is added to `calls`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ["FAKE_PHONE"])


def main(arguments: list[str]) -> int:
    """Does what adb does with these arguments, as far as we use it."""
    with (ROOT / "calls").open("a") as file:
        file.write(repr(arguments) + "\n")
    if arguments == ["devices"]:
        sys.stdout.write((ROOT / "devices").read_text())
        return 0
    option, serial, verb, *rest = arguments
    assert option == "-s", arguments
    if (ROOT / "lost").exists():
        print(f"error: device '{serial}' not found", file=sys.stderr)
        return 1
    return push(*rest) if verb == "push" else shell(" ".join(rest))


def push(local: str, remote: str) -> int:
    """Copies a file, without the right to run it, as adb does from most systems."""
    if (ROOT / "full").exists():
        message = f"adb: error: failed to copy '{local}' to '{remote}': remote write failed: No space left on device"
        print(message, file=sys.stderr)
        return 1
    shutil.copyfile(local, place(remote))
    print(f"{local}: 1 file pushed, 0 skipped. 30.4 MB/s (4 bytes in 0.000s)")
    return 0


def shell(command: str) -> int:
    """Runs a command in the phone's shell: one string, whatever words it came in."""
    environment = {**os.environ, "PATH": f"{ROOT}/bin:/usr/bin:/bin"}
    done = subprocess.run(["/bin/sh", "-c", place(command)], capture_output=True, text=True, env=environment)
    if (ROOT / "lost").exists():  # it went away while the command ran: what came so far comes, and no more
        sys.stdout.write(done.stdout[:4])
        return 255
    sys.stdout.write(done.stdout.replace("\n", "\r\n") if (ROOT / "old").exists() else done.stdout)
    return 0 if (ROOT / "old").exists() else done.returncode


def place(text: str) -> str:
    """The text with the phone's folders where they lie here."""
    for folder in ("/data/local/tmp", "/sys/"):
        text = text.replace(folder, f"{ROOT}{folder}")
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
