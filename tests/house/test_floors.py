"""Imports go strictly down, wherever in a file they stand."""

from __future__ import annotations

import ast

import pytest

from tests.house.floors import HEIGHTS, Import, fault, room_of
from tests.house.source import imports_in, imports_of, module_names, module_of, sources


def inner_imports() -> list[Import]:
    return [
        Import(module_of(path), name, line)
        for path in sources()
        for name, line in imports_of(path)
        if name == "compress" or name.startswith("compress.")
    ]


def test_every_import_goes_down() -> None:
    found = inner_imports()
    assert len(found) > 100  # the search itself works
    assert [message for message in map(fault, found) if message] == []


def test_every_floor_is_lived_in() -> None:
    rooms = {room_of(name) for name in module_names()}
    assert set(HEIGHTS) - rooms - {"__init__"} == set()


@pytest.mark.parametrize(
    ("module", "imported", "direction"),
    [
        ("compress.graph.trace", "compress.train.loop", "sideways"),
        ("compress.prune.plan", "compress.distill", "sideways"),
        ("compress.profile.measure", "compress.prune", "up"),
        ("compress.targets", "compress.recipe", "up"),
        ("compress.errors", "compress.types", "up"),
        ("compress.tasks.base", "compress.graph.cost", "sibling"),
        ("compress.job", "compress", "up"),
        ("compress.attic.box", "compress.types", "no floor"),
    ],
)
def test_a_wrong_import_is_named(module: str, imported: str, direction: str) -> None:
    message = fault(Import(module, imported, 7))
    assert message is not None and f"{module}:7" in message and direction in message


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("compress.prune.plan", "compress.graph.groups"),
        ("compress.prune", "compress.prune.plan"),
        ("compress.tasks.base", "compress.metrics"),
        ("compress.cli", "compress.pipeline"),
    ],
)
def test_a_right_import_is_let_through(module: str, imported: str) -> None:
    assert fault(Import(module, imported, 1)) is None


def test_hidden_imports_are_seen() -> None:
    code = """
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from compress.recipe import Recipe
def inside():
    from compress import pipeline
    from . import loop
    from ..graph import trace
    import compress.search.run as run
"""
    found = {name for name, _ in imports_in(ast.parse(code), "compress.train.devices")}
    assert {"compress.recipe", "compress.pipeline", "compress.train.loop", "compress.graph.trace"} <= found
    assert "compress.search.run" in found
