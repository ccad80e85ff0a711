"""Planted faults are found and located in real artifacts; a right artifact gives no suspect."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest

from compress import runtimes
from compress.export import available as can_export
from compress.export import export
from compress.types import Artifact
from compress.verify import Verdict, bisect, explain
from tests.verify import planted

FORMATS = ("onnx", "litert", "executorch", "coreml")


def need(format: str) -> None:
    reason = can_export(format) or (None if format == "coreml" else runtimes.available(format))
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


_WRITTEN: dict[tuple[str, str], Artifact] = {}


def written(format: str, scheme: str, folder: Path) -> Path:
    """The right artifact of the float net, or of the int8 one, exported once."""
    need(format)
    if (format, scheme) not in _WRITTEN:
        made = planted.program() if scheme == "float32" else planted.int8_program()
        _WRITTEN[format, scheme] = export(made, format, scheme, folder, f"right-{scheme}")
    return folder / _WRITTEN[format, scheme].path


def in_float(path: Path, format: str) -> Verdict:
    return bisect(planted.reference(), path, format, "float32", planted.sample())


def in_int8(path: Path, format: str) -> Verdict:
    return bisect(planted.int8_reference(), path, format, "w8a8", planted.sample(planted.INT8_SHAPE))


@pytest.mark.parametrize("format", FORMATS)
def test_a_right_artifact_gives_no_suspect(format: str, folder: Path) -> None:
    for scheme, look in (("float32", in_float), ("w8a8", in_int8)):
        found = look(written(format, scheme, folder), format)
        assert found.suspect is None and "no op diverges" in found.words
        assert found.compared == found.agreeing >= 6


def faulty(format: str, fault: str, folder: Path, tmp_path: Path) -> Path:
    """A float artifact with a fault: the file edited where that is possible, else a faulty graph exported."""
    right = written(format, "float32", folder)
    path = tmp_path / right.name
    if format == "onnx" or (format, fault) == ("litert", "clamp"):
        shutil.copy(right, path)
        planted.plant_in_onnx(path, fault) if format == "onnx" else planted.unclamp_tflite(path)
        return path
    return tmp_path / export(planted.program(fault), format, "float32", tmp_path, "faulty").path


@pytest.mark.parametrize("fault", planted.GRAPH_FAULTS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_planted_fault_is_located(format: str, fault: str, folder: Path, tmp_path: Path) -> None:
    found = in_float(faulty(format, fault, folder, tmp_path), format)
    suspect = found.suspect
    assert suspect is not None and suspect.where == planted.GRAPH_FAULTS[fault], found.words
    assert all(entry.sqnr_db is not None and entry.sqnr_db > 80.0 for entry in suspect.inputs)
    assert suspect.sqnr_db is not None and suspect.sqnr_db < 60.0
    assert suspect.rest == 0  # what lies behind it is right, and the verdict knows it
    assert suspect.dropped == (fault == "clamp")
    assert suspect.where in found.words and suspect.node in found.words
    json.dumps(found.to_dict(), allow_nan=False)
    if fault == "swap":
        assert suspect.inputs[0].layout == "channels last"


def stale(format: str, folder: Path, tmp_path: Path) -> tuple[Path, str]:
    """(an int8 artifact with a stale scale, the module it belongs to)."""
    if format in ("executorch", "coreml"):
        need(format)
        wrong = copy.deepcopy(planted.int8_program())
        wrong.state_dict["block.pointwise.weight_scale"].data.mul_(4.0)
        return tmp_path / export(wrong, format, "w8a8", tmp_path, "stale").path, "block.pointwise"
    right = written(format, "w8a8", folder)
    path = tmp_path / right.name
    shutil.copy(right, path)
    if format == "onnx":
        planted.stale_onnx_scale(path, "block.pointwise")
        return path, "block.pointwise"
    planted.stale_tflite_scale(path, 1, 0.4)  # half of the range is cut off
    return path, "block.depthwise"


@pytest.mark.parametrize("format", FORMATS)
def test_a_stale_scale_is_located(format: str, folder: Path, tmp_path: Path) -> None:
    path, where = stale(format, folder, tmp_path)
    found = in_int8(path, format)
    assert found.suspect is not None, found.words
    places = (found.suspect.where, *(entry.rsplit(" ", 1)[-1] for entry in found.suspect.fused))
    assert where in places, found.words
    assert found.suspect.rest == 0


def test_a_wrong_weight_is_told_from_a_wrong_op(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.onnx"
    shutil.copy(written("onnx", "w8a8", folder), path)
    planted.stale_onnx_weight(path, "block.pointwise")
    suspect = in_int8(path, "onnx").suspect
    assert suspect is not None and suspect.where == "block.pointwise"
    weights = [entry for entry in suspect.inputs if entry.layout == "a weight"]
    assert [entry.sqnr_db for entry in weights] == [None]


def test_two_faults_the_first_is_named_and_the_rest_counted(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    shutil.copy(written("onnx", "float32", folder), path)
    for fault in ("eps", "swap"):
        planted.plant_in_onnx(path, fault)
    suspect = in_float(path, "onnx").suspect
    assert suspect is not None and suspect.where == "norm" and suspect.rest


def test_a_file_that_cannot_be_looked_into_is_said(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(written("onnx", "float32", folder).read_bytes()[:400])
    found = explain(planted.reference(), path, "onnx", "float32", planted.sample())
    assert found.suspect is None and found.compared == 0 and "could not be looked for" in found.words
    assert "\n" not in found.words


@pytest.mark.parametrize("format", FORMATS)
def test_reading_the_tensors_out_changes_no_output(format: str, folder: Path) -> None:
    path = written(format, "w8a8", folder)
    inputs = planted.sample(planted.INT8_SHAPE)
    session = runtimes.load_to_check(path, format)
    output = session.run(*inputs)[0]
    session.close()
    inside = [tensor.value for tensor in runtimes.intermediates(path, format, inputs) if not tensor.constant]
    same = [value for value in inside if value.size == output.size and abs(value.ravel() - output.ravel()).max() < 0.1]
    assert len(inside) > 8 and same
