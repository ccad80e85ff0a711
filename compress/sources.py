"""The source files behind a piece of a user's code: what it imports, and what that imports, as far as it is theirs."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

TOOLCHAIN = "compress"


def files_behind(start: Path, roots: Sequence[Path], attribute: str = "") -> list[Path]:
    """The Python files that a file depends on, sorted, itself among them; imports are read, nothing is run.

    Followed are imports that lead to a file under one of the roots, wherever in a file they stand; the toolchain
    itself is not, which has a version, unless the file is a part of it.

    Args:
        start: the file.
        roots: folders that imports start from.
        attribute: the name that is taken from the file. Of a package whose `__init__.py` imports it from one of its own
            files, that one counts, and not what else the package offers.
    """
    inside = TOOLCHAIN in start.parts
    found: set[Path] = set()
    seen: set[Path] = set()
    left = [start]
    while left:
        file = left.pop()
        if file in seen:
            continue
        seen.add(file)
        taken = _taken(file, attribute) if file == start else []
        if not taken:
            found.add(file)
        for names in taken or _imports(file):
            if names[0] == TOOLCHAIN and not inside:
                continue
            left.extend(path for path in _places(names, roots) if not inside or start.parent in path.parents)
    return sorted(found)


def _taken(file: Path, attribute: str) -> list[tuple[str, ...]]:
    """What a package's `__init__.py` imports under a name; nothing where it defines the name itself."""
    if not attribute or file.name != "__init__.py":
        return []
    froms = [node for node in _nodes(file) if isinstance(node, ast.ImportFrom)]
    one = [node for node in froms if attribute in {alias.asname or alias.name for alias in node.names}]
    return [names for node in one for names in _names(file, node)]


def _imports(file: Path) -> Iterator[tuple[str, ...]]:
    """The dotted names, as tuples, that a file imports."""
    for node in _nodes(file):
        yield from _names(file, node)


def _nodes(file: Path) -> list[ast.Import | ast.ImportFrom]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []  # loading it will say what is wrong
    return [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def _names(file: Path, node: ast.Import | ast.ImportFrom) -> list[tuple[str, ...]]:
    if isinstance(node, ast.Import):
        return [tuple(alias.name.split(".")) for alias in node.names]
    base = _package(file, node.level) if node.level else ()
    module = (*base, *(node.module.split(".") if node.module else ()))
    return [(*module, alias.name) for alias in node.names]


def _package(file: Path, level: int) -> tuple[str, ...]:
    """The dotted name that a relative import of a file starts from, as far up as there are packages."""
    folder = file.parent
    for _ in range(level - 1):
        folder = folder.parent
    names: list[str] = []
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return tuple(names)


def _places(names: tuple[str, ...], roots: Sequence[Path]) -> Iterator[Path]:
    """The files of a dotted name and of the packages on the way to it, under the first root that has any."""
    for root in roots:
        found = []
        for length in range(1, len(names) + 1):
            path = root.joinpath(*names[:length])
            found += [place for place in (path.with_suffix(".py"), path / "__init__.py") if place.is_file()]
        if found:
            yield from (place.resolve() for place in found)
            return
