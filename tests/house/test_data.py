"""The data that ships: devices, profiles and the list of methods load, and belong together."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from compress.errors import UnknownName
from compress.methods import TIERS, Method, list_methods
from compress.profile.constants import read_profile
from compress.resources import data_folder
from compress.targets import list_targets, load_target
from tests.house.source import ROOT

PROFILES = sorted(data_folder("profiles").glob("*.json"))


@pytest.mark.parametrize("name", list_targets())
def test_every_target_loads(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.sources  # a device's facts say where they are from


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_loads_and_is_used(path: Path) -> None:
    profile = read_profile(path)
    unit = load_target(profile.target).unit(profile.unit)
    assert unit.profile == path.name
    assert {scheme for schemes in profile.runtimes.values() for scheme in schemes} <= set(unit.schemes)
    assert profile.source


def test_every_profile_that_a_target_names_is_there() -> None:
    named = {unit.profile for name in list_targets() for unit in load_target(name).units.values() if unit.profile}
    assert named == {path.name for path in PROFILES}


def test_the_list_of_methods_is_whole() -> None:
    methods = list_methods()
    assert len(methods) == 172
    assert len({method.key for method in methods}) == 172
    assert len({method.number for method in methods}) == 172
    assert all(method.name and method.paper and method.family and method.tier in TIERS for method in methods)


def lacks(method: Method) -> str | None:
    """What a method that is said to be built does not have, or None."""
    file, _, name = method.where.partition(":")
    if not name or not (ROOT / file).is_file():
        return f"{method.key}: where: there is no {method.where or 'place named'}"
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    if not hasattr(module, name):
        return f"{method.key}: where: {file} has no {name}"
    test = ROOT / method.test
    if not method.test.startswith("tests/") or not test.is_file():
        return f"{method.key}: test: there is no {method.test or 'test named'}"
    text = test.read_text(encoding="utf-8")
    return None if name in text and "def test_" in text else f"{method.key}: test: {method.test} does not test {name}"


def test_what_is_said_to_be_built_is_built_and_tested() -> None:
    built = list_methods(built=True)
    assert {"funmatch", "fitnets", "vkd"} <= {method.key for method in built}
    assert [message for message in map(lacks, built) if message] == []


def test_what_is_planned_claims_nothing() -> None:
    assert [m.key for m in list_methods() if not m.built and (m.where or m.test)] == []


def test_a_false_claim_is_found() -> None:
    row = Method(1, "x", "X", "paper", "family", 1, "built", "compress/nowhere.py:X", "tests/test_recipe.py")
    assert "there is no compress/nowhere.py:X" in (lacks(row) or "")
    row = Method(1, "x", "X", "paper", "family", 1, "built", "compress/errors.py:Nothing", "tests/test_recipe.py")
    assert "has no Nothing" in (lacks(row) or "")
    row = Method(1, "x", "X", "paper", "family", 1, "built", "compress/errors.py:ToolMissing", "tests/conftest.py")
    assert "does not test ToolMissing" in (lacks(row) or "")


def test_families_are_found_by_a_part_of_their_name() -> None:
    chosen = list_methods(family="gan compression")
    assert chosen and {method.family for method in chosen} == {"GAN compression"}
    assert len(list_methods(family="GAN")) > len(chosen)
    assert {m.key for m in list_methods(family="F2 feature", built=True)} == {"fitnets", "vkd"}
    with pytest.raises(UnknownName, match="GAN compression"):
        list_methods(family="GAN compresion")
