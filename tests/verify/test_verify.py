"""The gate: it passes what computes the same, and stops a wrong weight, a wrong op, a changed file, a NaN."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.errors import CheckFailed
from compress.export import available as can_export
from compress.export import export
from compress.files import sha256_of
from compress.runtimes import available
from compress.types import Artifact
from compress.verify import Threshold, Verification, compare, verify_artifact
from compress.verify.structure import check
from tests.export.programs import float_program, int8_program, reference, samples

FORMATS = ("onnx", "litert", "executorch", "coreml")


def test_compare_by_hand() -> None:
    wanted, given = np.array([3.0, -4.0, 0.0]), np.array([3.0, -4.5, 0.0])
    found = compare(wanted, given)
    assert found.max_error == 0.5 and found.mean_error == pytest.approx(0.5 / 3)
    assert found.sqnr_db == pytest.approx(10 * math.log10(25 / 0.25))
    assert found.max_relative_error == pytest.approx(0.125)


def test_compare_stays_json_where_numbers_do_not() -> None:
    equal = compare(np.ones(4), np.ones(4))
    assert (equal.sqnr_db, equal.max_error) == (300.0, 0.0)
    broken = compare(np.ones(2), np.array([np.nan, 1.5]))
    assert (broken.finite, broken.sqnr_db, broken.max_error) == (False, -300.0, 0.5)
    silent = compare(np.zeros(2), np.array([0.0, 0.1]))
    assert silent.sqnr_db == -300.0 and silent.max_relative_error == pytest.approx(0.1)
    for found in (equal, broken, silent):
        json.dumps(found.to_dict(), allow_nan=False)


def test_compare_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(CheckFailed, match="shape"):
        compare(np.ones((1, 2)), np.ones((2, 1)))
    with pytest.raises(CheckFailed, match="nothing to compare"):
        compare(np.array([np.inf]), np.ones(1))
    with pytest.raises(CheckFailed, match="nothing to compare"):
        compare(np.ones(0), np.ones(0))


def test_one_step_of_a_float32_is_below_the_cap() -> None:
    wanted = np.ones(10**6, np.float32)
    given = wanted.copy()
    given[0] = np.nextafter(np.float32(1), np.float32(2))
    assert 150.0 < compare(wanted, given).sqnr_db < 300.0


def faulty(program: torch.export.ExportedProgram, key: str, factor: float) -> torch.export.ExportedProgram:
    """A copy of the program with one weight or scale tensor multiplied."""
    wrong = copy.deepcopy(program)
    values = wrong.state_dict if key in wrong.state_dict else wrong.constants
    values[key].data.mul_(factor)
    return wrong


def gate(format: str, scheme: str, folder: Path, wrong: bool) -> Verification:
    reason = can_export(format)
    if reason:
        pytest.skip(reason)
    right = int8_program() if scheme == "w8a8" else float_program()
    key = "head.weight" if scheme == "float32" else "codes_linear_scale"
    program = faulty(right, key, 1.5) if wrong else right
    artifact = export(program, format, scheme, folder, "net")
    return verify_artifact(artifact, folder, reference(right), samples(), program=right)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("format", ["onnx", "litert", "executorch"])
def test_a_planted_fault_fails(format: str, scheme: str, tmp_path: Path) -> None:
    found = gate(format, scheme, tmp_path, wrong=True)
    assert not found.passed
    assert ("range" if scheme == "float32" else "dB") in found.reason
    assert found.sqnr_db is not None and found.sqnr_db < 20.0
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_good_artifact_passes_and_says_where_it_ran(tmp_path: Path) -> None:
    found = gate("onnx", "w8a8", tmp_path, wrong=False)
    assert found.passed and found.samples == 4
    assert found.ran_on.startswith("onnxruntime 1.") and found.ran_on.endswith(" CPU, 1 thread")
    assert found.sqnr_db is not None and found.sqnr_db_min is not None and found.sqnr_db_min <= found.sqnr_db
    assert Verification.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    return export(float_program(), "onnx", "float32", folder, "net"), folder


def test_thresholds_can_be_set(onnx_file: tuple[Artifact, Path]) -> None:
    artifact, folder = onnx_file

    def shifted(*inputs: np.ndarray) -> list[np.ndarray]:
        return [value + 1e-4 for value in reference(float_program())(*inputs)]

    assert verify_artifact(artifact, folder, shifted, samples()).passed
    strict = Threshold(max_relative_error=1e-6)
    assert not verify_artifact(artifact, folder, shifted, samples(), strict).passed
    assert "120.0 dB" in verify_artifact(artifact, folder, shifted, samples(), Threshold(min_sqnr_db=120.0)).reason


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda out: [np.concatenate([out[0], out[0]])], "shape"),
        (lambda out: [*out, out[0]], "1 outputs where the model gives 2"),
    ],
)
def test_another_interface_fails(onnx_file: tuple[Artifact, Path], wrong: Any, words: str) -> None:
    artifact, folder = onnx_file
    found = verify_artifact(artifact, folder, lambda *x: wrong(reference(float_program())(*x)), samples())
    assert not found.passed and words in found.reason


def test_no_samples_is_no_pass(onnx_file: tuple[Artifact, Path]) -> None:
    artifact, folder = onnx_file
    found = verify_artifact(artifact, folder, reference(float_program()), [])
    assert not found.passed and "no samples" in found.reason


def test_a_changed_or_missing_file_fails(onnx_file: tuple[Artifact, Path], tmp_path: Path) -> None:
    artifact, folder = onnx_file
    content = bytearray((folder / artifact.path).read_bytes())
    content[-40] ^= 1
    (tmp_path / artifact.path).write_bytes(content)
    ask = (reference(float_program()), samples(1))
    assert "changed" in verify_artifact(artifact, tmp_path, *ask).reason
    assert "missing" in verify_artifact(artifact, tmp_path / "nowhere", *ask).reason


def test_a_truncated_file_fails_without_a_traceback(onnx_file: tuple[Artifact, Path], tmp_path: Path) -> None:
    artifact, folder = onnx_file
    path = tmp_path / artifact.path
    path.write_bytes((folder / artifact.path).read_bytes()[:500])
    found = verify_artifact(replace(artifact, sha256=sha256_of(path)), tmp_path, lambda *x: [], samples(1))
    assert not found.passed and "cannot be loaded" in found.reason


@pytest.mark.skipif(available("coreml") is None, reason="Core ML runs here: it is compared by its numbers")
def test_coreml_structure(tmp_path: Path) -> None:
    reason = can_export("coreml")
    if reason:
        pytest.skip(reason)
    program = int8_program()
    artifact = export(program, "coreml", "w8a8", tmp_path, "net")
    path = tmp_path / artifact.path
    before = sha256_of(path)
    found = verify_artifact(artifact, tmp_path, reference(program), samples(1), program=program)
    assert found.passed and found.ran_on.startswith("Core ML program, reference evaluator (not Core ML itself)")
    assert found.sqnr_db is not None and found.sqnr_db > 30.0 and len(found.checks) == 6
    assert sha256_of(path) == before  # looking at it left it alone
    bad = copy.deepcopy(program)
    name = "codes_conv2d_2"
    held = bad.state_dict if name in bad.state_dict else bad.constants
    held[name] = held[name].flip(0)
    wrong = verify_artifact(artifact, tmp_path, reference(program), samples(1), program=bad)
    assert not wrong.passed and "codes missing" in wrong.reason
    renamed = replace(artifact, output_names=("logits",))
    assert next(str(line) for line in check(path, renamed, program) if not line.passed).startswith("interface: WRONG")
    next(path.rglob("weight.bin")).write_bytes(b"")
    assert any(not line.passed for line in check(path, artifact, program))
