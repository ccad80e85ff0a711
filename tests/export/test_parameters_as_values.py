"""Parameters that are quantized as values, and the tensors that runtimes keep for themselves, confuse no exporter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import compress.export as room
from compress import quantize
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import export_static, trace
from compress.runtimes import available
from compress.verify import verify_artifact
from tests.export.programs import reference


class Scaled(nn.Module):
    """A convolution scaled channel by channel by a parameter that has a range of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.gamma = nn.Parameter(torch.linspace(-0.5, 2.0, 4).reshape(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x) * self.gamma)


@pytest.mark.parametrize("format", ["onnx", "litert", "executorch"])
def test_a_quantized_parameter_is_an_activation_like_any_other(format: str, tmp_path: Path) -> None:
    """In ONNX its quantize op was left at int8 where the dequantize op behind it went to uint8: not one file loaded."""
    for reason in (room.available(format), available(format)):
        if reason:
            pytest.skip(reason)
    torch.manual_seed(0)
    samples = [(torch.randn(1, 3, 6, 6),) for _ in range(4)]
    folded = fold_batch_norms(trace(Scaled().eval(), samples[0]))
    plan = quantize.plan(folded, "w8a8", samples)
    assert "gamma" in plan.activations
    program = export_static(quantize.apply(folded, plan), samples[0])
    artifact = room.export(program, format, "w8a8", tmp_path, "net")
    found = verify_artifact(artifact, tmp_path, reference(program), [tuple(x.numpy() for x in s) for s in samples])
    assert found.passed, found.reason
    assert found.sqnr_db > 35


def test_scratch_tensors_of_litert_are_not_taken_for_the_models() -> None:
    """Kernels add tensors of their own behind the model's while it runs; the model file knows none of them."""
    pytest.importorskip("litert_torch", reason="pip install -e '.[litert]' brings it")
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from compress.export import tflite
    from compress.export.litert import convert

    x, net = torch.randn(1, 3, 8, 8), nn.Conv2d(3, 4, 3).eval()
    content = convert(torch.export.export(net, (x,)).module(check_guards=False), (x,))
    count = len(tflite.read(content).subgraphs[0].tensors)
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    assert max(detail["index"] for detail in interpreter.get_tensor_details()) >= count, "nothing to leave out"
    found = tflite.run_tensors(content, [x.numpy()])
    assert found and max(found) < count
