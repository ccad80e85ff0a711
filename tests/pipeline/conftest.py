"""The tiny recipe, and one finished run of it that several tests look at."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from compress.pipeline import RunResult, run
from compress.recipe import make_recipe

HERE = Path(__file__).parent
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "teacher": {
        "entry": "tests/pipeline/tiny.py:teacher",
        "train": {"epochs": 4, "learning_rate": 0.05, "checkpoint_every_s": 0.2},
    },
    "task": {"entry": "tests/pipeline/tiny.py:task"},
    "target": "host",
    "budget": {"macs_ratio": 0.6, "min_quality": 0.7},
    "train": {"threads": 1},
    "steps": [
        {"search": {"trials": 5, "quick_samples": 64, "calibration_batches": 1}},
        {"prune": {"batches": 2}},
        {"distill": {"epochs": 4, "learning_rate": 0.05, "checkpoint_every_s": 0.2}},
        {"quantize": {"qat_epochs": 2, "calibration_batches": 2, "checkpoint_every_s": 0.2}},
        {"export": {"formats": ["onnx"]}},
        {"verify": {"samples": 8}},
        {"profile": {"runs": 5, "warm_up": 1}},
    ],
}


def recipe(**changes: Any) -> Any:
    """The tiny recipe with some top-level keys replaced."""
    return make_recipe(copy.deepcopy(RECIPE) | changes, "tiny")


def go(out: Path, made: Any = None, **options: Any) -> RunResult:
    """Run a recipe quietly."""
    return run(made or recipe(), out, recipe_folder=HERE, quiet=True, **options)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A finished run of the tiny recipe; tests must not change its folder."""
    return go(tmp_path_factory.mktemp("finished") / "run")
