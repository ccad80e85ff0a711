"""Each format, float and int8: the file runs in its real runtime and gives the program's numbers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import compress.export as room
from compress.errors import ModelError, RunFolderError, ToolError, ToolMissing, UnknownName, UnsupportedOp
from compress.files import files_under, sha256_of
from compress.runtimes import available
from compress.types import Artifact
from compress.verify import Verification, verify_artifact
from tests.export.programs import float_program, int8_program, reference, samples, traced

FORMATS = tuple(room.EXPORTERS)
RUNNABLE = ("onnx", "litert", "executorch")


def need(format: str) -> None:
    reason = room.available(format)
    if reason:
        pytest.skip(reason)


def exported(format: str, scheme: str, folder: Path, kind: str = "net") -> tuple[Artifact, Verification]:
    need(format)
    program = int8_program(kind) if scheme == "w8a8" else float_program(norm=True)
    artifact = room.export(program, format, scheme, folder, "net")
    return artifact, verify_artifact(artifact, folder, reference(program), samples(), program=program)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("format", FORMATS)
def test_artifact_computes_what_the_program_computes(format: str, scheme: str, tmp_path: Path) -> None:
    artifact, found = exported(format, scheme, tmp_path)
    path = tmp_path / artifact.path
    assert artifact.path == path.name and path.stem == "net"
    assert artifact.sha256 == sha256_of(path)
    assert artifact.size_bytes == sum(file.stat().st_size for file in files_under(path)) > 2000
    assert artifact.input_shapes == ((1, 3, 16, 16),)
    assert artifact.float_ops == ()
    assert Artifact.from_dict(json.loads(json.dumps(artifact.to_dict()))) == artifact
    assert found.passed, found.reason
    limit = 1e-5 if scheme == "float32" else 0.02  # int8: a rounding or two of the 255 steps that go the other way
    assert found.max_relative_error is not None and found.max_relative_error < limit
    assert found.sqnr_db is not None and found.sqnr_db > (100.0 if scheme == "float32" else 35.0)
    if available(format) is not None:
        assert "not Core ML itself" in found.ran_on
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("format", FORMATS)
def test_int8_concat_pools_and_upsampling(format: str, tmp_path: Path) -> None:
    artifact, found = exported(format, "w8a8", tmp_path, "branches")
    assert found.passed, found.reason
    if format == "executorch":
        assert any("upsample_nearest2d" in line for line in artifact.float_ops)  # XNNPACK has no such kernel
    if format == "litert":
        assert artifact.float_ops == ()
    if format in RUNNABLE:
        assert found.sqnr_db is not None and found.sqnr_db > 30.0


class Mixed(nn.Module):
    """The layers of generators: transposed convolution, instance and group norm, pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.ConvTranspose2d(8, 8, 4, 2, 1),
            nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("format", FORMATS)
def test_generator_layers_in_float(format: str, tmp_path: Path) -> None:
    need(format)
    torch.manual_seed(0)
    program = traced(Mixed())
    artifact = room.export(program, format, "float32", tmp_path, "mixed")
    found = verify_artifact(artifact, tmp_path, reference(program), samples(), program=program)
    assert found.passed, found.reason
    if format == "executorch":
        assert any("native_group_norm at layers.4" in note for note in artifact.notes)


@pytest.mark.parametrize("format", ["onnx", "coreml"])
def test_writing_again_replaces_the_file_and_gives_the_same_bytes(format: str, tmp_path: Path) -> None:
    need(format)
    first = room.export(int8_program(), format, "w8a8", tmp_path, "net")
    between = room.export(float_program(), format, "float32", tmp_path, "net")
    again = room.export(int8_program(), format, "w8a8", tmp_path, "net")
    assert first.sha256 == again.sha256 == sha256_of(tmp_path / again.path)
    assert first.sha256 != between.sha256
    assert list(tmp_path.iterdir()) == [tmp_path / again.path]


class Determinant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.det(x @ x.transpose(-1, -2))


class Digamma(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.digamma(x.abs() + 1.0)


def with_head(head: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), head)


@pytest.mark.parametrize("format", FORMATS)
def test_an_op_the_format_cannot_take_is_named_with_its_place(format: str, tmp_path: Path) -> None:
    need(format)
    with pytest.raises(UnsupportedOp) as caught:
        room.export(traced(with_head(Digamma())), format, "float32", tmp_path, "bad")
    assert "digamma" in caught.value.op
    assert (caught.value.where, caught.value.format) == ("1", format)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_other_formats_still_come_out(tmp_path: Path) -> None:
    need("onnx")
    program = traced(with_head(Determinant()))
    refused = {}
    for format in FORMATS:
        need(format)
        try:
            room.export(program, format, "float32", tmp_path, "det")
        except UnsupportedOp as error:
            refused[format] = (error.op, error.where)
    assert set(refused) == {"litert", "executorch", "coreml"}
    assert all("det" in op and where == "1" for op, where in refused.values())
    assert [path.name for path in tmp_path.iterdir()] == ["det.onnx"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_tool_says_what_to_install(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    reason = room.available(format)
    assert reason is not None and "pip install" in reason and room.TOOLS[format][1] in reason
    with pytest.raises(ToolMissing):
        room.export(None, format, "float32", tmp_path, "net")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("crash", [RuntimeError("first line\nsecond line"), KeyError("k"), AssertionError()])
def test_an_exporter_that_crashes_leaves_one_line_and_no_file(
    crash: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.export import onnx

    def write(program: object, scheme: str, path: Path) -> dict[str, object]:
        path.write_bytes(b"half a file")
        raise crash

    monkeypatch.setattr(onnx, "write", write)
    (tmp_path / "net.onnx").write_bytes(b"the previous one")
    with pytest.raises(ToolError) as caught:
        room.export(float_program(), "onnx", "float32", tmp_path, "net")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("onnx")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the previous one"]


def test_a_full_disk_is_a_run_folder_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.export import onnx

    def write(program: object, scheme: str, path: Path) -> dict[str, object]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "write", write)
    with pytest.raises(RunFolderError, match="No space left"):
        room.export(float_program(), "onnx", "float32", tmp_path, "net")
    assert list(tmp_path.iterdir()) == []


def test_scheme_and_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no quantize ops"):
        room.export(float_program(), "onnx", "w8a8", tmp_path, "net")
    with pytest.raises(ModelError, match="holds quantize ops"):
        room.export(int8_program(), "onnx", "float32", tmp_path, "net")
    with pytest.raises(UnknownName, match="onnx"):
        room.export(float_program(), "onx", "float32", tmp_path, "net")


def test_onnx_int8_runs_on_integer_kernels(tmp_path: Path) -> None:
    import onnx

    need("onnx")
    artifact = room.export(int8_program(), "onnx", "w8a8", tmp_path, "net")
    model = onnx.load(str(tmp_path / artifact.path))
    kinds = {entry.name: entry.data_type for entry in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    makers = {name: node for node in model.graph.node for name in node.output}
    assert len(convs) == 4
    for conv in convs:
        weight, activation = makers[conv.input[1]], makers[conv.input[0]]
        assert kinds[weight.input[0]] == onnx.TensorProto.INT8
        assert kinds[activation.input[2]] == onnx.TensorProto.UINT8
    assert not any(node.op_type == "ReduceMean" for node in model.graph.node)
