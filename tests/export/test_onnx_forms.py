"""A layer whose activation shares a range with negative values runs in integers in ONNX, with the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress import quantize
from compress.export import export
from compress.export import onnx as onnx_format
from compress.export.onnx_forms import rounded_before_clamps, with_averages_as_products
from compress.export.program import QUANTIZE, calls, op_name
from compress.graph.trace import export_static, trace
from compress.runtimes import load


class Joined(nn.Module):
    """A clamped layer and values of both signs joined by cat, which gives both one grid."""

    def __init__(self, clamp: str) -> None:
        super().__init__()
        self.clamp, self.left, self.join = clamp, nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(11, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([getattr(F, self.clamp)(self.left(x)), x], 1))


def _program(clamp: str):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    batches = [torch.randn(2, 3, 8, 8) * 4 for _ in range(3)]
    traced = trace(Joined(clamp).eval(), (batches[0],))
    model = quantize.apply(traced, quantize.plan(traced, "w8a8", batches))
    return export_static(model, (batches[0][:1],)), batches[1][:1]


@pytest.mark.parametrize("clamp", ["relu", "relu6"])
def test_rounding_before_the_clamp_changes_no_number(clamp: str) -> None:
    program, x = _program(clamp)
    ready = rounded_before_clamps(program)
    count = [sum(op_name(node) == QUANTIZE for node in calls(p)) for p in (program, ready)]
    assert count[1] == count[0] + 1
    assert torch.equal(ready.module()(x), program.module()(x))


@pytest.mark.parametrize("clamp", ["relu", "relu6"])
def test_the_layer_is_computed_in_integers(clamp: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, x = _program(clamp)
    artifact = export(program, "onnx", "w8a8", tmp_path, "joined")
    assert not [line for line in artifact.float_ops if "Conv" in line]
    answer = load(tmp_path / artifact.path, "onnx").run(x.numpy())[0]
    wanted = program.module()(x).detach().numpy()
    assert np.abs(answer - wanted).max() < 0.05 * np.abs(wanted).max()
    monkeypatch.setattr(onnx_format, "rounded_before_clamps", lambda given: given)
    before = export(program, "onnx", "w8a8", tmp_path, "before")
    assert [line for line in before.float_ops if "Conv" in line], "the rewriting is what does it"


class Averaged(nn.Module):
    """A layer, an average pooling whose last windows reach over the edge, a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.avg_pool2d(self.stem(x), 3, 2, ceil_mode=True))


def test_averages_at_the_edge_are_right_beside_integers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    batches = [torch.randn(1, 3, 8, 8) * 4 for _ in range(3)]
    traced = trace(Averaged().eval(), (batches[0],))
    plain = export_static(traced, (batches[0],))
    assert with_averages_as_products(plain) is plain, "between floats onnxruntime is right"
    model = quantize.apply(traced, quantize.plan(traced, "w8a8", batches))
    program = export_static(model, (batches[0],))
    wanted = program.module()(batches[1]).detach().numpy()

    def error(name: str) -> float:
        artifact = export(program, "onnx", "w8a8", tmp_path, name)
        answer = load(tmp_path / artifact.path, "onnx").run(batches[1].numpy())[0]
        return float(np.abs(answer - wanted).max() / np.abs(wanted).max())

    assert error("ready") < 0.03
    monkeypatch.setattr(onnx_format, "with_averages_as_products", lambda given: given)
    assert error("before") > 0.1, "the rewriting is what does it"
