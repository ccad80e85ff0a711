"""Finding what a recipe names: `package.module:attribute`, `path/to/file.py:attribute`, or `timm:NAME`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from compress.errors import InputError, ToolMissing, UnknownName
from compress.sources import files_behind


def load_entry(entry: str, folder: Path) -> Any:
    """The object an entry names; file paths are looked up from the recipe's folder upwards, then from here.

    Raises:
        InputError: the entry is malformed, or its file or module cannot be found or fails on import.
        UnknownName: the module has no such attribute (carries the nearest).
    """
    place, separator, attribute = entry.rpartition(":")
    if not separator or not place or not attribute:
        raise InputError(f"entry '{entry}': expected package.module:attribute or path/to/file.py:attribute")
    if place == "timm":
        return _timm(attribute)
    module = _from_file(*_locate(place, entry, folder)) if place.endswith(".py") else _from_module(place, entry)
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise UnknownName(f"attribute of {place}", attribute, names)
    return getattr(module, attribute)


def locate_file(path: str, folder: Path) -> Path:
    """A user's file by its path in a recipe: from the recipe's folder upwards, then from the working folder.

    Raises:
        InputError: it is nowhere there.
    """
    return _locate(path, path, folder)[0]


def source_hash(entry: str, folder: Path) -> str:
    """A hash of the code behind an entry: its file and what that imports, as far as it is the user's own."""
    place, _, attribute = entry.rpartition(":")
    digest = hashlib.sha256(entry.encode())
    for file in _sources(place, entry, attribute, folder):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _sources(place: str, entry: str, attribute: str, folder: Path) -> list[Path]:
    if place.endswith(".py"):
        file, base = _locate(place, entry, folder)
        return files_behind(file, [file.parent, base, *file.parent.parents[:3]], attribute)
    if place == "timm":
        return []
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        spec = None  # loading it will say what is wrong
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        return []
    file = Path(spec.origin).resolve()
    top = file.parents[len(place.split(".")) - (file.name != "__init__.py")]
    return files_behind(file, [top], attribute)


def _locate(path: str, entry: str, folder: Path) -> tuple[Path, Path]:
    """The file and the folder it was found from (which its own imports may start from)."""
    bases = [folder, *folder.resolve().parents, Path.cwd()]
    for base in [Path("/")] if Path(path).is_absolute() else bases:
        if (base / path).is_file():
            return (base / path).resolve(), base.resolve()
    raise InputError(f"'{entry}': no file {path} in {folder} or above, nor in {Path.cwd()}; check the path")


def _from_file(file: Path, base: Path) -> ModuleType:
    # Like a script's, the file's own folder and the folder its path starts from serve its imports.
    for place in (str(base), str(file.parent)):
        if place not in sys.path and place != "/":
            sys.path.insert(0, place)
    name = f"compress_entry_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{file}: failed on import ({type(error).__name__}: {error})") from error
    return module


def _from_module(place: str, entry: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise InputError(f"entry '{entry}': cannot import {place} ({type(error).__name__}: {error})") from error


def _timm(name: str) -> Any:
    if importlib.util.find_spec("timm") is None:
        raise ToolMissing("timm", "timm", "(needed for timm: entries) is not installed")
    timm = importlib.import_module("timm")
    if not timm.is_model(name):
        raise UnknownName("timm model", name, timm.list_models())
    return lambda: timm.create_model(name, pretrained=False)
