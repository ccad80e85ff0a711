"""The benchmark networks of the host: valid files that run, and op records that say what is in them."""

from __future__ import annotations

import numpy as np
import pytest

from compress.graph.cost import cost_of
from compress.graph.trace import trace
from compress.profile.features import Layout, total
from compress.profile.fit_host import OnnxSession, benchmark, benchmark_nets
from compress.profile.host_graphs import Layer, Net, to_onnx
from compress.types import Scheme

NET = Net("t", "t", (3, 8, 8), (
    Layer("conv", 8, 3), Layer("conv", 8, 3, groups=8), Layer("conv", 8), Layer("add", back=2),
    Layer("conv", 16, 3, 2, groups=2), Layer("pool"), Layer("linear", 5),
))  # fmt: skip


def test_op_records_say_what_the_network_does() -> None:
    ops = NET.trace()
    kinds = ["conv", "depthwise_conv", "conv", "elementwise", "grouped_conv", "reduce", "linear"]
    assert [op.kind for op in ops] == kinds
    assert [op.macs for op in ops] == [8 * 3 * 9 * 64, 8 * 9 * 64, 8 * 8 * 64, 0, 16 * 4 * 9 * 16, 0, 80]
    assert ops[4].output_shape == (1, 16, 4, 4) and ops[6].channels == (16, 5)
    assert len(ops[3].input_shapes) == 2
    assert [op.stride for op in ops] == [(1, 1)] * 3 + [()] + [(2, 2)] + [()] * 2


def test_a_traced_model_is_described_as_the_benchmark_describes_it() -> None:
    """What the host's fit has seen is what a model asks for: the same layers, traced, ask for the same amounts."""
    torch = pytest.importorskip("torch")
    layers = [torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 5, 2, 2, groups=8),
              torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5)]  # fmt: skip
    image = (torch.randn(1, 3, 8, 8),)
    traced = cost_of(trace(torch.nn.Sequential(*layers), image), image).ops
    net = Net("t", "t", (3, 8, 8), (
        Layer("conv", 8, 3, 2), Layer("conv", 8, 5, 2, groups=8), Layer("pool"), Layer("linear", 5),
    ))  # fmt: skip
    seen, asked = (set(total(ops, Layout())) for ops in (net.trace(), traced))
    assert asked == seen and {"macs.strided_depthwise", "macs.wide_depthwise", "bytes.reduce"} <= asked


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_the_file_is_valid_and_runs(scheme: Scheme) -> None:
    onnx = pytest.importorskip("onnx")
    file = to_onnx(NET, scheme)
    model = onnx.load_from_string(file)
    onnx.checker.check_model(model, full_check=True)
    assert ("QuantizeLinear" in {node.op_type for node in model.graph.node}) == (scheme == "w8a8")
    (output,) = OnnxSession(file).run(np.ones((1, 3, 8, 8), np.float32))
    assert output.shape == (1, 5) and np.isfinite(output).all()
    assert file == to_onnx(NET, scheme), "the same network gives the same bytes"


def test_the_quantized_file_computes_nearly_what_the_float_file_computes() -> None:
    image = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    float_output, int8_output = (OnnxSession(to_onnx(NET, scheme)).run(image)[0] for scheme in ("float32", "w8a8"))
    assert np.abs(float_output - int8_output).max() < 0.1 * max(1.0, float(np.abs(float_output).max()))


def test_the_benchmark_has_even_and_odd_widths_of_every_kind() -> None:
    nets = benchmark_nets()
    assert len({net.name for net in nets}) == len(nets) > 60
    kinds = {op.kind for net in nets for op in net.trace()}
    assert {"conv", "depthwise_conv", "grouped_conv", "linear", "elementwise", "reduce"} <= kinds
    widths = {op.channels[1] % 8 for net in nets for op in net.trace() if op.kind == "conv"}
    assert 0 in widths and len(widths) > 3


def test_the_benchmark_gives_a_time_for_every_network() -> None:
    measured = benchmark((NET, benchmark_nets()[0]), "w8a8", rounds=2)
    assert set(measured) == {"t", benchmark_nets()[0].name} and min(measured.values()) > 0
