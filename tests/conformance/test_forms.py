"""An op's form holds what decides whether a runtime takes it, and no sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.conformance.case import FRAME, Function
from compress.conformance.cases import CASES
from compress.conformance.forms import forms_of
from compress.graph.trace import trace

IMAGE = (2, 8, 12, 12)


def forms(module: nn.Module, *shapes: tuple[int, ...]) -> tuple[str, ...]:
    return forms_of(trace(module.eval(), [torch.randn(shape) for shape in shapes or [IMAGE]]))


LAYERS = [
    (nn.Conv2d(8, 4, 3), "conv2d"),
    (nn.Conv2d(8, 4, 3, stride=2, padding=1), "conv2d"),
    (nn.Conv2d(8, 8, 3, groups=2), "conv2d grouped"),
    (nn.Conv2d(8, 16, 3, groups=8, dilation=2), "conv2d depthwise dilated"),
    (nn.Conv2d(8, 4, 3, padding="same"), "conv2d padding=same"),
    (nn.ConvTranspose2d(8, 4, 4, 2, 1), "conv_transpose2d"),
    (nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, groups=4), "conv_transpose2d grouped output_padding"),
    (nn.GroupNorm(2, 8), "group_norm"),
]


@pytest.mark.parametrize(("layer", "form"), LAYERS, ids=[form for _, form in LAYERS])
def test_forms_of_layers(layer: nn.Module, form: str) -> None:
    assert forms(layer) == (form,)


FUNCTIONS: list[tuple[Callable[..., Tensor], str]] = [
    (lambda x: F.interpolate(x, scale_factor=2.0), "upsample_nearest2d"),
    (lambda x: F.interpolate(x, size=(24, 24), mode="bilinear"), "upsample_bilinear2d"),
    (
        lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True),
        "upsample_bilinear2d align_corners",
    ),
    (lambda x: F.interpolate(x, size=(13, 17), mode="nearest"), "upsample_nearest2d by a fraction"),
    (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "pad reflect"),
    (lambda x: F.pad(x, (1, 1, 1, 1), value=1.0), "pad constant with a number"),
    (lambda x: F.pad(x, (-1, 0)), "slice"),
    (lambda x: F.avg_pool2d(x, 3, 2, 1), "avg_pool2d padded"),
    (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), "avg_pool2d padded count_include_pad=no"),
    (lambda x: F.max_pool2d(x, 2, ceil_mode=True), "max_pool2d ceil_mode"),
    (lambda x: F.adaptive_avg_pool2d(x, 1), "adaptive_avg_pool2d to one"),
    (lambda x: F.adaptive_avg_pool2d(x, 4), "adaptive_avg_pool2d to a divisor"),
    (lambda x: F.adaptive_avg_pool2d(x, 5), "adaptive_avg_pool2d to no divisor"),
    (lambda x: x.mean((2, 3)), "mean over the plane"),
    (lambda x: x.mean((-1, -2), keepdim=True), "mean over the plane"),
    (lambda x: x.mean(1), "mean over channels"),
    (lambda x: x.softmax(-1), "softmax over the last axis"),
    (lambda x: x + 1.0, "add number"),
    (lambda x: x + x, "add"),
    (lambda x: F.gelu(x, approximate="tanh"), "gelu approximate=tanh"),
    (lambda x: F.instance_norm(x), "instance_norm"),
]


@pytest.mark.parametrize(("function", "form"), FUNCTIONS, ids=[f"{i}-{form}" for i, (_, form) in enumerate(FUNCTIONS)])
def test_forms_of_functions(function: Callable[..., Tensor], form: str) -> None:
    assert form in forms(Function(function))


def test_a_small_operand_is_a_broadcast() -> None:
    assert forms(Function(torch.mul), IMAGE, (2, 8, 1, 1)) == ("mul broadcast",)


def test_sizes_and_views_of_them_have_no_form() -> None:
    assert forms(Function(lambda x: x.reshape(x.shape[0], x.shape[1] * 4, -1))) == ("reshape",)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("group_norm", ("group_norm",)),
        ("grid_sample_border", ("grid_sampler bilinear border",)),
        ("attention_causal", ("scaled_dot_product_attention is_causal",)),
        ("attention_masked", ("scaled_dot_product_attention masked",)),
        ("conv2d_modulated", None),
    ],
)
def test_the_frame_of_a_case_is_not_among_its_forms(name: str, own: tuple[str, ...] | None) -> None:
    case = CASES[name]
    found = forms_of(trace(case.module(), case.inputs(1)[0]), without=FRAME)
    if own is None:
        assert "conv2d with a computed weight" in found
    else:
        assert found == own
