"""No device by name in the code, and nothing that belongs to one machine anywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compress.recipe import load_recipe
from compress.targets import list_targets, load_target
from tests.house.source import ROOT, sources

# Words of a device's name that mean something else elsewhere ("apple": the packages of Core ML carry it).
ORDINARY = {"apple", "bionic", "boards", "class", "design", "elite", "fusion", "pixel", "reference"}
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:work|root|home|Users|mnt|opt|tmp)/\w")
TEXTS = (".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".csv", ".json", ".html", ".css", ".js", ".j2", "")


def device_words() -> set[str]:
    """Names of devices and of what is inside them, as targets/*.yaml has them; numbers and short words left out."""
    words: set[str] = set()
    for name in set(list_targets()) - {"host"}:
        target = load_target(name)
        words |= {name, target.title.lower(), target.soc.lower()}
        for word in re.findall(r"[A-Za-z][A-Za-z0-9]+", f"{target.title} {target.soc}"):
            words |= {word.lower()} if len(word) > 3 and word.lower() not in ORDINARY else set()
    return words


def mentions(text: str, words: set[str]) -> list[tuple[int, str]]:
    """The lines of `text` that hold one of the words as a whole word."""
    pattern = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(map(re.escape, sorted(words)))})(?![a-z0-9])")
    lines = enumerate(text.lower().splitlines(), 1)
    return [(number, match.group()) for number, line in lines for match in [pattern.search(line)] if match]


def test_the_code_knows_no_device_by_name() -> None:
    words = device_words()
    assert {"pixel-4", "snapdragon"} <= words
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in sources()
        for line, word in mentions(path.read_text(encoding="utf-8"), words)
    ]
    assert found == []


def test_a_device_name_is_found() -> None:
    assert mentions('x = 1\nif target == "Pixel-4":', {"pixel-4"}) == [(2, "pixel-4")]
    assert mentions("pixel-40 and subpixel-4", {"pixel-4"}) == []


def texts() -> list[Path]:
    """Every text of the checkout that is ours."""
    places = [ROOT / name for name in ("compress", "targets", "profiles", "tests", "examples", ".ci")]
    inside = [path for place in places for path in place.rglob("*") if path.is_file()]
    inside += [path for path in ROOT.iterdir() if path.is_file()]
    skipped = {"__pycache__", "runs", ".cache"}
    return [p for p in inside if p.suffix in TEXTS and not skipped & set(p.parts) and not p.name.startswith(".git")]


def test_nothing_names_a_place_on_one_machine() -> None:
    found = []
    for path in texts():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        found += [f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert found == []


def test_a_place_on_one_machine_is_found() -> None:
    folder = "home"
    assert MACHINE_PATH.search(f"open('/{folder}/me/file')")
    assert not MACHINE_PATH.search("https://example.org/home/page and a/work/b")


EXAMPLES = sorted((ROOT / "examples").glob("*/recipe*.yaml"))


def test_there_are_examples() -> None:
    assert ROOT / "examples" / "digits" / "recipe.yaml" in EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_example_reads(path: Path) -> None:
    recipe = load_recipe(path)
    assert load_target(recipe.target).unit(recipe.unit)
    for entry in (recipe.teacher.entry, recipe.task.entry):
        file = entry.partition(":")[0]
        assert not file.endswith(".py") or (ROOT / file).is_file() or (path.parent / file).is_file()
