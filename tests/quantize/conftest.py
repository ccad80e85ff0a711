"""Small networks of the kinds that phones run, traced and folded, with calibration data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from compress.graph.fold import fold_batch_norms
from compress.graph.trace import trace


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: type | None = nn.ReLU):
    """Convolution, batch norm and, unless None, an activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers = [conv, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, act()) if act else nn.Sequential(*layers)


class Digits(nn.Module):
    """A plain classifier of 8x8 images."""

    shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(unit(1, 8, 3), unit(8, 12, 3), nn.MaxPool2d(2), unit(12, 12, 3))
        self.fc = nn.Linear(12 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).flatten(1))


class Mobile(nn.Module):
    """Depthwise convolutions, ReLU6, a linear bottleneck with a skip, global pooling, dropout."""

    shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 8, 3, 2, act=nn.ReLU6)
        self.expand = unit(8, 16, 1, act=nn.ReLU6)
        self.depthwise = unit(16, 16, 3, groups=16, act=nn.ReLU6)
        self.project = unit(16, 8, 1, act=None)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.project(self.depthwise(self.expand(x)))
        return self.fc(self.drop(F.adaptive_avg_pool2d(x, 1).flatten(1)))


class Residual(nn.Module):
    """Two residual blocks, one with a projection, relu behind the addition, a mean instead of a pooling layer."""

    shape = (3, 12, 12)

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 8, 3)
        self.a, self.b = unit(8, 8, 3), unit(8, 8, 3, act=None)
        self.c, self.d, self.skip = unit(8, 12, 3, 2), unit(12, 12, 3, act=None), unit(8, 12, 1, 2, act=None)
        self.fc = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.b(self.a(x)) + x)
        x = F.relu(self.d(self.c(x)) + self.skip(x))
        return self.fc(x.mean((2, 3)))


class UNet(nn.Module):
    """Transposed convolutions (one with groups), a concatenation, GroupNorm, SiLU, pixel shuffle, tanh."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = unit(3, 8, 3), unit(8, 16, 3, 2)
        self.up, self.up_norm = nn.ConvTranspose2d(16, 8, 2, 2), nn.BatchNorm2d(8)
        self.mix = nn.Conv2d(16, 12, 3, padding=1)
        self.norm = nn.GroupNorm(2, 12)
        self.grouped = nn.ConvTranspose2d(12, 12, 3, 1, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down1(x)
        x = self.up_norm(self.up(self.down2(skip)))
        x = F.silu(self.norm(self.mix(torch.cat([skip, x], 1))))
        return torch.tanh(F.pixel_shuffle(self.grouped(x), 2))


NETS = {"digits": Digits, "mobile": Mobile, "residual": Residual, "unet": UNet}


@dataclass
class Built:
    """A model in eval mode with lively batch norms, its folded trace, calibration batches and held-out inputs."""

    model: nn.Module
    folded: fx.GraphModule
    batches: list[Tensor]
    held: Tensor


def build_net(model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> Built:
    """The model with batch-norm statistics of random data, traced and folded."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(16, *shape))
    folded = fold_batch_norms(trace(model, (torch.randn(1, *shape),)))
    return Built(model.eval(), folded, [torch.randn(16, *shape) for _ in range(3)], torch.randn(8, *shape))


@pytest.fixture
def build() -> Callable[..., Built]:
    """Builds a network by its name in NETS, or from a module and its input shape."""

    def make(net: str | nn.Module, shape: tuple[int, ...] = ()) -> Built:
        torch.manual_seed(0)
        if isinstance(net, nn.Module):
            return build_net(net, shape)
        return build_net(NETS[net](), NETS[net].shape)

    return make


@pytest.fixture(params=list(NETS))
def built(request: pytest.FixtureRequest, build: Callable[..., Built]) -> Built:
    """Each of the networks in turn."""
    return build(request.param)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Keeps the tests light and their sums in one order."""
    torch.set_num_threads(1)
