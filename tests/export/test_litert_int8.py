"""The int8 TFLite file holds the program's own scales, codes and biases, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("ai_edge_quantizer", reason="pip install -e '.[litert]' brings it")
pytest.importorskip("litert_torch", reason="pip install -e '.[litert]' brings it")

from compress import quantize
from compress.export import export, tflite
from compress.export.qdq import strip
from compress.graph.trace import export_static, trace
from compress.verify import verify_artifact
from tests.export.programs import int8_program, quantized, reference, samples, traced


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("int8")
    artifact = export(int8_program(), "litert", "w8a8", folder, "net")
    assert artifact.float_ops == () and artifact.notes == ()
    return tflite.read((folder / artifact.path).read_bytes())


def tensors(model: object, kind: str) -> list:
    return [tensor for tensor in model.subgraphs[0].tensors if tflite.is_type(tensor, kind)]


def test_every_weight_has_the_programs_codes_and_scales(model: object) -> None:
    weights = strip(int8_program()).weights
    held = {}
    for tensor in tensors(model, "INT8"):
        codes = tflite.constant_of(model, tensor, "INT8")
        if codes is not None:
            held[tuple(sorted(tensor.quantization.scale))] = (codes, tensor)
    assert len(held) == len(weights) == 5
    for weight in weights:
        codes, tensor = held[tuple(sorted(weight.scales.numpy()))]
        assert int(np.abs(weight.codes.numpy().astype(int)).max()) < 127  # rounding anew would have stretched it to 127
        axis = tensor.quantization.quantizedDimension
        lines = np.moveaxis(codes, axis, 0).reshape(len(weight.scales), -1)
        assert np.array_equal(np.asarray(tensor.quantization.scale), weight.scales.numpy())
        wanted = weight.codes.numpy()
        if wanted.ndim == 4:
            wanted = wanted.transpose(0, 2, 3, 1)
        assert np.array_equal(lines, wanted.reshape(len(wanted), -1))


def test_every_activation_has_a_scale_of_the_program(model: object) -> None:
    own = {(np.float32(r.scale), r.zero_point) for ranges in strip(int8_program()).ranges.values() for r in ranges}
    activations = [tensor for tensor in tensors(model, "INT8") if tflite.constant_of(model, tensor, "INT8") is None]
    assert len(activations) >= 8
    for tensor in activations:
        assert (np.float32(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])) in own


def test_every_bias_is_int32_at_the_product_of_the_scales(model: object) -> None:
    graph = model.subgraphs[0]
    seen = 0
    for operator in graph.operators:
        if tflite.op_of(model, operator) in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            source, weight, bias = (graph.tensors[int(index)] for index in operator.inputs[:3])
            product = source.quantization.scale[0] * np.asarray(weight.quantization.scale)
            assert tflite.is_type(bias, "INT32")
            assert np.allclose(bias.quantization.scale, product, rtol=1e-6)
            seen += 1
    assert seen == 5


def test_names_are_short_module_paths(model: object) -> None:
    names = [tflite.name_of(tensor) for tensor in model.subgraphs[0].tensors]
    assert any(name.startswith("block.depthwise#") for name in names)
    assert max(map(len, names)) < 60 and len(set(names)) == len(names)


def test_a_softmax_without_a_range_stays_float_and_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Softmax(1))
    program = quantized(traced(net))
    artifact = export(program, "litert", "w8a8", tmp_path, "soft")
    assert any("SOFTMAX at 2" in line and "no range" in line for line in artifact.float_ops)
    found = verify_artifact(artifact, tmp_path, reference(program), samples())
    assert found.passed, found.reason


class Filtered(nn.Module):
    """A constant matrix times tokens, between two layers: a bank of filters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.register_buffer("bank", torch.randn(5, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.matmul(self.get_buffer("bank"), self.stem(x)))


def test_a_constant_matrix_on_the_left_is_multiplied_in_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(1, 6, 8),) for _ in range(3)]
    model = trace(Filtered().eval(), batches[0])
    program = export_static(quantize.apply(model, quantize.plan(model, "w8a8", batches)), batches[0])
    artifact = export(program, "litert", "w8a8", tmp_path, "net")
    found = verify_artifact(artifact, tmp_path, reference(program), [tuple(x.numpy() for x in s) for s in batches])
    assert found.passed, found.reason
    assert any("BATCH_MATMUL" in line for line in artifact.float_ops), artifact.float_ops
