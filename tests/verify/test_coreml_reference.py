"""Core ML packages in the gate and in the verify step, away from a Mac: the reference evaluator judges the numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compress.export import available as can_export
from compress.export import export
from compress.files import sha256_of
from compress.recipe import Verify
from compress.runtimes import available
from compress.steps import verify as step
from compress.steps.export import ARTIFACTS
from compress.types import Artifact, Number
from compress.verify import Verification, threshold_of, verify_artifact
from tests.export.programs import float_program, reference, samples
from tests.runtimes.mil_nets import constant, edit, first

REASON = can_export("coreml") or ("Core ML runs here" if available("coreml") is None else "")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

RAN_ON = "Core ML program, reference evaluator (not Core ML itself)"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    folder = tmp_path_factory.mktemp("coreml")
    return export(float_program(), "coreml", "float32", folder, "net"), folder


def judged(saved: tuple[Artifact, Path], folder: Path, fault: Any = None) -> Verification:
    artifact, home = saved
    path = Path(shutil.copytree(home / artifact.path, folder / artifact.path))
    if fault is not None:
        edit(path, fault)
    spoilt = replace(artifact, sha256=sha256_of(path))
    return verify_artifact(spoilt, folder, reference(float_program()), samples(2), program=float_program())


def test_a_good_package_passes_by_structure_and_numbers(saved: tuple[Artifact, Path], tmp_path: Path) -> None:
    found = judged(saved, tmp_path)
    assert found.passed and found.ran_on.startswith(RAN_ON) and found.samples == 2
    assert found.max_error is not None and found.sqnr_db is not None and found.sqnr_db > 100.0
    assert len(found.checks) >= 4 and all("ok" in line for line in found.checks)
    assert Verification.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_fault_that_the_structure_hides_fails_by_its_numbers(saved: tuple[Artifact, Path], tmp_path: Path) -> None:
    def shift_pad(operations: Any) -> None:
        constant(operations, first(operations, "conv"), "pad").ints.values[:] = [2, 0, 1, 1]

    found = judged(saved, tmp_path, shift_pad)
    assert not found.passed and "of the range" in found.reason and found.ran_on.startswith(RAN_ON)
    assert all("ok" in line for line in found.checks)


def test_a_program_that_contradicts_itself_fails(saved: tuple[Artifact, Path], tmp_path: Path) -> None:
    def stride(operations: Any) -> None:
        strided = max(
            (op for op in operations if op.type == "conv"),
            key=lambda op: constant(operations, op, "strides").ints.values[0],
        )
        constant(operations, strided, "strides").ints.values[:] = [2, 1]

    found = judged(saved, tmp_path, stride)
    assert not found.passed and "says shape" in found.reason and found.max_error is None and found.checks


def test_an_unknown_op_leaves_the_structure_and_is_named(saved: tuple[Artifact, Path], tmp_path: Path) -> None:
    def rename(operations: Any) -> None:
        first(operations, "relu").type = "mystery"

    found = judged(saved, tmp_path, rename)
    assert found.passed and found.ran_on == "not run here: Core ML runs on macOS only" and found.max_error is None
    assert found.reason.startswith("structure checked, numbers not") and "does not know mystery at " in found.reason


def test_the_step_asks_for_its_quality_and_says_what_ran(saved: tuple[Artifact, Path], tmp_path: Path) -> None:
    artifact, home = saved
    shutil.copytree(home, tmp_path / ARTIFACTS)
    asked: list[tuple[int, ...]] = []

    def quality(predict: Any, part: str, count: int | None) -> Number:
        import torch

        asked.append(tuple(predict(torch.zeros(3, 3, 16, 16)).shape))
        return Number(0.9, "fraction", "measured")

    task = SimpleNamespace(quality=quality, more_qualities=lambda predict: {})
    job: Any = SimpleNamespace(folder=tmp_path, judged_task=task, recipe=SimpleNamespace(scheme="float32"))
    module = float_program().module()
    module.eval = lambda: module  # type: ignore[method-assign,assignment]  # an exported module has no other mode
    own = {"float32": Number(0.9, "fraction", "measured")}
    limits = threshold_of("float32")
    row = step._verify(job, Verify(), artifact, module, float_program(), samples(2), own, limits)
    assert row["passed"] and row["quality"]["value"] == 0.9 and asked == [(3, 5)] and row["ran_on"].startswith(RAN_ON)
    rows = [row, {"format": "onnx", "quality": {}}, {"format": "coreml", "quality": None}]
    assert step._ran_words(rows) == "1 ran in their runtime here, 1 in the Core ML reference evaluator"
