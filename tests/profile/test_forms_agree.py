"""One network is the same ops in every form that it can be asked in, and costs the same."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress import export
from compress.estimate import read
from compress.graph.trace import export_static
from compress.profile.latency import load_latency_model
from compress.targets import load_target
from compress.types import OpRecord

UNITS = (("pixel-4", "cpu"), ("pixel-4", "gpu"), ("galaxy-s25", "npu"))


class Gated(nn.Module):
    """A mobile image network: squeeze and excitation, gated activations, a shuffle, a norm by itself, explicit pads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.before = nn.BatchNorm2d(32)
        self.pad, self.wide = nn.ZeroPad2d(1), nn.Conv2d(32, 32, 3, groups=32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = nn.functional.hardsigmoid(self.excite(nn.functional.silu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = torch.cat([x * gate, nn.functional.max_pool2d(x, 3, 1, 1)], 1)
        x = torch.relu(self.before(x))
        x = x.view(-1, 2, 16, *x.shape[2:]).transpose(1, 2).reshape(-1, 32, *x.shape[2:])
        x = self.wide(self.pad(x)) + x
        x = nn.functional.interpolate(nn.functional.gelu(x), scale_factor=2.0)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """A vision transformer of one block: queries, keys and values in one layer, as separate heads of 8 features."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 8, 8)
        self.first = nn.Parameter(torch.rand(1, 1, 24))
        self.place = nn.Parameter(torch.rand(1, 17, 24))
        self.norms = nn.ModuleList(nn.LayerNorm(24) for _ in range(2))
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)
        self.mlp = nn.Sequential(nn.Linear(24, 96), nn.GELU(), nn.Linear(96, 24))
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.place
        q, k, v = self.qkv(self.norms[0](x)).reshape(1, 17, 3, 3, 8).permute(2, 0, 3, 1, 4).unbind(0)
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(seen.transpose(1, 2).reshape(1, 17, 24))
        x = x + self.mlp(self.norms[1](x))
        return self.head(x[:, 0])  # type: ignore[no-any-return]


class ChannelsLast(nn.Module):
    """A network that counts an image's channels last for its norm and its layers, and second for its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 24, 4, 4), nn.Conv2d(24, 24, 7, 1, 3, groups=24)
        self.norm, self.up, self.down = nn.LayerNorm(24), nn.Linear(24, 96), nn.Linear(96, 24)
        self.scale = nn.Parameter(torch.rand(24, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        y = self.down(nn.functional.gelu(self.up(y))).permute(0, 3, 1, 2)
        return x + self.scale * y


def seeded(made: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = made()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


def write_onnx(model: nn.Module, given: Tensor, path: Path, dynamo: bool, opset: int) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (given,), str(path), dynamo=dynamo, opset_version=opset, verbose=False)
    return path


def forms_of(model: nn.Module, given: Tensor, folder: Path) -> dict[str, tuple[OpRecord, ...]]:
    """The ops of a model in each form."""
    program = export_static(model, [given])
    torch.export.save(program, folder / "net.pt2")
    paths = [
        folder / "net.pt2",
        write_onnx(model, given, folder / "legacy.onnx", False, 14),
        write_onnx(model, given, folder / "legacy17.onnx", False, 17),
        write_onnx(model, given, folder / "dynamo.onnx", True, 18),
        *(
            folder / export.export(program, format, "float32", folder, "net").path
            for format in ("litert", "executorch")
        ),
    ]
    return {"torch": read(model, [given])[0]} | {path.name: read(path)[0] for path in paths}


def costs(ops: Sequence[OpRecord]) -> list[float]:
    return [load_latency_model(load_target(target), unit).predict(ops, "float32").latency.value or 0.0
            for target, unit in UNITS]  # fmt: skip


@pytest.mark.parametrize(("made", "side"), [(Gated, 64), (Tokens, 32), (ChannelsLast, 64)])
def test_every_form_costs_the_same(made: type[nn.Module], side: int, tmp_path: Path) -> None:
    forms = forms_of(seeded(made), torch.rand(1, 3, side, side), tmp_path)
    stated = costs(forms["torch"])
    macs = {name: sum(op.macs or 0 for op in ops) for name, ops in forms.items()}
    assert len(set(macs.values())) == 1, macs
    for name, ops in forms.items():
        assert not [op.op for op in ops if op.macs is None], name
        assert costs(ops) == pytest.approx(stated, rel=0.02), name


def test_activations_and_norms_are_one_op_however_they_are_written(tmp_path: Path) -> None:
    wanted = {
        Gated: {"hardswish": 1, "silu": 1, "gelu": 1},
        Tokens: {"gelu": 1, "layer_norm": 2, "softmax": 1, "linear": 5, "matmul": 2},
    }
    for made, names in wanted.items():
        for form, ops in forms_of(seeded(made), torch.rand(1, 3, 32, 32), tmp_path).items():
            paid = [op.op.removeprefix("native_") for op in ops if op.kind != "reshape" and not op.fused_into]
            for name, count in names.items():
                assert paid.count(name) == count, (form, name, paid)


def test_an_int8_file_is_charged_no_conversions(tmp_path: Path) -> None:
    from compress import quantize
    from compress.graph.fold import fold_batch_norms
    from compress.graph.trace import trace

    model = seeded(Gated)
    folded = fold_batch_norms(trace(model, [torch.rand(1, 3, 32, 32)]))
    plan = quantize.plan(folded, "w8a8", [(torch.rand(2, 3, 32, 32),)])
    program = export_static(quantize.apply(folded, plan), [torch.rand(1, 3, 32, 32)])
    whole = read(model, [torch.rand(1, 3, 32, 32)])[0]
    for format in ("onnx", "litert"):
        ops = read(tmp_path / export.export(program, format, "w8a8", tmp_path, "net").path)[0]
        assert [op.macs for op in ops if op.macs] == [op.macs for op in whole if op.macs], format
        paid = [op.op for op in ops if op.kind != "reshape" and not op.fused_into]
        assert not [name for name in paid if "quant" in name], format
        assert costs(ops) == pytest.approx(costs(whole), rel=0.05), (format, paid)
