"""The emulated system on disk: an emulator, an arm64 Python and the runtimes' wheels, with a manifest of every file."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import RunFolderError, ToolError, UnknownName
from compress.files import files_under, hash_of, read_json, write_json

ARCH = "arm64"
SETUP = f"compress verify --setup {ARCH}"
FORMATS = ("onnx", "litert", "executorch")  # what has a runtime there
NOT_THERE = {"coreml": "Core ML exists on Apple's systems only"}

SUITE = "bookworm"  # the Debian release whose packages make the system
PYTHON = "3.11"  # the one of that release
PACKAGES = (f"python{PYTHON}", "libstdc++6", "zlib1g")
# Version 10, of the release after: version 7.2 of bookworm crashes in onnxruntime 1.32 and LiteRT 2.3.
EMULATOR_SUITE = "trixie"
EMULATOR_PACKAGE = "qemu-user"
# An ARMv8.2 core with dot products and half floats, as in phones from 2018 on: the kernels it takes are the ones that
# most phones take.
CPU = "cortex-a76"

WHEELS_FILE = Path(__file__).with_name("wheels.txt")
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Root:
    """One emulated system: `folder` holds `emulator`, `system/` (Debian), `wheels/` and the manifest."""

    folder: Path

    @property
    def emulator(self) -> Path:
        """The emulator, a static program of this machine."""
        return self.folder / "emulator"

    @property
    def system(self) -> Path:
        """Where the Debian packages are unpacked."""
        return self.folder / "system"

    @property
    def wheels(self) -> Path:
        """Where the runtimes' wheels are unpacked."""
        return self.folder / "wheels"

    @property
    def python(self) -> Path:
        """The arm64 Python."""
        return self.system / "usr" / "bin" / f"python{PYTHON}"

    @property
    def manifest(self) -> dict[str, Any]:
        """What the system was made of, and every file of it."""
        record: dict[str, Any] = read_json(self.folder / MANIFEST)
        return record

    def describe(self) -> str:
        """What runs there: "arm64 (qemu-user 10.0.13, cortex-a76 emulated)"."""
        return f"{ARCH} ({self.manifest['emulator']}, {CPU} emulated)"


def check_arch(name: str) -> None:
    """Raise UnknownName unless `name` is an architecture that can be emulated."""
    if name != ARCH:
        raise UnknownName("architecture", name, [ARCH])


def cache_folder() -> Path:
    """Where everything of the emulated system lies; honours XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "compress" / ARCH


def pins() -> str:
    """A hash of all that decides what the emulated system is made of."""
    return hash_of(
        [SUITE, PYTHON, PACKAGES, EMULATOR_SUITE, EMULATOR_PACKAGE, CPU, WHEELS_FILE.read_text(encoding="utf-8")]
    )


def find_root() -> Root:
    """The emulated system, whole and of this version's making.

    Raises:
        ToolError: it is not set up, made by another version, or damaged; or no emulation is needed or possible here.
    """
    reason = problem()
    if reason is not None:
        raise ToolError(reason)
    return Root(cache_folder() / "root")


def problem() -> str | None:
    """Why there is no emulated system to use and what to do, or None; looks at every file's size, reads none."""
    unfit = unfit_machine()
    if unfit is not None:
        return unfit
    root = Root(cache_folder() / "root")
    if not root.folder.is_dir():
        return f"{ARCH} is not set up on this machine: {SETUP} fetches the emulator and the runtimes"
    try:
        manifest = root.manifest
    except RunFolderError:
        return f"the {ARCH} system in {root.folder} has no readable manifest: {SETUP} makes it again"
    if manifest.get("pins") != pins():
        return f"the {ARCH} system in {root.folder} was made by another version: {SETUP} makes it again"
    wrong = damage(root, manifest.get("files", {}))
    return f"the {ARCH} system in {root.folder} is damaged ({wrong}): {SETUP} makes it again" if wrong else None


def state() -> str:
    """What can be emulated here, or why not and what to do, in one line."""
    reason = problem()
    if reason is not None:
        return reason
    root = find_root()
    return f"{', '.join(root.manifest['runtimes'].values())} on {root.describe()}"


def unfit_machine() -> str | None:
    """Why this machine cannot emulate arm64 or has no need to, or None."""
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        return f"this machine is {ARCH} itself: compress verify without --arch runs its kernels already"
    if sys.platform != "linux" or machine not in ("x86_64", "amd64"):
        return (
            f"{ARCH} is emulated on x86-64 Linux only; this is {machine} {sys.platform}: run it there or in a container"
        )
    return None


def list_files(root: Root) -> dict[str, int | str]:
    """Every file below the root by relative path: its size in bytes, or a link's target."""
    files = [path for part in (root.emulator, root.system, root.wheels) for path in _entries(part)]
    lasting = [path for path in files if "__pycache__" not in path.parts]  # Python writes and rewrites those
    return {path.relative_to(root.folder).as_posix(): _state(path) for path in lasting}


def _entries(path: Path) -> list[Path]:
    """The files and links below a path (itself where it is a file)."""
    if not path.is_dir():
        return files_under(path)
    return sorted(entry for entry in path.rglob("*") if entry.is_symlink() or not entry.is_dir())


def _state(path: Path) -> int | str:
    return os.readlink(path) if path.is_symlink() else path.lstat().st_size


def damage(root: Root, files: Mapping[str, int | str]) -> str:
    """What is wrong with the first file that is not as the manifest has it, or ""; an empty manifest is wrong too."""
    if not files:
        return "its manifest names no files"
    for name, expected in files.items():
        try:
            found = _state(root.folder / name)
        except OSError:
            return f"{name} is missing"
        if found != expected:
            return f"{name} has changed"
    return ""


def write_manifest(root: Root, emulator: str, packages: Mapping[str, str], runtimes: Mapping[str, str]) -> None:
    """Write what a root was made of.

    Args:
        root: the finished root.
        emulator: its name and version.
        packages: SHA-256 by file name of every package and wheel.
        runtimes: name and version of each format's runtime.
    """
    record = {"pins": pins(), "emulator": emulator, "cpu": CPU, "suite": SUITE}
    more = {"packages": dict(packages), "runtimes": dict(runtimes), "files": list_files(root)}
    write_json(root.folder / MANIFEST, record | more)
