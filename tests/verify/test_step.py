"""The verify step names the first diverging op of an artifact that fails, and gives golden data to one that passes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compress.export import export
from compress.files import sha256_of
from compress.recipe import Verify
from compress.steps import verify as step
from compress.steps.export import ARTIFACTS
from compress.types import Artifact, Number
from compress.verify import check_golden, threshold_of
from compress.verify.golden import golden_paths
from tests.verify import planted

QUALITY = Number(0.9, "fraction", "measured")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    folder = tmp_path_factory.mktemp("step")
    return export(planted.program(), "onnx", "float32", folder, "net"), folder


@pytest.fixture
def artifact(exported: tuple[Artifact, Path], tmp_path: Path) -> Artifact:
    (tmp_path / ARTIFACTS).mkdir()
    shutil.copy(exported[1] / exported[0].path, tmp_path / ARTIFACTS)
    return exported[0]


def verified(artifact: Artifact, folder: Path) -> dict[str, Any]:
    task = SimpleNamespace(quality=lambda *given: QUALITY, more_qualities=lambda predict: {})
    job: Any = SimpleNamespace(folder=folder, judged_task=task, recipe=SimpleNamespace(scheme="float32"))
    samples = [planted.sample(), planted.sample()]
    return step._verify(
        job, Verify(), artifact, planted.reference(), None, samples, {"float32": QUALITY}, threshold_of("float32")
    )


def test_a_failed_artifact_is_bisected_and_gets_no_golden_data(artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / ARTIFACTS / artifact.path
    planted.plant_in_onnx(path, "padding")
    row = verified(replace(artifact, sha256=sha256_of(path)), tmp_path)
    assert not row["passed"] and "of the range" in row["reason"]
    assert "first diverging op Conv2d at down" in row["reason"]
    assert row["divergence"]["suspect"]["where"] == "down"
    assert not any(file.exists() for file in golden_paths(path))


def test_a_passed_artifact_can_be_checked_by_its_golden_data(artifact: Artifact, tmp_path: Path) -> None:
    row = verified(artifact, tmp_path)
    assert row["passed"] and "divergence" not in row
    found = check_golden(tmp_path / ARTIFACTS / artifact.path)
    assert found.passed and found.samples == 2
