"""Tiles with a halo of the receptive field are exact, and with one pixel less they are not."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress import rewrite
from compress.errors import DataError, Infeasible, ModelError
from compress.graph.cost import cost_of
from compress.graph.trace import trace
from compress.rewrite import RewriteSettings, receptive_field, tile_plan, tiled
from tests.rewrite.nets import Dense, Generator, UNet, traced


class Op(nn.Module):
    """Convolutions before and behind some function of pictures."""

    def __init__(self, function, width: int = 4) -> None:
        super().__init__()
        self.before, self.behind, self.function = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(width, 3, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.function(self.before(x)))


def positive(net: nn.Module) -> nn.Module:
    """The net with positive weights, so that no dependence cancels or is cut off by an activation."""
    for parameter in net.parameters():
        parameter.data = parameter.data.abs() + 0.01
    return net.double()


NETS = {
    "convolution": (nn.Conv2d(3, 2, 5, 1, 2), 2),
    "dilated": (nn.Conv2d(3, 2, 3, 1, 4, 4), 4),
    "uneven": (nn.Sequential(nn.ZeroPad2d((3, 0, 3, 0)), nn.Conv2d(3, 2, 4)), 3),
    "chain": (nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 7, 1, 3), nn.BatchNorm2d(4)), 4),
    "dense": (Dense(4, 4, 2), 5),
    "reflected": (nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, 2, 7)), 3),
    "pooled": (Op(lambda y: F.max_pool2d(y, 5, 1, 2)), 3),
    "averaged": (Op(lambda y: F.avg_pool2d(y, 3, 1, 1)), 2),
    "chunks": (Op(lambda y: torch.cat([y.chunk(2, 1)[0].softmax(1), y * y.mean(1, keepdim=True)], 1), 6), 1),
    "transposed": (nn.ConvTranspose2d(3, 2, 5, 1, 2), 2),
    "upsampled": (nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ConvTranspose2d(4, 2, 4, 2, 1)), 2),
    "shuffled": (nn.Sequential(nn.Conv2d(3, 8, 5, 1, 2), nn.PixelShuffle(2), nn.Conv2d(2, 2, 3, 1, 1)), 3),
    "nearest": (nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 2, 3, 1, 1)), 1),
}


@pytest.mark.parametrize("name", NETS)
def test_the_halo_is_what_it_takes_and_no_more(name: str) -> None:
    net, halo = NETS[name]
    net = positive(net).eval()
    module, _ = traced(net.float(), 1, 3, 24, 24)
    field = receptive_field(module, (torch.zeros(1, 3, 24, 24),))
    assert field.exact and field.halo_px == (halo, halo) and field.multiple_px == (1, 1)
    image = torch.rand(1, 3, 41, 34, dtype=torch.float64)
    module = module.double()
    with torch.no_grad():
        want = net.double()(image)
        for less in (0, 1):
            got = tiled(module, image, (20, 18), (halo - less,) * 2, field.scale)
            assert got.shape == want.shape
            assert torch.allclose(got, want, rtol=1e-10, atol=0) != bool(less)


@pytest.mark.parametrize(
    ("net", "scale"),
    [
        (UNet(), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)), Fraction(1, 4)),
        (Op(lambda y: F.interpolate(F.interpolate(y, scale_factor=0.5), scale_factor=4, mode="bilinear")), 2),
        (Op(lambda y: F.interpolate(y, scale_factor=2, mode="bicubic")), 2),
        (Op(lambda y: F.pixel_unshuffle(y, 2), 16), Fraction(1, 2)),
        (Op(lambda y: F.pad(y, (2, 1, 3, 0))[..., 3:, 2:-1]), 1),
    ],
    ids=["unet", "strided", "bilinear", "bicubic", "unshuffled", "cropped"],
)
def test_tiles_of_strided_and_resized_nets_are_exact(net: nn.Module, scale) -> None:
    module, inputs = traced(net, 1, 3, 32, 32)
    field = receptive_field(module, inputs)
    assert field.exact and set(field.scale) == {Fraction(scale)}
    image = torch.rand(1, 3, 72, 56)
    tile = tuple(2 * halo + 8 for halo in field.halo_px)
    with torch.no_grad():
        got = tiled(module, image, tile, field.halo_px, field.scale, field.multiple_px)
        torch.testing.assert_close(got, net(image), rtol=1e-5, atol=1e-6)


def test_a_signal_is_tiled_as_a_picture_is() -> None:
    net = nn.Sequential(nn.Conv1d(4, 8, 7, 1, 3), nn.LeakyReLU(0.1), nn.ConvTranspose1d(8, 4, 16, 8, 4))
    module, inputs = traced(net, 1, 4, 32)
    field = receptive_field(module, inputs)
    signal = torch.randn(1, 4, 101)
    with torch.no_grad():
        got = tiled(module, signal, (24,), field.halo_px, field.scale)
        torch.testing.assert_close(got, net(signal), rtol=1e-5, atol=1e-6)
    assert field.halo_px == (4,) and field.scale == (8,)


@pytest.mark.parametrize(
    ("net", "op"),
    [
        (Generator(), "instance_norm"),
        (Op(nn.GroupNorm(2, 4)), "GroupNorm"),
        (Op(lambda y: y * y.mean((2, 3), keepdim=True).sigmoid()), "mean"),
        (Op(lambda y: y + F.adaptive_avg_pool2d(y, 1)), "adaptive_avg_pool2d"),
        (Op(lambda y: F.interpolate(y, size=(24, 24))), "fixed size"),
        (Op(lambda y: F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)), "aligned corners"),
        (Op(lambda y: y + torch.ones(24, 24)), "fixed size"),
        (Op(lambda y: y.flip(3)), "flip"),
        (Op(lambda y: y[..., :16, :16]), "fixed size"),
        (Op(lambda y: F.pad(y, (1, 1, 1, 1), "circular")[..., 1:-1, 1:-1]), ""),
    ],
)
def test_ops_that_see_everything_are_named(net: nn.Module, op: str) -> None:
    module, inputs = traced(net, 1, 3, 24, 24)
    field = receptive_field(module, inputs)
    assert not field.exact and any(op in line for line in field.global_ops)


def test_tiles_of_a_net_with_an_instance_norm_differ_until_it_is_fixed() -> None:
    """The rewrite of the norm makes tiling exact: both halves of what the report of global ops promises."""
    net, image = Generator().eval(), torch.rand(1, 3, 64, 64)
    module, inputs = traced(net, 1, 3, 16, 16)
    fixed = rewrite.apply(
        module, rewrite.plan(module, RewriteSettings(norms="fold", norm_error=9.0), inputs, [image]), inputs
    )
    for model, exact in ((module, False), (fixed, True)):
        field = receptive_field(model, inputs)
        assert field.exact == exact
        with torch.no_grad():
            got = tiled(model, image, (48, 48), field.halo_px, field.scale, field.multiple_px)
            assert torch.allclose(got, model(image), atol=1e-5) == exact


def test_rewritten_nets_look_as_far_as_before() -> None:
    module, inputs = traced(UNet(), 1, 3, 32, 32)
    plan = rewrite.plan(module, RewriteSettings(upsample="pixel_shuffle", aggregate="accumulate"), inputs)
    made = rewrite.apply(module, plan, inputs)
    assert len(plan.done) == 2
    before, after = receptive_field(module, inputs), receptive_field(made, inputs)
    assert after.exact and after.scale == before.scale and after.halo_px[0] <= before.halo_px[0] + 2
    image = torch.rand(1, 3, 64, 48)
    with torch.no_grad():
        got = tiled(made, image, (24, 24), after.halo_px, after.scale, after.multiple_px)
        torch.testing.assert_close(got, made(image), rtol=1e-5, atol=1e-6)


def test_a_predictor_may_be_any_runtime() -> None:
    """Arrays are taken as they come, and every tile has the one shape that a file is compiled for."""
    module, _ = traced(nn.Conv2d(3, 2, 3, 1, 1), 1, 3, 16, 16)
    shapes = set()

    def predict(x: Tensor):
        shapes.add(tuple(x.shape))
        return module(x).detach().numpy()

    image = torch.rand(1, 3, 33, 40)
    got = tiled(predict, image, (16, 16), (1, 1), (1, 1))
    torch.testing.assert_close(got, module(image))
    assert shapes == {(1, 3, 16, 16)}


@pytest.mark.parametrize(
    ("shape", "tile", "halo", "scale", "multiple", "error", "text"),
    [
        ((8, 32), 16, 1, 1, 1, DataError, "8 pixels along an axis where a tile has 16"),
        ((32, 32), 16, 8, 1, 1, DataError, "all halo"),
        ((32, 30), 16, 4, 1, 4, DataError, "multiples of 4"),
        ((32, 32), 16, 1, 2, 1, ModelError, "instead of 32x32 pixels"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(shape, tile, halo, scale, multiple, error, text) -> None:
    with pytest.raises(error, match=text):
        tiled(lambda x: x, torch.rand(1, 3, *shape), (tile,) * 2, (halo,) * 2, (scale,) * 2, (multiple,) * 2)


def test_the_planned_tile_is_the_largest_that_fits() -> None:
    module, _ = traced(UNet(), 1, 3, 32, 32)
    picture, limit = torch.zeros(1, 3, 256, 128), 500_000
    plan = tile_plan(module, (picture,), limit)

    def peak(height: int, width: int) -> int:
        return cost_of(module, (torch.zeros(1, 3, height, width),)).peak_activation_bytes

    assert plan.peak_activation_bytes == peak(*plan.tile_px) <= limit < peak(*(side + 2 for side in plan.tile_px))
    assert plan.whole_peak_activation_bytes == peak(256, 128) and not plan.inexact_because
    computed = []
    tiled(
        lambda x: computed.append(x.numel()) or module(x),
        picture,
        plan.tile_px,
        plan.halo_px,
        plan.scale,
        plan.multiple_px,
    )
    assert plan.tiles == len(computed)
    assert plan.pixels_computed == pytest.approx(sum(computed) / picture.numel())


def test_a_picture_that_fits_is_not_cut() -> None:
    module, inputs = traced(Generator(), 1, 3, 24, 32)
    plan = tile_plan(module, inputs, 10**9)
    assert plan.tile_px == (24, 32) and plan.tiles == 1 and plan.pixels_computed == 1
    assert plan.inexact_because == ()  # one tile is the picture itself
    smaller = tile_plan(module, (torch.zeros(1, 3, 128, 128),), plan.peak_activation_bytes * 4)
    assert smaller.tiles > 1 and "instance_norm" in smaller.inexact_because[0]


def test_what_no_tile_can_meet_is_infeasible() -> None:
    module, _ = traced(UNet(), 1, 3, 32, 32)
    with pytest.raises(Infeasible, match="smallest tile") as caught:
        tile_plan(module, (torch.zeros(1, 3, 256, 256),), 1000)
    assert caught.value.closest["peak_activation_bytes"] > 1000


@pytest.mark.parametrize(
    ("net", "text"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 256, 2)), "outputs are pictures"),
        (nn.Bilinear(3, 3, 2), "one picture"),
    ],
)
def test_models_of_something_else_than_pictures_are_refused(net: nn.Module, text: str) -> None:
    inputs = (torch.randn(2, 3),) * 2 if isinstance(net, nn.Bilinear) else (torch.randn(1, 3, 16, 16),)
    with pytest.raises(ModelError, match=text):
        receptive_field(trace(net, inputs), inputs)
