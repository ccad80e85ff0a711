"""Transposed convolutions that LiteRT's converter refuses, or gets wrong, are written in the form that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.export import export
from compress.export.litert_forms import prepared, uncropped
from compress.export.program import calls, op_name
from compress.graph.trace import export_static, trace
from compress.runtimes import load
from compress.verify import verify_artifact
from tests.export.programs import reference

# kernel, stride, padding, output padding, groups
REFUSED = [(3, 2, 1, 1, 1), (3, 2, 1, 0, 1), (5, 2, 1, 0, 1), (5, 3, 2, 2, 2), (2, 3, 1, 2, 1)]
TAKEN = [(4, 2, 1, 0, 1), (2, 2, 0, 0, 1), (3, 2, 0, 1, 1)]


def program(kernel: int, stride: int, padding: int, output_padding: int, groups: int, dims: int = 2):
    torch.manual_seed(0)
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[dims - 1]
    net = nn.Sequential(kind(4, 6, kernel, stride, padding, output_padding, groups), nn.ReLU()).eval()
    x = torch.randn(1, 4, *(5, 7)[:dims])
    return export_static(trace(net, (x,)), (x,)), x


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("settings", REFUSED)
def test_the_whole_output_is_cut_to_the_same_numbers(settings: tuple[int, ...], dims: int) -> None:
    given, x = program(*settings, dims=dims)
    names = [op_name(node) for node in calls(given)]
    ready = uncropped(given)
    assert torch.equal(ready.module()(x), given.module()(x))
    found = [op_name(node) for node in calls(ready)]
    assert found == [*names, *["aten.slice"] * dims], "cut behind the activation, which one kernel computes"
    assert [op_name(node) for node in calls(given)] == names, "the program itself changed"


@pytest.mark.parametrize("settings", TAKEN)
def test_what_the_converter_takes_stays(settings: tuple[int, ...]) -> None:
    given, _ = program(*settings)
    assert [op_name(n) for n in calls(uncropped(given))] == [op_name(n) for n in calls(given)]


class Doubling(nn.Module):
    """The upsampling of many generators: kernel 3, stride 2, an output padding that makes the size just double."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.out = nn.ConvTranspose2d(3, 6, 3, 2, 1, 1), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.up(x).relu())


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_a_doubling_layer_computes_the_same_in_litert(scheme: str, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="pip install -e '.[litert]' brings it")
    pytest.importorskip("ai_edge_quantizer", reason="pip install -e '.[litert]' brings it")
    from compress import quantize
    from compress.graph.fold import fold_batch_norms

    torch.manual_seed(0)
    samples = [(torch.randn(1, 3, 6, 7),) for _ in range(4)]
    model = trace(Doubling().eval(), samples[0])
    if scheme == "w8a8":
        folded = fold_batch_norms(model)
        model = quantize.apply(folded, quantize.plan(folded, "w8a8", samples))
    given = export_static(model, samples[0])
    artifact = export(given, "litert", scheme, tmp_path, "net")
    assert artifact.float_ops == () and artifact.notes == ()
    held = [tuple(x.numpy() for x in sample) for sample in samples]
    found = verify_artifact(artifact, tmp_path, reference(given), held)
    assert found.passed, found.reason
    session = load(tmp_path / artifact.path, "litert")
    assert session.run(*held[0])[0].shape == (1, 3, 12, 14)


def test_a_cut_output_is_named_in_the_signature() -> None:
    given, x = program(3, 2, 1, 1, 1)
    ready = uncropped(given)
    (output,) = (node for node in ready.graph.nodes if node.op == "output")
    assert [spec.arg.name for spec in ready.graph_signature.output_specs] == [node.name for node in output.args[0]]
    assert torch.equal(ready.run_decompositions({}).module()(x), given.module()(x)), "a pass that checks the names"


class Modulated(nn.Module):
    """A convolution whose weight follows from the input, and one whose weight does not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean((2, 3)).reshape(1, 3, 1, 1)
        return self.out(F.conv2d(x, self.weight * scale, padding=1))


def test_a_computed_weight_is_flattened_and_restored() -> None:
    x = torch.randn(1, 3, 6, 7)
    given = export_static(trace(Modulated().eval(), (x,)), (x,))
    ready = prepared(given)
    assert torch.equal(ready.module()(x), given.module()(x))
    count = [sum(op_name(node) == "aten.reshape" for node in calls(one)) for one in (given, ready)]
    assert count == [1, 3], "two for the computed weight, none for the stored one"


@pytest.mark.parametrize(("how", "changes"), [
    ({"size": (9, 10)}, True),
    ({"scale_factor": 1.5}, True),
    ({"scale_factor": 2.1}, True),  # 6 x 7 pixels become 12 x 14, yet not by steps of one half
    ({"scale_factor": 2.0}, False),
])  # fmt: skip
def test_nearest_by_a_fraction_leaves_the_overload_that_becomes_tflites_op(how: dict, changes: bool) -> None:
    x = torch.randn(1, 3, 6, 7)
    given = export_static(trace(Resize(**how), (x,)), (x,))
    ready = prepared(given)
    assert torch.equal(ready.module()(x), given.module()(x))
    targets = [node.target for node in calls(ready)]
    assert (torch.ops.aten.upsample_nearest2d.default in targets) == changes


class Resize(nn.Module):
    """F.interpolate."""

    def __init__(self, **how: object) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, **self.how)
