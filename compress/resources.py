"""Where the data folders `targets/` and `profiles/` lie: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path


def data_folder(name: str) -> Path:
    """The folder `name` ("targets" or "profiles"); raises FileNotFoundError where the installation lacks it."""
    package = Path(__file__).resolve().parent
    for candidate in (package.parent / name, package / "data" / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"the folder '{name}' is missing from this installation of compress; reinstall it")
