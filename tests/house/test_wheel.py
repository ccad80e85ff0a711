"""What is shipped: the wheel holds the data that the package reads, and works where there is no checkout."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.source import PACKAGE, ROOT

needs_hatchling = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed: pip install -e '.[test]'"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@needs_hatchling
def test_the_wheel_holds_every_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")}
    templates = {str(path.relative_to(ROOT)) for path in (PACKAGE / "templates").iterdir() if path.is_file()}
    assert len(code) > 60 and "compress/templates/recipe.yaml" in templates
    data = {f"compress/data/targets/{path.name}" for path in (ROOT / "targets").glob("*.yaml")}
    data |= {f"compress/data/profiles/{path.name}" for path in (ROOT / "profiles").glob("*.json")}
    assert code | templates | data | {"compress/methods.csv", "compress/py.typed"} <= names
    pages = {str(p.relative_to(ROOT)) for p in (PACKAGE / "report").rglob("*") if p.suffix not in (".py", ".pyc")}
    assert {name for name in pages if (ROOT / name).is_file()} <= names
    assert not [name for name in names if name.startswith(("tests/", "examples/")) or "__pycache__" in name]


@needs_hatchling
def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "80"}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "compress", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    targets = {row["name"] for row in json.loads(run("targets", "--json"))}
    assert targets == {path.stem for path in (ROOT / "targets").glob("*.yaml")}
    assert len(json.loads(run("methods", "--json"))) == 172
    run("init", "mine")
    assert (tmp_path / "mine" / "task.py").is_file()
    code = "from compress.resources import data_folder; print(data_folder('profiles'))"
    where = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert where.stdout.strip() == str(site / "compress" / "data" / "profiles")
