"""Every reader sees the same ops: a torch model, its exported program, its ONNX, LiteRT and ExecuTorch files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from compress import export, quantize
from compress.errors import InputError, ModelError
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import export_static, trace
from compress.profile.latency import load_latency_model
from compress.profile.read.executorch_file import read_executorch
from compress.profile.read.litert_file import read_litert
from compress.profile.read.onnx_file import read_onnx
from compress.profile.read.program import read_model, read_program
from compress.targets import load_target
from compress.types import OpRecord

INPUT = (1, 3, 32, 32)


class Net(nn.Module):
    """One of each: strided, depthwise, dilated, grouped and transposed convolutions, a residual, SiLU, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.ReLU6())
        self.dilated = nn.Conv2d(16, 16, 3, 1, 2, dilation=2)
        self.grouped = nn.Conv2d(16, 32, 3, 1, 1, groups=4)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.depthwise(x)
        x = nn.functional.silu(self.dilated(x))
        return self.head(self.up(self.grouped(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def layers(ops: tuple[OpRecord, ...]) -> list[tuple[object, ...]]:
    """What the layers are, without their names."""
    return [(op.kind, op.macs, op.channels, op.kernel, op.groups, op.dilation) for op in ops if op.macs]


def latency_ms(ops: tuple[OpRecord, ...], target: str, unit: str) -> float:
    return load_latency_model(load_target(target), unit).predict(ops, "float32").latency.value or 0.0


def test_a_torch_model_is_read_as_its_layers(net: nn.Module) -> None:
    ops = read_model(net, [torch.zeros(INPUT)])
    assert layers(ops) == [
        ("conv", 16 * 16 * 16 * 27, (3, 16), (3, 3), 1, 1),
        ("depthwise_conv", 16 * 16 * 16 * 9, (16, 16), (3, 3), 16, 1),
        ("conv", 16 * 16 * 16 * 16 * 9, (16, 16), (3, 3), 1, 2),
        ("grouped_conv", 16 * 16 * 32 * 4 * 9, (16, 32), (3, 3), 4, 1),
        ("conv_transpose", 16 * 16 * 32 * 16 * 4, (32, 16), (2, 2), 1, 1),
        ("linear", 160, (16, 10), (), 1, 1),
    ]
    by_op = {op.op: op for op in ops}
    assert by_op["batch_norm"].fused_into and by_op["relu"].fused_into, "both run inside the stem's kernel"
    assert (by_op["silu"].kind, by_op["mean"].kind, by_op["add"].kind) == ("activation", "reduce", "elementwise")
    assert not by_op["silu"].fused_into and not by_op["add"].fused_into


def test_all_readers_agree(net: nn.Module, tmp_path: Path) -> None:
    program = export_static(net, [torch.zeros(INPUT)])
    torch.export.save(program, tmp_path / "net.pt2")
    formats = ("onnx", "litert", "executorch")
    onnx, litert, pte = (export.export(program, format, "float32", tmp_path, "net").path for format in formats)
    read = {
        "torch": read_model(net, [torch.zeros(INPUT)]),
        "program": read_program(torch.export.load(tmp_path / "net.pt2")),
        "onnx": read_onnx(tmp_path / onnx),
        "litert": read_litert(tmp_path / litert),
        "executorch": read_executorch(tmp_path / pte),
    }
    macs = {name: sum(op.macs or 0 for op in ops) for name, ops in read.items()}
    assert len(set(macs.values())) == 1, macs
    assert layers(read["onnx"]) == layers(read["program"]) == layers(read["torch"])
    for target, unit in (("pixel-4", "cpu"), ("galaxy-s25", "npu")):
        times = {name: latency_ms(ops, target, unit) for name, ops in read.items()}
        assert times["onnx"] == pytest.approx(times["torch"], rel=0.05), times
        assert times["litert"] == pytest.approx(times["torch"], rel=0.15), "its converter writes a few ops more"
        assert times["executorch"] == pytest.approx(times["torch"], rel=0.15), times


def test_a_quantized_file_has_the_ops_of_its_float_one(net: nn.Module, tmp_path: Path) -> None:
    folded = fold_batch_norms(trace(net, [torch.zeros(INPUT)]))
    plan = quantize.plan(folded, "w8a8", [(torch.rand(2, *INPUT[1:]),)])
    program = export_static(quantize.apply(folded, plan), [torch.zeros(INPUT)])
    whole = layers(read_model(net, [torch.zeros(INPUT)]))
    assert layers(read_onnx(tmp_path / export.export(program, "onnx", "w8a8", tmp_path, "net").path)) == whole
    assert layers(read_program(program)) == whole
    names = {op.op for op in read_program(program)}
    assert not any("quantize" in name for name in names), names


def test_weights_that_are_computed_from_parameters_cost_nothing() -> None:
    plain, normed = nn.Conv2d(4, 8, 3), weight_norm(nn.Conv2d(4, 8, 3))
    ops = read_model(normed, [torch.zeros(1, 4, 8, 8)])
    assert [op.kind for op in ops] == ["conv"]
    assert layers(ops) == layers(read_model(plain, [torch.zeros(1, 4, 8, 8)]))


def test_attention_is_the_same_written_out_and_fused() -> None:
    class Written(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return torch.softmax(q * 0.25 @ k.transpose(-2, -1), -1) @ v

    class Fused(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(q, k, v)

    inputs = [torch.zeros(1, 4, 64, 16)] * 3
    written, fused = (read_model(model(), inputs) for model in (Written, Fused))
    assert sum(op.macs or 0 for op in written) == sum(op.macs or 0 for op in fused) == 2 * 4 * 64 * 64 * 16
    # The written form moves the keys once more to transpose them.
    assert latency_ms(written, "galaxy-s25", "npu") == pytest.approx(latency_ms(fused, "galaxy-s25", "npu"), rel=0.1)


@pytest.mark.parametrize("reader", [read_onnx, read_litert, read_executorch])
def test_a_file_of_something_else_is_refused(reader: object, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"# a text, and no model at all\n" * 40)
    with pytest.raises(InputError, match="that can be read"):
        reader(path)  # type: ignore[operator]


def test_a_model_that_cannot_be_traced_is_named() -> None:
    class Decides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(ModelError, match="cannot trace"):
        read_model(Decides(), [torch.zeros(1, 4)])
