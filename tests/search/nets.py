"""A generator as cartoon makers are built, small: every structure that a supernet of convolutions must share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.graph.groups import WidthModel, residual_blocks
from compress.graph.kernels import kernel_sizes
from compress.graph.trace import trace
from compress.search.elastic import same_channels, sort_channels
from compress.search.space import Space, make_space
from compress.search.supernet import Supernet
from tests.models import Concatenating, TinyResNet, randomize_norms

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": nn.InstanceNorm2d,
    "affine": lambda width: nn.InstanceNorm2d(width, affine=True),
    "batch": nn.BatchNorm2d,
}


class Bottle(nn.Module):
    """x + conv, norm, ReLU, depthwise, conv, norm, with mirrored borders."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect")
        self.norm1, self.norm2 = norm(width), norm(width)
        self.depthwise = nn.Conv2d(width, width, 5, 1, 2, groups=width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(self.depthwise(F.relu(self.norm1(self.conv1(x))))))


class Cartoon(nn.Module):
    """Down, two residual blocks, transposed convolution, pixel shuffle: (N, 3, H, W) -> (N, 3, 2H, 2W)."""

    def __init__(self, norm: str = "instance", width: int = 8) -> None:
        super().__init__()
        make = NORMS[norm]
        self.first, self.norm1 = nn.Conv2d(3, width, 7, 1, 3), make(width)
        self.down, self.norm2 = nn.Conv2d(width, 2 * width, 3, 2, 1), make(2 * width)
        self.blocks = nn.Sequential(Bottle(2 * width, make), Bottle(2 * width, make))
        self.up, self.norm3 = nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), make(width)
        self.spread = nn.Conv2d(width, 4 * width, 3, 1, 1)
        self.last = nn.Conv2d(width, 3, 5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm2(self.down(F.relu(self.norm1(self.first(x))))))
        x = F.relu(self.norm3(self.up(self.blocks(x))))
        return torch.tanh(self.last(F.pixel_shuffle(self.spread(x), 2)))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (TinyResNet, (1, 8, 8)),
    "large resnet": (TinyResNet, (1, 16, 16)),
    "concatenating": (Concatenating, (3, 8, 8)),
    **{norm: (partial(Cartoon, norm), (3, 8, 8)) for norm in NORMS},
}
"""By name, each with the shape of its input: "instance", "affine" and "batch" are generators with these norms."""
SUPERNETS = ("resnet", "concatenating", *NORMS)


def traced(name: str) -> tuple[fx.GraphModule, tuple[Tensor]]:
    """A fresh model in its traced form, with norms and biases that are not the trivial ones, and an example input."""
    return copy.deepcopy(_traced(name))


@cache
def _traced(name: str) -> tuple[fx.GraphModule, tuple[Tensor]]:
    make, shape = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = make(), torch.randn(1, *shape)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data = 0.5 * torch.randn(parameter.shape)
    return trace(randomize_norms(model), (x,)), (x,)


def whole_space(base: fx.GraphModule, inputs: tuple[Tensor], kind: str = "width_depth_kernel") -> Space:
    """Every even width, block and kernel of a network."""
    widths = {g.layer: tuple(range(2, g.width + 1, 2)) for g in WidthModel(base, inputs).free}
    same = same_channels(base, inputs, widths)
    return make_space(widths, residual_blocks(base, inputs), (), kind, kernel_sizes(base), same)


def supernet(name: str, kind: str = "width_depth_kernel") -> Supernet:
    """A supernet over the whole space of a model, its channels sorted by an importance drawn at random."""
    base, inputs = traced(name)
    space, generator = whole_space(base, inputs, kind), torch.Generator().manual_seed(3)
    scores = {layer: torch.rand(widths[-1], generator=generator) for layer, widths in space.widths.items()}
    return Supernet(sort_channels(base, inputs, scores), inputs, space)
