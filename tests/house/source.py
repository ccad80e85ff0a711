"""The package as text: its modules, what each imports, and the texts of the checkout."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "compress"


def sources() -> list[Path]:
    """Every Python file of the package; the templates are a user's files, not ours."""
    return sorted(path for path in PACKAGE.rglob("*.py") if "templates" not in path.relative_to(PACKAGE).parts)


def module_of(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def module_names() -> frozenset[str]:
    return frozenset(module_of(path) for path in sources())


def imports_in(tree: ast.AST, module: str = "", is_package: bool = False) -> Iterator[tuple[str, int]]:
    """Every dotted name imported anywhere in the tree (functions and TYPE_CHECKING blocks too), with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else -node.level + is_package]
                base = ".".join([*parents, base]).strip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield (whole if whole in module_names() else base), node.lineno


def imports_of(path: Path) -> list[tuple[str, int]]:
    """The imports of a file (see `imports_in`)."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return list(imports_in(tree, module_of(path), path.name == "__init__.py"))
