"""Ops that XNNPACK leaves outside, or stops at, are written in forms that it takes, which compute the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compress import quantize
from compress.export import available, export
from compress.export.executorch_forms import spelled_out, with_plane_norms
from compress.export.program import calls, op_name
from compress.graph.trace import export_static, trace
from compress.runtimes import load
from tests.export.test_coreml_forms import Of


def test_the_maximum_over_a_plane_is_a_pooling_between_floats() -> None:
    x = torch.randn(1, 4, 6, 9)
    given = export_static(trace(Of(lambda x: x.amax((2, 3), keepdim=True)), (x,)), (x,))
    ready = spelled_out(given)
    assert [op_name(node) for node in calls(ready)] == ["aten.max_pool2d"]
    assert torch.equal(ready.module()(x), given.module()(x))


@pytest.mark.parametrize("function", [
    lambda x: F.avg_pool2d(x, 3, 2, 1),
    lambda x: F.avg_pool2d(x, 2, ceil_mode=True),
    lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    lambda x: F.interpolate(x, size=(9, 13), mode="bilinear"),
    lambda x: F.interpolate(x, scale_factor=1.5, mode="nearest"),
])  # fmt: skip
def test_what_xnnpack_takes_stays(function) -> None:
    x = torch.randn(1, 4, 7, 9)
    given = export_static(trace(Of(function), (x,)), (x,))
    assert spelled_out(given) is given


def test_another_maximum_stays() -> None:
    x = torch.randn(1, 4, 6, 9)
    given = export_static(trace(Of(lambda x: x.amax(1, keepdim=True)), (x,)), (x,))
    assert [op_name(node) for node in calls(spelled_out(given))] == ["aten.amax"]


def integers(middle: nn.Module, shape: tuple[int, ...]):
    """A w8a8 program of a layer, `middle`, a layer, and a sample."""
    layer = nn.Conv1d if len(shape) == 3 else nn.Conv2d
    samples = [(torch.randn(shape) * 8,) for _ in range(3)]
    net = nn.Sequential(layer(4, 4, 1), nn.ReLU(), middle, layer(4, 3, 1)).eval()
    model = trace(net, samples[0])
    return export_static(quantize.apply(model, quantize.plan(model, "w8a8", samples)), samples[0]), samples[0][0]


@pytest.mark.parametrize(("function", "gone"), [(F.softplus, "aten.softplus"), (F.mish, "aten.mish")])
def test_softplus_is_written_without_a_choice_beside_integers(function, gone: str) -> None:
    given, x = integers(Of(function), (1, 4, 6, 9))
    ready = spelled_out(given)
    names = [op_name(node) for node in calls(ready)]
    assert gone not in names and "aten.log" in names
    assert torch.allclose(ready.module()(x), given.module()(x), atol=1e-6)


def test_softplus_stays_between_floats() -> None:
    x = torch.randn(1, 4, 6, 9)
    given = export_static(trace(Of(F.softplus), (x,)), (x,))
    assert spelled_out(given) is given


def test_a_norm_of_signals_is_one_of_images_beside_integers() -> None:
    norm = nn.BatchNorm1d(4)
    nn.init.uniform_(norm.running_var, 0.1, 2.0)
    given, x = integers(norm, (1, 4, 9))
    ready = spelled_out(given)
    (node,) = (node for node in calls(ready) if op_name(node) == "aten.batch_norm")
    assert node.meta["val"].dim() == 3 or node.args[0].meta["val"].dim() == 4
    assert torch.equal(ready.module()(x), given.module()(x))


NORMS = {
    "images": (nn.InstanceNorm2d(4, eps=1e-9, affine=True), (1, 4, 6, 9)),
    "plain": (nn.InstanceNorm2d(4), (1, 4, 6, 9)),
    "signals": (nn.InstanceNorm1d(4, affine=True), (1, 4, 9)),
    "volumes": (nn.InstanceNorm3d(4, affine=True), (1, 4, 3, 5, 6)),
}


def norm_program(kind: str):
    """A program of one instance norm alone, its sample and the norm."""
    norm, shape = NORMS[kind]
    for values in norm.parameters():
        nn.init.uniform_(values, 0.5, 1.5)
    x = torch.randn(shape) * 3 + 1
    return export_static(trace(norm.eval(), (x,)), (x,)), x, norm


@pytest.mark.parametrize("kind", NORMS)
def test_an_instance_norm_is_written_as_its_plain_ops(kind: str) -> None:
    given, x, norm = norm_program(kind)
    ready = with_plane_norms(given)
    names = [op_name(node) for node in calls(ready)]
    assert "aten.instance_norm" not in names and names.count("aten.mean") == 2 and "aten.rsqrt" in names
    assert torch.allclose(ready.module()(x), norm(x), atol=1e-5)
    assert [op_name(node) for node in calls(given)] == ["aten.instance_norm"], "the program itself changed"


def test_xnnpack_takes_a_whole_net_with_instance_norms_and_keeps_planes_far_from_zero(tmp_path: Path) -> None:
    """A spread of 1 about 1000: by E[x^2] - E[x]^2 in float32 hardly a digit of the variance is left."""
    if reason := available("executorch"):
        pytest.skip(reason)
    torch.manual_seed(0)
    norm = nn.InstanceNorm2d(4)
    x = torch.randn(1, 4, 16, 16) + 1000
    net = nn.Sequential(norm, nn.Conv2d(4, 3, 3, padding=1)).eval()
    program = export_static(trace(net, (x,)), (x,))
    artifact = export(program, "executorch", "float32", tmp_path, "net")
    assert artifact.delegate.startswith("XNNPACK (1 part,") and not artifact.notes
    session = load(tmp_path / artifact.path, "executorch")
    found = torch.from_numpy(session.run(x.numpy())[0])
    assert torch.allclose(found, net(x), atol=2e-3)


def test_an_instance_norm_between_integers_is_named_as_computing_in_float(tmp_path: Path) -> None:
    if reason := available("executorch"):
        pytest.skip(reason)
    given, _ = integers(nn.InstanceNorm2d(4), (1, 4, 6, 9))
    artifact = export(given, "executorch", "w8a8", tmp_path, "net")
    lines = [line for line in artifact.float_ops if "norm" in line]
    assert lines == ["aten.instance_norm at 2 (XNNPACK has no integer kernel)"], artifact.float_ops
    assert not any("aten.mean" in line for line in artifact.float_ops)
