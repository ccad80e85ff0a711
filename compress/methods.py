"""The published systems this toolchain carries or is to carry: a list as data, and whether each one is built."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from compress.errors import UnknownName

_FILE = Path(__file__).with_name("methods.csv")
TIERS = {1: "core", 2: "supporting", 3: "peripheral"}


@dataclass(frozen=True, slots=True)
class Method:
    """One published system. `where` is `file.py:Class` and `test` a file, both empty until it is built."""

    number: int
    key: str
    name: str
    paper: str
    family: str
    tier: int
    status: Literal["built", "planned"]
    where: str
    test: str

    @property
    def built(self) -> bool:
        """Whether it can be used today."""
        return self.status == "built"

    def to_dict(self) -> dict[str, Any]:
        """The row as plain JSON data."""
        return asdict(self)


def list_methods(family: str | None = None, built: bool = False) -> tuple[Method, ...]:
    """The methods in order of their number, of families whose name contains `family`, and only built ones if asked.

    Raises:
        UnknownName: no family's name contains `family`.
    """
    methods = _read()
    if family is not None:
        families = sorted({method.family for method in methods})
        chosen = _matching(families, family)
        if not chosen:
            raise UnknownName("family", family, families)
        methods = tuple(method for method in methods if method.family in chosen)
    return tuple(method for method in methods if method.built or not built)


def _matching(families: Iterable[str], wanted: str) -> set[str]:
    """The family of exactly this name, or all whose name contains it, letter case aside."""
    names = {family: family.casefold() for family in families}
    exact = {family for family, name in names.items() if name == wanted.casefold()}
    return exact or {family for family, name in names.items() if wanted.casefold() in name}


def _read() -> tuple[Method, ...]:
    with open(_FILE, newline="", encoding="utf-8") as file:
        rows = [_method(row) for row in csv.DictReader(file)]
    return tuple(sorted(rows, key=lambda method: method.number))


def _method(row: dict[str, str]) -> Method:
    status = row["status"]
    if status not in ("built", "planned"):
        raise ValueError(f"methods.csv: {row['key']}: status '{status}' is neither built nor planned")
    return Method(
        number=int(row["number"]), key=row["key"], name=row["name"], paper=row["paper"], family=row["family"],
        tier=int(row["tier"]), status=cast("Literal['built', 'planned']", status), where=row["where"], test=row["test"],
    )  # fmt: skip
