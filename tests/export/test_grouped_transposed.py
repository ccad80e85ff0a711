"""A transposed convolution with groups keeps a scale for each group in every format, and who computes it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import fx, nn

import compress.export as room
from compress import quantize
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import export_static, trace
from compress.runtimes import available
from compress.verify import verify_artifact
from tests.export.programs import reference


@pytest.fixture(scope="module")
def made() -> tuple[nn.Module, fx.GraphModule, list[tuple[torch.Tensor, ...]]]:
    """A net whose first group is a hundredth of the others, its quantized form, and samples."""
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=4, bias=False)
    with torch.no_grad():
        up.weight[:2] *= 0.01
    net = nn.Sequential(nn.Conv2d(3, 8, 1), up).eval()
    samples = [(torch.randn(1, 3, 5, 6),) for _ in range(4)]
    folded = fold_batch_norms(trace(net, samples[0]))
    return net, quantize.apply(folded, quantize.plan(folded, "w8a8", samples)), samples


def test_a_small_group_keeps_its_precision(made) -> None:
    """Under one scale for the whole weight its weights are 127 / 100 steps apart: nothing is left of them."""
    _, quantized, _ = made
    holder = quantized.get_submodule("1")
    weight = holder.weight.float() * holder.weight_scale.reshape(-1, 1, 1, 1)
    exact = made[0][1].weight
    errors = [float((weight[2 * g : 2 * g + 2] - exact[2 * g : 2 * g + 2]).abs().max()) for g in range(4)]
    largest = [float(exact[2 * g : 2 * g + 2].abs().max()) for g in range(4)]
    assert all(error <= size / 127 for error, size in zip(errors, largest, strict=True))
    assert largest[0] < 0.02 * max(largest)


@pytest.mark.parametrize("format", ["onnx", "litert", "executorch"])
def test_every_format_computes_it(made, format: str, tmp_path: Path) -> None:
    for reason in (room.available(format), available(format)):
        if reason:
            pytest.skip(reason)
    _, quantized, samples = made
    program = export_static(quantized, samples[0])
    artifact = room.export(program, format, "w8a8", tmp_path, "net")
    found = verify_artifact(artifact, tmp_path, reference(program), [tuple(x.numpy() for x in s) for s in samples])
    assert found.passed and found.sqnr_db > 35, found.reason
    assert any(" at 1 " in line for line in artifact.float_ops), "no runtime has an integer kernel for this one"
    if format == "executorch":
        assert artifact.delegate.startswith("XNNPACK (1 part") and "scale per group" in artifact.notes[0]
