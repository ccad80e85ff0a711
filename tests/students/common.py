"""What every student has to do: trace, and run in the runtimes of phones with the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import compress.export as room
from compress.graph.cost import cost_of
from compress.graph.trace import export_static, trace
from compress.types import ModelCost
from compress.verify import verify_artifact
from tests.export.programs import reference

FORMATS = ("onnx", "litert")


def traced(net: nn.Module, example: Tensor) -> fx.GraphModule:
    """The traced network, which gives the network's own output at batch sizes of 1 and 3."""
    graph = trace(net.eval(), (example,))
    for batch in (example, torch.cat([example, example, 2 * example])):
        torch.testing.assert_close(graph(batch), net(batch), rtol=1e-4, atol=1e-5)
    return graph


def cost(net: nn.Module, example: Tensor) -> ModelCost:
    """What the network costs, all of its ops known."""
    found = cost_of(trace(net.eval(), (example,)), (example,))
    assert found.unknown_ops == {}
    return found


def check_file(net: nn.Module, example: Tensor, format: str, folder: Path) -> None:
    """The file in that format runs in its runtime and gives the network's numbers."""
    reason = room.available(format)
    if reason:
        pytest.skip(reason)
    program = export_static(trace(net.eval(), (example,)), (example,))
    artifact = room.export(program, format, "float32", folder, "net")
    inputs = [((example * scale).numpy(),) for scale in (1.0, -0.5)]
    found = verify_artifact(artifact, folder, reference(program), inputs, program=program)
    assert found.passed, found.reason


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
