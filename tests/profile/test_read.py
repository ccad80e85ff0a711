"""Every reader sees the same ops: a torch model, its exported program, its ONNX, LiteRT and ExecuTorch files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from compress import export, quantize
from compress.errors import InputError, ModelError
from compress.estimate import read
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import export_static, trace
from compress.profile.latency import load_latency_model
from compress.profile.read.executorch_file import read_executorch
from compress.profile.read.litert_file import read_litert
from compress.profile.read.onnx_file import read_onnx
from compress.profile.read.program import read_model, read_program, read_running
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
    whole, parts = ([(op.kind, op.macs, op.input_shapes, op.output_shape) for op in ops if op.kind != "reshape"]
                    for ops in (fused, written))  # fmt: skip
    assert whole == parts


def paid(ops: tuple[OpRecord, ...]) -> list[str]:
    return [op.op for op in ops if op.kind != "reshape" and not op.fused_into]


def test_what_is_known_beforehand_costs_nothing_and_what_is_written_into_is_not_known() -> None:
    class Places(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            steps = torch.arange(8, dtype=torch.float32)
            return x + torch.outer(steps, steps).sin() * torch.ones_like(x)

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            room = x.new_zeros(1, 4, 8, 8)
            room[:, :3] = x
            return self.layer(room)  # type: ignore[no-any-return]

    assert paid(read_model(Places(), [torch.zeros(8, 8)])) == ["add"]
    for reader in (read_model, read_running):
        (op,) = (op for op in reader(Padded(), [torch.zeros(1, 3, 8, 8)]) if op.macs)
        assert op.input_shapes == ((1, 4, 8, 8),)


def test_what_is_computed_twice_or_changes_nothing_runs_once_or_never() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = 0 + torch.tanh(x)
            return total * 1.0 + torch.tanh(x) / 2

    assert paid(read_model(Twice(), [torch.zeros(1, 8)])) == ["tanh", "div", "add"]


def test_an_op_that_torch_spells_out_is_what_it_consists_of() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = nn.LSTM(4, 8, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.steps(x)
            return torch.einsum("bij,bkj->bik", y, y)

    ops = read_model(Recurrent(), [torch.zeros(1, 5, 4)])
    assert not [op.op for op in ops if op.macs is None]
    assert sum(op.macs or 0 for op in ops) == 32 * (5 * 4 + 4 * 8) + 5 * 5 * 8, "the first state is zero"
    assert sum(op.kind == "matmul" for op in ops) == 1


def test_a_roll_is_the_slices_that_exporters_write() -> None:
    class Rolls(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.roll(x, (-3, 2), (1, 2))

    ops = read_model(Rolls(), [torch.zeros(1, 14, 7, 4)])
    assert [op.op for op in ops] == ["slice", "slice", "cat"] * 2
    assert {op.output_shape for op in ops if op.op == "slice"} == {
        (1, 3, 7, 4),
        (1, 11, 7, 4),
        (1, 14, 2, 4),
        (1, 14, 5, 4),
    }


def test_parts_under_other_settings_are_read_and_unknown_ops_named() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.first(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                x = self.second(x)
            return torch.topk(x.flatten(), 4)[0]

    ops = read_model(Mixed(), [torch.zeros(1, 3, 8, 8)])
    assert [op.op for op in ops if op.kind != "reshape"] == ["conv2d", "conv2d", "topk"]
    predicted = load_latency_model(load_target("pixel-4"), "cpu").predict(ops, "float32")
    assert predicted.uncovered == (ops[-1].name,)


class Decides(nn.Module):
    """A network whose Python looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return torch.relu(x) if x.sum().item() > -1e9 else torch.tanh(x)


def test_a_model_that_cannot_be_traced_is_read_as_it_runs() -> None:
    with pytest.raises(ModelError, match="cannot trace"):
        read_model(Decides(), [torch.zeros(INPUT)])
    ops, notes = read(Decides(), [torch.zeros(INPUT)])
    names = paid(ops)
    assert "convolution" in names and "relu" in names and "tanh" not in names, "it went one way"
    assert len(notes) == 1 and "as it runs on the example inputs" in notes[0] and "cannot trace" in notes[0]
    with pytest.raises(ModelError, match="fails on its example inputs"):
        read(Decides(), [torch.zeros(1, 5, 8, 8)])


def test_running_and_tracing_read_the_same(net: nn.Module) -> None:
    given = [torch.zeros(INPUT)]
    assert layers(read_running(net, given)) == layers(read_model(net, given))
    for target, unit in (("pixel-4", "cpu"), ("galaxy-s25", "npu")):
        running, traced = (latency_ms(reader(net, given), target, unit) for reader in (read_running, read_model))
        assert running == pytest.approx(traced, rel=1e-6)


def test_free_sizes_of_a_program_are_one_image_or_what_is_asked_for(net: nn.Module, tmp_path: Path) -> None:
    batch, side = torch.export.Dim("batch"), torch.export.Dim("side", min=8, max=512)
    for name, free in (("batch", {0: batch}), ("side", {0: batch, 2: side})):
        program = torch.export.export(net.stem, (torch.rand(2, 3, 32, 32),), dynamic_shapes=(free,))  # type: ignore[arg-type]
        torch.export.save(program, tmp_path / f"{name}.pt2")
    ops, notes = read(tmp_path / "batch.pt2")
    assert layers(ops) == layers(read_model(net.stem, [torch.zeros(INPUT)]))  # type: ignore[arg-type]
    assert len(notes) == 1 and "batch size of input" in notes[0]
    with pytest.raises(InputError, match=r"side.pt2: input '.*' has free sizes .* --input"):
        read(tmp_path / "side.pt2")
    ops, notes = read(tmp_path / "side.pt2", ["1x3x64x32"])
    assert ops[0].output_shape == (1, 16, 32, 16) and not notes


def test_shapes_that_a_file_fixes_are_not_changed(net: nn.Module, tmp_path: Path) -> None:
    program = export_static(net, [torch.zeros(INPUT)])
    path = tmp_path / export.export(program, "litert", "float32", tmp_path, "net").path
    ops, notes = read(path, ["1x3x64x64"])
    assert ops == read(path)[0] and len(notes) == 1 and "--input is ignored" in notes[0]
    path = tmp_path / export.export(program, "onnx", "float32", tmp_path, "net").path
    with pytest.raises(InputError, match=r"--input 1x3x64x64: input '.*' of the model is 1x3x32x32"):
        read(path, ["1x3x64x64"])


@pytest.mark.parametrize("format", ["onnx", "litert", "executorch", "pt2"])
def test_a_file_that_is_cut_short_is_refused_in_one_line(net: nn.Module, format: str, tmp_path: Path) -> None:
    program = export_static(net, [torch.zeros(INPUT)])
    path = tmp_path / "net.pt2"
    if format == "pt2":
        torch.export.save(program, path)
    else:
        path = tmp_path / export.export(program, format, "float32", tmp_path, "net").path
    content = path.read_bytes()
    for size in (0, len(content) // 3, len(content) - 8):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match=f"{path.name}: ") as raised:
            read(path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("reader", [read_onnx, read_litert, read_executorch])
def test_a_file_of_something_else_is_refused(reader: object, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"# a text, and no model at all\n" * 40)
    with pytest.raises(InputError, match="that can be read"):
        reader(path)  # type: ignore[operator]
