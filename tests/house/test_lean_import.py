"""What has to be instant imports nothing heavy. Times vary from machine to machine; what is imported does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.house.source import ROOT

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "optuna", "plotly", "lightning_fabric", "sklearn", "pandas", "scipy")
TOOLS = ("executorch", "litert_torch", "ai_edge_litert", "ai_edge_quantizer", "coremltools", "nncf", "jinja2")
FORMATS = ("rich", "pydantic", "yaml")


def loaded_after(code: str) -> set[str]:
    """The top-level modules that are loaded after `code` ran in a fresh interpreter."""
    report = "import json, sys; print('\\n@' + json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.rpartition("@")[2]))


def test_light_rooms_import_nothing_heavy() -> None:
    rooms = "compress compress.cli compress.errors compress.files compress.methods compress.recipe compress.resources"
    rooms += " compress.targets compress.types compress.doctor compress.catalogue compress.schema compress.starter"
    loaded = loaded_after(f"import {', '.join(rooms.split())}")
    assert "compress" in loaded and "typer" in loaded
    assert loaded & {*HEAVY, *TOOLS} == set()


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["--help"], FORMATS),
        (["run", "--help"], ("rich", "yaml")),  # typer itself uses pydantic once it reads arguments
        (["methods", "--built"], ("rich", "yaml")),
        (["targets"], ("rich",)),
        (["formats"], ("rich",)),
        (["doctor"], ("rich", "yaml")),
    ],
    ids=" ".join,
)
def test_light_commands_import_nothing_heavy(arguments: list[str], more: tuple[str, ...]) -> None:
    loaded = loaded_after(f"from compress.cli import main; assert main({arguments!r}) == 0")
    assert "typer" in loaded
    assert loaded & {*HEAVY, *TOOLS, *more} == set()


def test_a_bad_recipe_is_refused_before_torch() -> None:
    loaded = loaded_after("from compress.cli import main; assert main(['run', 'no-such-recipe.yaml']) == 2")
    assert "torch" not in loaded and "pydantic" in loaded


def test_the_face_loads_its_rooms_on_use() -> None:
    code = (
        "import sys, compress; assert 'torch' not in sys.modules; from compress import Classification, compress as door"
    )
    loaded = loaded_after(f"{code}; assert callable(door) and door.__name__ == 'compress'; assert Classification")
    assert "torch" in loaded
