"""Transposed convolutions as plain ones: the shuffled form is exact, the resized one is the nearest there is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress import rewrite
from compress.rewrite import RewriteSettings
from compress.rewrite.upsample import resize_axis, shuffle_axis
from tests.rewrite.nets import close, ops, traced


def rewritten(layer: nn.Module, form: str, *shape: int) -> tuple[fx.GraphModule, rewrite.RewritePlan]:
    module, inputs = traced(nn.Sequential(layer), *shape)
    plan = rewrite.plan(module, RewriteSettings(upsample=form), inputs)
    return rewrite.apply(module, plan, inputs), plan


# kernel, stride, padding, output padding, groups, bias, dilation
CONFIGURATIONS = [
    (4, 2, 1, 0, 1, True, 1),
    (3, 2, 1, 1, 1, True, 1),
    (2, 2, 0, 0, 1, False, 1),
    (5, 2, 2, 1, 1, True, 1),
    (5, 3, 0, 2, 1, True, 1),
    (3, 3, 1, 0, 1, True, 1),
    (2, 3, 0, 1, 1, True, 1),  # some outputs see nothing but the bias
    (16, 8, 4, 0, 1, True, 1),
    (3, 1, 1, 0, 1, True, 1),
    (1, 1, 1, 0, 1, True, 1),
    (4, 2, 3, 0, 1, True, 1),  # more padding than the kernel needs: the input is cropped
    (3, 2, 2, 1, 1, False, 2),
    (4, 2, 1, 0, 2, True, 1),
    (4, 2, 1, 0, 4, True, 1),
    ((4, 3), (2, 1), (1, 1), 0, 1, True, 1),
    ((3, 5), (2, 3), (1, 0), (1, 2), 2, True, 1),
    ((2, 6), (1, 3), (0, 2), 0, 1, True, (2, 1)),
]


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_the_shuffled_form_is_exact(configuration) -> None:
    kernel, stride, padding, more, groups, bias, dilation = configuration
    layer = nn.ConvTranspose2d(4, 8, kernel, stride, padding, more, groups, bias, dilation)
    module, _ = rewritten(layer, "pixel_shuffle", 1, 4, 5, 6)
    assert not any("Transpose" in op for op in ops(module))
    for shape in ((1, 4, 5, 6), (3, 4, 9, 4)):  # also at a size that it was not planned at
        x = torch.randn(shape)
        close(module(x), layer(x))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more"), [(4, 2, 1, 0), (16, 8, 4, 0), (11, 5, 3, 0), (3, 1, 1, 0)]
)
def test_the_shuffled_form_is_exact_on_signals(kernel: int, stride: int, padding: int, more: int) -> None:
    layer = nn.ConvTranspose1d(6, 4, kernel, stride, padding, more)
    module, _ = rewritten(layer, "pixel_shuffle", 1, 6, 7)
    x = torch.randn(2, 6, 12)
    close(module(x), layer(x))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "taps"), [(4, 2, 1, 2), (3, 2, 1, 2), (2, 2, 0, 1), (16, 8, 4, 2)]
)
def test_the_shuffled_form_has_no_more_taps_than_it_must(kernel: int, stride: int, padding: int, taps: int) -> None:
    """A phase of a kernel of k taps reads k / s of them, rounded up."""
    assert shuffle_axis(kernel, stride, padding, 0, 1).matrix.shape == (stride, taps, kernel)


def boxed(kernel: Tensor, stride: int) -> Tensor:
    """The transposed kernel (in, out, k, k) that a nearest resize and a convolution with `kernel` amount to."""
    flipped = kernel.flip(2, 3).transpose(0, 1)
    box = torch.ones(1, 1, stride, stride)
    return (
        F.conv2d(flipped.flatten(0, 1).unsqueeze(1), box, padding=stride - 1).unflatten(0, flipped.shape[:2]).squeeze(2)
    )


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_the_resized_form_is_exact_where_there_is_an_exact_one(stride: int) -> None:
    layer = nn.ConvTranspose2d(3, 5, stride + 2, stride, 1, groups=1)
    kernel = torch.randn(5, 3, 3, 3)
    layer.weight.data = boxed(kernel, stride)
    module, plan = rewritten(layer, "resize", 1, 3, 6, 5)
    torch.testing.assert_close(module.get_submodule("0").weight, kernel, rtol=1e-4, atol=1e-5)
    assert "0.0% of the kernel missed" in plan.sites[0].after
    x = torch.randn(2, 3, 6, 7)
    close(module(x), layer(x))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more"), [(4, 2, 1, 0), (3, 2, 1, 1), (5, 3, 1, 0), (2, 2, 0, 0)]
)
def test_the_resized_form_is_the_nearest(kernel: int, stride: int, padding: int, more: int) -> None:
    """No change of its weights brings its answers to single pixels nearer to the transposed convolution's."""
    layer = nn.ConvTranspose2d(1, 2, kernel, stride, padding, more, bias=False)
    module, plan = rewritten(layer, "resize", 1, 1, 9, 9)
    pixel = torch.zeros(1, 1, 9, 9)
    pixel[0, 0, 4, 4] = 1
    want, weight = layer(pixel), module.get_submodule("0").weight

    def missed(change: Tensor | float) -> float:
        with torch.no_grad():
            kept = weight.clone()
            weight.add_(change)
            error = float((module(pixel) - want).norm() / want.norm())
            weight.copy_(kept)
        return error

    best = missed(0.0)
    assert f"{best:.1%} of the kernel missed" in plan.sites[0].after
    for _ in range(10):
        step = 0.05 * torch.randn_like(weight)
        assert missed(step) > best < missed(-step)


def test_an_axis_of_the_resized_form_reads_what_the_transposed_one_reads() -> None:
    axis = resize_axis(4, 2, 1, 0)
    assert axis.matrix.shape == (3, 4) and axis.pad == (1, 1)


def test_a_layer_called_twice_is_rewritten_at_both_places() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 4, 4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(F.relu(self.up(x)))

    net = Twice()
    module, inputs = traced(net, 1, 4, 5, 5)
    made = rewrite.apply(module, rewrite.plan(module, RewriteSettings(upsample="pixel_shuffle"), inputs), inputs)
    assert ops(made).count("Conv2d") == 2 and list(made.state_dict()) == ["up.weight", "up.bias"]
    close(made(inputs[0]), net(inputs[0]))


@pytest.mark.parametrize(
    ("layer", "form", "shape", "reason"),
    [
        (nn.ConvTranspose2d(4, 4, 3, 2, dilation=2), "resize", (1, 4, 5, 5), "dilated"),
        (nn.ConvTranspose3d(2, 2, 2, 2), "pixel_shuffle", (1, 2, 3, 3, 3), "three dimensions"),
    ],
)
def test_what_has_no_such_form_stays_and_says_why(layer: nn.Module, form: str, shape, reason: str) -> None:
    module, plan = rewritten(layer, form, *shape)
    assert not plan.done and reason in plan.warnings()[0]
    x = torch.randn(shape)
    torch.testing.assert_close(module(x), layer(x))
