"""One test for each known defect of the tools underneath: what went wrong there must not come out of here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress import quantize
from compress.conformance import run
from compress.conformance.case import SIGNAL
from compress.conformance.cases import CASES
from compress.conformance.run import prepare
from compress.export import available, export
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import export_static, trace

FORMATS = ("onnx", "litert", "executorch", "coreml")


def need(format: str) -> None:
    reason = available(format)
    if reason:
        pytest.skip(reason)


def sqnr_db(wanted: torch.Tensor, given: torch.Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - given).square().sum()))


def quantized(model: nn.Module, inputs: list[tuple[torch.Tensor, ...]]) -> torch.fx.GraphModule:
    folded = fold_batch_norms(trace(model, inputs[0]))
    return quantize.apply(folded, quantize.plan(folded, "w8a8", inputs))


# pytorch#54816, pytorch#47535: no per-channel observer for transposed convolutions; with groups, the wrong axis


@pytest.mark.parametrize("groups", [1, 4], ids=["plain", "grouped"])
def test_transposed_convolution_per_channel_pytorch_54816(groups: int) -> None:
    """Channels of like size lose no more than eight bits do, whichever axis of the weight holds them."""
    torch.manual_seed(0)
    model = nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1, groups=groups).eval()
    inputs = [(torch.randn(1, 8, 6, 6),) for _ in range(4)]
    with torch.no_grad():
        wanted, given = model(*inputs[0]), quantized(model, inputs)(*inputs[0])
    assert sqnr_db(wanted, given) > 35.0


def test_a_small_output_channel_of_a_transposed_convolution_has_its_own_scale_pytorch_54816() -> None:
    """A channel a hundredth of the others' size would round to nothing under one scale for the whole weight."""
    torch.manual_seed(0)
    model = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1, bias=False).eval()
    with torch.no_grad():
        model.weight[:, 2] *= 0.01
    folded = trace(model, [torch.randn(1, 8, 6, 6)])
    plan = quantize.plan(folded, "w8a8", [(torch.randn(1, 8, 6, 6),)])
    (axis, scales) = next(iter(plan.weights.values()))
    assert axis == 1 and len(scales) == 6
    assert scales[2] < 0.02 * max(scales)


# pytorch#180995: batch norm folded into a transposed convolution with groups, along the wrong axis


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_batch_norm_behind_a_grouped_transposed_convolution_folds_pytorch_180995(dims: int, groups: int) -> None:
    torch.manual_seed(0)
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1](4, 8, 3, 2, 1, groups=groups)
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](8)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.2, 3.0)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    model, x = nn.Sequential(layer, norm).eval(), torch.randn(2, 4, *[5] * dims)
    folded = fold_batch_norms(trace(model, [x]))
    assert not any(isinstance(part, type(norm)) for part in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)


# torchao#4107: eps and momentum of a batch norm written anew as 1e-5 and 0.1 when quantization-aware training folds it


def test_batch_norm_keeps_its_eps_and_momentum_torchao_4107() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-2, momentum=0.3), nn.ReLU())
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        model[0].weight.mul_(0.05)
        model[1].running_var.fill_(0.005)  # small beside eps: eps decides
        traced = trace(model, [x[:1]])
        norm = next(part for part in traced.modules() if isinstance(part, nn.BatchNorm2d))
        assert (norm.eps, norm.momentum) == (1e-2, 0.3)
        folded = fold_batch_norms(traced)
        torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-5, atol=1e-6)
        other = nn.BatchNorm2d(8, eps=1e-5).eval()
        other.load_state_dict(norm.state_dict())
        assert (other(model[0](x)).relu() - model(x)).abs().max() > 0.1  # with the default it would be far off


def test_training_through_the_trace_moves_the_statistics_at_the_norms_own_pace_torchao_4107() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.3))
    x = torch.randn(4, 3, 8, 8)
    traced = trace(model, [x[:1]])
    norm = next(part for part in traced.modules() if isinstance(part, nn.BatchNorm2d))
    with torch.no_grad():
        batch_mean = model[0](x).mean((0, 2, 3))
        traced.train()(x)
    torch.testing.assert_close(norm.running_mean, 0.3 * batch_mean)


# ExecuTorch leaves a per-channel dequantize op without a kernel behind a transposed convolution that XNNPACK refuses


@pytest.mark.parametrize("name", ["conv_transpose2d", "conv_transpose2d_dilated", "conv_transpose2d_grouped"])
def test_a_transposed_convolution_runs_in_executorch_whoever_takes_it(name: str) -> None:
    need("executorch")
    found = run(name, "w8a8", "executorch")
    assert found.verdict in ("pass", "fell back"), found.reason
    assert found.sqnr_db is not None and found.sqnr_db > 30.0


# LiteRT keeps a depthwise weight as (1, height, width, channels): one scale per channel lies on its last axis


def test_a_depthwise_weight_has_a_scale_per_channel_in_litert(tmp_path: Path) -> None:
    need("litert")
    from compress.export import tflite

    prepared = prepare(CASES["conv2d_depthwise"], "w8a8")
    artifact = export(prepared.program, "litert", "w8a8", tmp_path, "depthwise")
    model: Any = tflite.read((tmp_path / artifact.path).read_bytes())
    tensors = model.subgraphs[0].tensors
    weights = [tensor for tensor in tensors if list(tensor.shape) == [1, 3, 3, 8]]
    (scales,) = [tensor.quantization.scale for tensor in weights if tensor.quantization is not None]
    assert len(scales) == 8 and len(set(np.asarray(scales).tolist())) > 1
    assert next(tensor.quantization.quantizedDimension for tensor in weights) == 3
    assert run("conv2d_depthwise", "w8a8", "litert").verdict == "pass"


# coremltools#785, #1051: instance norm not converted, or converted to other numbers


@pytest.mark.parametrize("name", ["instance_norm2d", "instance_norm2d_affine", "instance_norm1d"])
def test_instance_norm_becomes_core_mls_with_its_eps_coremltools_785(name: str, tmp_path: Path) -> None:
    need("coreml")
    import coremltools as ct

    from compress.export.coreml import op_counts_of

    prepared = prepare(CASES[name], "float32")
    artifact = export(prepared.program, "coreml", "float32", tmp_path, "norm")
    spec = ct.utils.load_spec(str(tmp_path / artifact.path))
    assert op_counts_of(spec)["instance_norm"] == 1
    module = next(
        part for part in CASES[name].module().modules() if isinstance(part, nn.modules.instancenorm._NormBase)
    )
    assert f"{np.float32(module.eps):.4g}" in {f"{value:.4g}" for value in constants(spec)}
    assert run(name, "float32", "coreml").verdict == "pass"


def constants(spec: Any) -> list[float]:
    """Every single float32 number in a Core ML program."""
    blocks = [block for f in spec.mlProgram.functions.values() for block in f.block_specializations.values()]
    values = [op.attributes["val"].immediateValue.tensor for b in blocks for op in b.operations if op.type == "const"]
    return [float(value.floats.values[0]) for value in values if len(value.floats.values) == 1]


# coremltools#2777: a converter that divides weights in place, and leaves the op it then skips with the divided ones


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("format", FORMATS)
def test_writing_a_file_leaves_the_programs_weights_alone_coremltools_2777(
    format: str, scheme: str, tmp_path: Path
) -> None:
    need(format)
    prepared = prepare(CASES["conv2d_relu"], scheme)
    held = {**prepared.program.state_dict, **prepared.program.constants}
    before = {name: value.clone() for name, value in held.items()}
    wanted = prepared.reference(*prepared.samples[0])
    export(prepared.program, format, scheme, tmp_path, "net")
    assert all(torch.equal(before[name], value) for name, value in held.items())
    assert np.array_equal(prepared.reference(*prepared.samples[0]), wanted)


# executorch#3946: weight norm on a vocoder's transposed convolutions cannot be exported


@pytest.mark.parametrize("style", ["parametrization", "hook"])
def test_weight_norm_of_a_vocoder_is_traced_executorch_3946(style: str) -> None:
    """Both ways torch offers; the older one sets an attribute in a hook, which is what stopped the export."""
    torch.manual_seed(0)
    normed = nn.utils.parametrizations.weight_norm if style == "parametrization" else nn.utils.weight_norm
    model = nn.Sequential(
        normed(nn.ConvTranspose1d(8, 6, 16, stride=8, padding=4)), nn.LeakyReLU(0.1), normed(nn.Conv1d(6, 1, 7))
    ).eval()
    x = torch.randn(SIGNAL)
    program = export_static(trace(model, [x]), [x])
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("format", FORMATS)
def test_weight_norm_of_a_vocoder_comes_out_in_every_format_executorch_3946(format: str) -> None:
    need(format)
    found = run("conv_transpose1d_weight_norm", "float32", format)
    assert found.verdict in ("pass", "fell back"), found.reason
