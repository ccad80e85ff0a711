"""Makes the emulated system: fetches Debian packages and wheels, unpacks them, tries them, and puts them in place.

Needs no rights: apt works in folders of its own, packages are unpacked and not installed. What was fetched is kept
until all is done, so a second try goes on where the first one stopped; the finished system appears in one rename.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compress.errors import RunFolderError, ToolError
from compress.files import refusal, sha256_of
from compress.runtimes.arm64.emulate import start_runtime
from compress.runtimes.arm64.root import (
    ARCH,
    EMULATOR_PACKAGE,
    EMULATOR_SUITE,
    FORMATS,
    PACKAGES,
    PYTHON,
    SETUP,
    SUITE,
    WHEELS_FILE,
    Root,
    cache_folder,
    find_root,
    problem,
    unfit_machine,
    write_manifest,
)

Say = Callable[[str], None]

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR_VARIABLE = "COMPRESS_DEBIAN_MIRROR"
HOST_ARCH = "amd64"  # Debian's name for x86-64
# What a wheel may ask of the C library; bookworm's is 2.36.
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in (17, 27, 28, 34)))


def set_up(say: Say) -> Root:
    """The emulated system, made now unless it is there and whole; `say` gets a line for each thing that is done.

    Raises:
        ToolError: no network, a tool is missing, another process is at it, or a runtime does not start there.
        RunFolderError: the cache folder cannot be written, or the disk is full.
    """
    unfit = unfit_machine()
    if unfit is not None:
        raise ToolError(unfit)
    if problem() is None:
        say(f"{ARCH} is set up already in {cache_folder() / 'root'}")
        return find_root()
    folder = cache_folder()
    try:
        with _locked(folder):
            _make(folder, say)
    except OSError as error:
        raise refusal(error, folder) from error
    return find_root()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The cache folder, made if need be and held by this process alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ToolError(f"another process is setting up {ARCH} in {folder}; wait for it") from error
        yield


def _make(folder: Path, say: Say) -> None:
    """Fetch, unpack, try, and put in place."""
    downloads, draft = folder / "downloads", Root(folder / "root.part")
    packages = fetch_packages(downloads, say)
    wheels = fetch_wheels(downloads / "wheels", say)
    shutil.rmtree(draft.folder, ignore_errors=True)  # left by a run that was killed
    say("unpacking")
    unpack_packages(packages, draft)
    unpack_wheels(downloads / "wheels", draft)
    hashes = {path.name: sha256_of(path) for path in (*packages, *wheels)}
    write_manifest(draft, emulator_version(draft), hashes, {})
    runtimes = {}
    for format in FORMATS:
        runtimes[format] = start_runtime(draft, format)
        say(f"started {runtimes[format]} on {draft.describe()}")
    write_manifest(draft, emulator_version(draft), hashes, runtimes)
    shutil.rmtree(folder / "root", ignore_errors=True)
    os.replace(draft.folder, folder / "root")
    shutil.rmtree(downloads)


def mirror() -> str:
    """The address of a Debian archive: the environment's, or the one apt is configured with here.

    Raises:
        ToolError: there is none.
    """
    named = os.environ.get(MIRROR_VARIABLE)
    if named:
        return named
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    found = subprocess.run(_tool(asked), capture_output=True, text=True, check=False).stdout.split()
    archives = [address for address in found if address.rstrip("/").endswith("/debian")]
    if not archives:
        raise ToolError(f"apt knows no Debian archive here; put the address of one into {MIRROR_VARIABLE}")
    return archives[0]


def apt_command(folder: Path, *arguments: str) -> list[str]:
    """An apt-get command line that works in `folder` alone, as if on an arm64 system with nothing installed.

    This machine's own apt settings (a proxy) hold; its sources and package lists are neither used nor touched.
    """
    settings = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "APT::Architecture": ARCH,
        "APT::Architectures": f"{ARCH},{HOST_ARCH}",
        "APT::Sandbox::User": "root",  # who runs this, rather than apt's own user, who may not write here
        "APT::Update::Error-Mode": "any",
        "APT::Immediate-Configure": "false",
        "Acquire::Languages": "none",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    return ["apt-get", "-q", "--yes", "--no-install-recommends", *options, *arguments]


def fetch_packages(downloads: Path, say: Say) -> list[Path]:
    """Fetch the Debian packages and all they depend on, checked by apt against the archive's signature.

    Raises:
        ToolError: no network, no apt, or no keyring.
    """
    if not KEYRING.is_file():
        raise ToolError(f"{KEYRING} is missing, which Debian packages are checked with: install debian-archive-keyring")
    own = _fetch_suite(downloads / SUITE, SUITE, PACKAGES, say)
    return own + _fetch_suite(downloads / EMULATOR_SUITE, EMULATOR_SUITE, [f"{EMULATOR_PACKAGE}:{HOST_ARCH}"], say)


def _fetch_suite(folder: Path, suite: str, wanted: Sequence[str], say: Say) -> list[Path]:
    """The packages that are wanted from one Debian release, and all they need; apt works in `folder`."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    source = f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n"
    (folder / "sources.list").write_text(source, encoding="utf-8")
    say(f"fetching the package lists of Debian {suite}")
    _call(apt_command(folder, "update"), say, (), "fetching the Debian package lists")
    say(f"fetching {', '.join(wanted)} and what they need")
    _call(apt_command(folder, "install", "--download-only", *wanted), say, ("Get:",), "fetching the Debian packages")
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def pip_command(*arguments: str) -> list[str]:
    """A pip command line that takes the pinned wheels for arm64 and nothing else."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    pinned = ["--only-binary=:all:", "--no-deps", "--require-hashes", "-r", str(WHEELS_FILE)]
    quiet = ["--disable-pip-version-check", "--progress-bar=off", "--no-input"]
    versions = ["--implementation", "cp", "--python-version", PYTHON]
    return [sys.executable, "-m", "pip", *arguments, *pinned, *platforms, *versions, *quiet]


def fetch_wheels(folder: Path, say: Say) -> list[Path]:
    """Fetch the runtimes' wheels at their pinned versions, each checked by its hash.

    Raises:
        ToolError: no network, or no pip.
    """
    say("fetching wheels")
    folder.mkdir(parents=True, exist_ok=True)
    shown = ("Downloading", "Using cached", "File was already downloaded")
    _call(pip_command("download", "--dest", str(folder)), say, shown, "fetching the wheels")
    return sorted(folder.glob("*.whl"))


def unpack_packages(packages: Sequence[Path], root: Root) -> None:
    """Unpack the Debian packages below the root; of the emulator's package its one program is kept."""
    root.system.mkdir(parents=True)
    for path in packages:
        own = path.name.startswith(f"{EMULATOR_PACKAGE}_")
        target = root.folder / "emulator.part" if own else root.system
        _call(["dpkg-deb", "-x", str(path), str(target)], _silent, (), f"unpacking {path.name}")
    os.replace(root.folder / "emulator.part" / "usr" / "bin" / "qemu-aarch64", root.emulator)
    shutil.rmtree(root.folder / "emulator.part")


def unpack_wheels(folder: Path, root: Root) -> None:
    """Unpack the wheels side by side; pip does it, as some keep files in places of their own."""
    places = ["--no-index", "--find-links", str(folder), "--target", str(root.wheels), "--no-compile"]
    _call(pip_command("install", *places), _silent, (), "unpacking the wheels")


def emulator_version(root: Root) -> str:
    """The emulator's name and version: "qemu-user 10.0.13"."""
    said = subprocess.run([str(root.emulator), "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+(?:\.\d+)+)", said)
    if found is None:
        raise ToolError(f"{root.emulator} does not say its version; run {SETUP} again")
    return f"qemu-user {found.group(1)}"


def _silent(line: str) -> None:
    """Say nothing."""


def _tool(command: list[str]) -> list[str]:
    """The command line, once its program has been found."""
    if shutil.which(command[0]) is None:
        raise ToolError(f"{command[0]} is missing: {ARCH} is set up from Debian packages, on Debian or Ubuntu")
    return command


def _call(command: list[str], say: Say, shown: tuple[str, ...], doing: str) -> None:
    """Run a program to its end, handing on those of its lines that begin with one of `shown`.

    Raises:
        ToolError: it failed; the message carries its own last complaint.
    """
    said: deque[str] = deque(maxlen=200)
    variables = {**os.environ, "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(
        _tool(command), env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        for line in running.stdout or ():
            said.append(_short(line))
            if said[-1].startswith(shown):
                say(f"  {said[-1]}")
    if running.returncode != 0:
        raise _failure(doing, said)


def _short(line: str) -> str:
    """A line of apt or pip without the addresses and tags that make it long."""
    return re.sub(r"https?://\S+ \S+ \S+ |-(?:cp|py)\d\S*\.whl", "", line.strip())


def _failure(doing: str, said: Sequence[str]) -> ToolError:
    """The one-line error of a program that failed: while doing what, its first complaint, and what to do.

    Raises:
        RunFolderError: the disk is full.
    """
    if any("No space left" in line for line in said):
        raise RunFolderError(f"the disk is full while {doing}; free some space and run {SETUP} again")
    complaints = [line for line in said if line.startswith(("E:", "Err:", "ERROR:", "dpkg-deb: error"))]
    reason = (complaints or [line for line in said if line][-1:] or ["it said nothing"])[0][:200]
    hint = "is there a network? " if doing.startswith("fetching") else ""
    return ToolError(f"{doing} failed ({reason}); {hint}{SETUP} goes on where it was")
