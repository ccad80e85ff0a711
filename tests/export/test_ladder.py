"""One file for all rungs of a ladder: each computes what its own file does, and the weights are stored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress import export, runtimes
from compress.errors import ModelError
from compress.export.ladder import write_ladder
from compress.graph.trace import export_static, trace
from compress.search.ladder import Ladder


class Small(nn.Module):
    """A generator with a norm of each kind, a transposed convolution and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.InstanceNorm2d(32, affine=True)
        self.inner, self.batch = nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.up, self.last = nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return torch.tanh(self.last(self.up(x + self.batch(self.inner(x))).relu()))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """The ladder's file, and those of its rungs alone; the norms differ from rung to rung, as after a training."""
    torch.manual_seed(0)
    folder, x = tmp_path_factory.mktemp("ladder"), (torch.randn(1, 3, 12, 12),)
    ladder = Ladder(trace(Small(), x), x, (0.25, 0.5, 1.0))
    for tensor in ladder.own.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    files = []
    for number in range(3):
        program = export_static(ladder.physical(number), x)
        files.append(folder / export.export(program, "onnx", "float32", folder, f"rung-{number}").path)
    write_ladder(files, folder / "ladder.onnx")
    return folder / "ladder.onnx", files


def run(path: Path, x: np.ndarray, rung: int | None = None) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: x}
    feeds |= {} if rung is None else {"rung": np.array(rung, np.int64)}
    return np.asarray(session.run(None, feeds)[0])


def test_each_rung_equals_its_own_file(written: tuple[Path, list[Path]]) -> None:
    ladder, files = written
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    alone = [run(file, x) for file in files]
    for number, wanted in enumerate(alone):
        assert np.abs(run(ladder, x, number) - wanted).max() <= 1e-6
    assert np.abs(alone[0] - alone[1]).max() > 1e-3 and np.abs(alone[1] - alone[2]).max() > 1e-3


def test_the_weights_are_stored_once(written: tuple[Path, list[Path]]) -> None:
    ladder, files = written
    sizes = [file.stat().st_size for file in files]
    assert ladder.stat().st_size < sum(sizes) and sizes[0] < sizes[1] < sizes[2]
    import onnx

    held = sum(np.prod(t.dims) for t in onnx.load(str(ladder)).graph.initializer)
    own = [
        sum(np.prod(t.dims) for t in attribute.g.initializer)
        for node in onnx.load(str(ladder)).graph.node
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.GRAPH
    ]
    alone = sum(np.prod(t.dims) for t in onnx.load(str(files[2])).graph.initializer)
    assert held == alone and sum(own) < 0.05 * alone


def test_other_networks_make_no_ladder(written: tuple[Path, list[Path]], tmp_path: Path) -> None:
    _, files = written
    x = (torch.randn(1, 3, 8, 8),)
    other = export.export(export_static(trace(Small(), x), x), "onnx", "float32", tmp_path, "other")
    with pytest.raises(ModelError, match="differ in names or shapes"):
        write_ladder([files[0], tmp_path / other.path], tmp_path / "ladder.onnx")
    with pytest.raises(ModelError, match="at least two rungs"):
        write_ladder(files[:1], tmp_path / "ladder.onnx")
    assert not (tmp_path / "ladder.onnx").exists() and runtimes.available("onnx") is None
