"""The files `compress init` writes: a commented recipe and a task file that run as they are."""

from __future__ import annotations

import re
from pathlib import Path

from compress.errors import InputError
from compress.files import write_text

TEMPLATES = Path(__file__).parent / "templates"
FILES = ("recipe.yaml", "task.py")


def write_templates(folder: Path, force: bool = False) -> list[Path]:
    """Write recipe.yaml and task.py into `folder`, named after it; returns their paths.

    Raises:
        InputError: the folder's name cannot be a recipe's name, or a file is there already and `force` is off.
        RunFolderError: the folder cannot be written.
    """
    name = folder.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"init: '{name}' cannot name a recipe; use letters, digits, '.', '_' and '-'")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"init: {folder} is a file; name a folder")
    paths = [folder / file for file in FILES]
    there = [path for path in paths if path.exists()]
    if there and not force:
        raise InputError(f"init: {there[0]} exists already; --force overwrites it")
    for path in paths:
        write_text(path, (TEMPLATES / path.name).read_text(encoding="utf-8").replace("@NAME@", name))
    return paths
