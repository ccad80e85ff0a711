"""MobileStyleGan: the wavelet transform, modulation of inputs against that of weights, cost, and the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import ModelError
from compress.graph.cost import cost_of
from compress.graph.trace import export_static, trace
from compress.students import MobileStyleGan
from compress.students.mobile_stylegan import GAIN, SLOPE, Modulated, haar, inverse_haar
from tests.students.common import FORMATS, check_file, cost, noise, traced


class WeightModulated(nn.Module):
    """StyleGAN2's convolution, for one sample: its weights are scaled by the style, then each output's to unit norm."""

    def __init__(self, before: int, after: int, latent: int) -> None:
        super().__init__()
        self.style = nn.Linear(latent, before)
        self.weight, self.bias = nn.Parameter(torch.randn(after, before, 3, 3)), nn.Parameter(torch.zeros(after))

    def forward(self, x_NCHW: Tensor, latent_NL: Tensor) -> Tensor:
        weight = self.weight * self.style(latent_NL)[0, :, None, None]
        weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        return F.leaky_relu(F.conv2d(x_NCHW, weight, self.bias, padding=1), SLOPE)


def net(channels: tuple[int, ...] = (16, 16, 8)) -> MobileStyleGan:
    torch.manual_seed(0)
    return MobileStyleGan(8, channels, mapping=2)


def with_weight_modulation(model: MobileStyleGan) -> MobileStyleGan:
    """The same network with StyleGAN2's convolutions in the place of its own."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Modulated):
            owner, _, leaf = name.rpartition(".")
            after, before = module.pointwise.weight.shape[:2]
            setattr(model.get_submodule(owner), leaf, WeightModulated(before, after, module.style.in_features))
    return model


def test_the_transform_and_back_is_the_identity() -> None:
    x = noise(2, 3, 8, 12)
    assert haar(x).shape == (2, 12, 4, 6)
    assert float((inverse_haar(haar(x)) - x).abs().max()) < 1e-6
    assert float((haar(inverse_haar(haar(x))) - haar(x)).abs().max()) < 1e-6
    assert float(haar(x).square().sum()) == pytest.approx(float(x.square().sum()), rel=1e-5)  # orthonormal


def test_what_the_coefficients_are() -> None:
    x = noise(1, 2, 4, 4)
    coefficients = haar(x).unflatten(1, (4, 2))
    torch.testing.assert_close(coefficients[:, 0], 2 * F.avg_pool2d(x, 2))
    columns, rows = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    for place, stripes in ((1, columns.expand(4, 4)), (2, rows.expand(4, 4)), (3, columns * rows)):
        only = haar(stripes.expand(1, 1, 4, 4))[0]
        assert [bool(part.any()) for part in only] == [number == place for number in range(4)]


def test_modulating_the_input_is_modulating_the_weights() -> None:
    torch.manual_seed(0)
    layer, x, latents = Modulated(6, 10, 4), noise(3, 6, 7, 7), noise(3, 4, seed=1)
    with torch.no_grad():
        layer.average_style.copy_(torch.rand(6) + 0.5)
        dense = layer.pointwise.weight * layer.depthwise.weight.transpose(0, 1) * layer.demodulation()
        for sample in range(3):
            weight = dense * layer.style(latents[sample])[None, :, None, None]
            expected = F.leaky_relu(F.conv2d(x[sample : sample + 1], weight, layer.pointwise.bias, padding=1), SLOPE)
            got = layer(x[sample : sample + 1], latents[sample : sample + 1])
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_demodulation_keeps_the_size_of_white_inputs_through_the_depth() -> None:
    torch.manual_seed(0)
    layer, x = Modulated(32, 64, 4).eval(), noise(4, 32, 32, 32)
    nn.init.zeros_(layer.style.weight)  # the average style for every latent
    nn.init.zeros_(layer.pointwise.bias)
    with torch.no_grad():
        out = layer(x, noise(4, 4))[:, :, 1:-1, 1:-1]
        assert float(out.square().mean().sqrt()) == pytest.approx(1.0, abs=0.1)
        layer.pointwise.weight *= 50  # the weights' own size does not matter
        torch.testing.assert_close(layer(x, noise(4, 4))[:, :, 1:-1, 1:-1], out, rtol=1e-3, atol=1e-4)
    assert pytest.approx(2**0.5) == GAIN


def test_it_traces_into_plain_ops_and_the_demodulation_is_gone() -> None:
    x = noise(1, 8)
    graph = traced(net(), x)
    assert graph(x).shape == (1, 3, 32, 32)
    calls = [node.target for node in export_static(graph, (x,)).graph.nodes if node.op == "call_function"]
    named = {call.__name__.partition(".")[0] for call in calls}
    once = {"mean", "rsqrt", "square"}  # the size of the latent, in the mapping network
    plain = {"add", "sub", "mul", "conv2d", "linear", "leaky_relu"}
    places = {"chunk", "getitem", "stack", "flatten", "pixel_shuffle", "unsqueeze"}
    assert named <= plain | places | once
    assert sum("rsqrt" in str(node.target) for node in graph.graph.nodes) == 1


def test_a_fifth_of_the_operations_of_weight_modulation() -> None:
    wide, x = (64, 64, 32), noise(1, 8)
    mobile = cost(net(wide), x)
    twin = trace(with_weight_modulation(net(wide)).eval(), (x,))
    theirs = cost_of(twin, (x,))
    assert theirs.unknown_ops == {}
    assert mobile.macs <= theirs.macs / 5
    assert mobile.params < theirs.params / 2


def test_other_latents_give_other_pictures_but_their_length_does_not_count() -> None:
    model, z = net().eval(), noise(1, 8)
    with torch.no_grad():
        assert float((model(z) - model(noise(1, 8, seed=1))).abs().mean()) > 0.01
        torch.testing.assert_close(model(3 * z), model(z), rtol=1e-3, atol=1e-4)


def test_channels_that_do_not_divide_are_named() -> None:
    with pytest.raises(ModelError, match="10 channels"):
        net((16, 10, 8))


@pytest.mark.parametrize("format", FORMATS)
def test_its_file(format: str, tmp_path: Path) -> None:
    check_file(net(), noise(1, 8), format, tmp_path)
