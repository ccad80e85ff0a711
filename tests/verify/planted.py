"""A small net with a place for every fault, right and faulty, and edits that plant a fault in a finished file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress import quantize
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import export_static, trace
from tests.export.programs import Net as ResidualNet

SHAPE = (1, 3, 8, 8)
INT8_SHAPE = (1, 3, 16, 16)
# fault -> the module path at which a bisect has to find it
GRAPH_FAULTS = {"padding": "down", "eps": "norm", "swap": "fc1", "clamp": "act"}


class Net(nn.Module):
    """Convolution, clamp, group norm, strided convolution, flatten, two linear layers: (1, 3, 8, 8) -> (1, 5).

    `fault` builds in: "padding" (shifted by one pixel), "eps" (of the norm), "swap" (flattened channels last),
    "clamp" (left out).
    """

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.Identity() if fault == "clamp" else nn.ReLU6()
        self.norm = nn.GroupNorm(2, 8, eps=0.5 if fault == "eps" else 1e-5)
        self.down = nn.Conv2d(8, 6, 3, stride=2, padding=0 if fault == "padding" else 1)
        self.fc1, self.fc2 = nn.Linear(6 * 4 * 4, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.act(self.stem(x)))
        x = F.relu(self.down(F.pad(x, (0, 2, 0, 2)) if self.fault == "padding" else x))
        x = x.permute(0, 2, 3, 1) if self.fault == "swap" else x
        return self.fc2(torch.tanh(self.fc1(x.flatten(1))))


def net(fault: str = "") -> nn.Module:
    """The net, the same weights whatever the fault; the clamp has work to do."""
    torch.manual_seed(0)
    made = Net(fault).eval()
    with torch.no_grad():
        made.stem.weight.mul_(12.0)
    return made


@cache
def reference() -> fx.GraphModule:
    """The right net in traced form."""
    return trace(net(), (torch.zeros(SHAPE),))


@cache
def program(fault: str = "") -> Any:
    """The net as an exported program."""
    return export_static(trace(net(fault), (torch.zeros(SHAPE),)), (torch.zeros(SHAPE),))


@cache
def int8_reference() -> fx.GraphModule:
    """The exporters' test net, quantized as the quantize step does it."""
    torch.manual_seed(0)
    folded = fold_batch_norms(trace(ResidualNet(), (torch.zeros(INT8_SHAPE),)))
    prepared = quantize.prepare(folded, "w8a8", ranges="minmax")
    quantize.calibrate(prepared, [(torch.randn(8, *INT8_SHAPE[1:]),)])
    quantize.set_state(prepared, "frozen")
    plan = quantize.freeze(prepared)
    return quantize.apply(folded, plan)


@cache
def int8_program() -> Any:
    """The same as an exported program."""
    return export_static(int8_reference(), (torch.zeros(INT8_SHAPE),))


def sample(shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, ...]:
    """One random input."""
    return (np.random.default_rng(3).standard_normal(shape).astype(np.float32),)


def plant_in_onnx(path: Path, fault: str) -> None:
    """Edits an ONNX file of the net in place."""
    import onnx
    from onnx import helper

    model = onnx.load(str(path))
    nodes = model.graph.node
    if fault == "padding":
        attribute = next(a for a in [n for n in nodes if n.op_type == "Conv"][1].attribute if a.name == "pads")
        attribute.ints[:] = [0, 0, 2, 2]
    elif fault == "eps":
        next(a for node in nodes for a in node.attribute if a.name == "epsilon").f = 0.5
    elif fault == "clamp":
        clip = next(node for node in nodes if node.op_type == "Clip")
        _read_instead(model, clip.output[0], clip.input[0])
        nodes.remove(clip)
    elif fault == "swap":
        gemm = next(node for node in nodes if node.op_type in ("Gemm", "MatMul"))
        flatten = next(node for node in nodes if node.output[0] == gemm.input[0])
        turned = helper.make_node("Transpose", [flatten.input[0]], ["turned"], perm=[0, 2, 3, 1])
        flatten.input[0] = "turned"
        nodes.insert(list(nodes).index(flatten), turned)
    onnx.save(model, str(path))


def _read_instead(model: Any, old: str, new: str) -> None:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def stale_onnx_scale(path: Path, layer: str) -> None:
    """Makes the DequantizeLinear behind a convolution read a scale that is not its QuantizeLinear's, in place."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    arrays = {entry.name: entry for entry in model.graph.initializer}
    codes = _reader(model, _reader(model, _reader(model, f"{layer}.weight").output[0]).output[0])
    back = _reader(model, codes.output[0])
    assert (codes.op_type, back.op_type) == ("QuantizeLinear", "DequantizeLinear")
    value = numpy_helper.to_array(arrays[back.input[1]]) * np.float32(1.5)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), "stale"))
    back.input[1] = "stale"
    onnx.save(model, str(path))


def stale_onnx_weight(path: Path, layer: str) -> None:
    """Multiplies the scales of a convolution's weight in an int8 ONNX file, in place."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    name = _reader(model, f"{layer}.weight").input[1]
    held = next(entry for entry in model.graph.initializer if entry.name == name)
    held.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held) * np.float32(4.0), name))
    onnx.save(model, str(path))


def _reader(model: Any, name: str) -> Any:
    return next(node for node in model.graph.node if name in node.input)


def unclamp_tflite(path: Path) -> None:
    """Takes the fused activation from the first convolution of a TFLite file, in place."""
    from compress.export import tflite

    model = tflite.read(path.read_bytes())
    first = next(o for o in model.subgraphs[0].operators if tflite.op_of(model, o) == "CONV_2D")
    assert first.builtinOptions.fusedActivationFunction != 0
    first.builtinOptions.fusedActivationFunction = 0
    path.write_bytes(tflite.to_bytes(model))


def stale_tflite_scale(path: Path, place: int, factor: float) -> None:
    """Multiplies the scale of the `place`-th int8 convolution's output in a TFLite file, in place."""
    from compress.export import tflite

    model = tflite.read(path.read_bytes())
    graph = model.subgraphs[0]
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D")
    found = [operator for operator in graph.operators if tflite.op_of(model, operator) in kinds]
    tensor = graph.tensors[int(found[place].outputs[0])]
    tensor.quantization.scale = np.asarray(tensor.quantization.scale, np.float32) * np.float32(factor)
    path.write_bytes(tflite.to_bytes(model))
