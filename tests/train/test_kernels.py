"""Kernels that are wrong in bfloat16 are found by trying them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.train import kernels
from compress.train.kernels import wrong_in_bfloat16


def test_a_kernel_that_computes_something_else_in_bfloat16_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = F.conv1d

    def broken(x: Tensor, weight: Tensor, **settings: Any) -> Tensor:
        made = right(x, weight, **settings)
        return made.flip(1) if x.dtype == torch.bfloat16 and weight.shape[2] == 8 else made

    kernels._is_wrong.cache_clear()
    monkeypatch.setattr(F, "conv1d", broken)
    net = nn.Sequential(nn.Conv1d(64, 64, 3), nn.Conv1d(64, 64, 8, stride=2), nn.Conv1d(64, 64, 8, stride=2))
    assert wrong_in_bfloat16([net, net]) == ["Conv1d(64, 64, (8,), stride (2,))"]
    kernels._is_wrong.cache_clear()


def test_a_wrong_gradient_is_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> Tensor:
            return gradient.flip(1)

    right = F.conv2d
    monkeypatch.setattr(
        F, "conv2d", lambda x, w, **s: right(Halved.apply(x) if x.dtype == torch.bfloat16 else x, w, **s)
    )
    kernels._is_wrong.cache_clear()
    assert wrong_in_bfloat16([nn.Conv2d(32, 16, 3)]) == ["Conv2d(32, 16, (3, 3), stride (1, 1))"]
    kernels._is_wrong.cache_clear()


def test_every_kind_of_convolution_can_be_tried_and_common_ones_are_right() -> None:
    layers = [
        nn.Conv1d(32, 32, 7, dilation=3), nn.Conv2d(64, 64, 3, stride=2), nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv3d(32, 32, 3), nn.ConvTranspose1d(64, 64, 4, 2), nn.ConvTranspose2d(64, 32, 3, 2, groups=2),
        nn.ConvTranspose3d(32, 32, 2, 2), nn.Linear(4, 4), nn.Conv2d(16, 16, 3, padding="same"),
        nn.ConvTranspose2d(16, 16, 3, 2, 1, output_padding=1), nn.Conv2d(3, 64, 7, padding=3, padding_mode="reflect"),
    ]  # fmt: skip
    assert wrong_in_bfloat16(layers) == []
