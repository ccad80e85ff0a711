"""Small nets with what the rewrites look for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.graph.trace import trace


class Dense(nn.Module):
    """A residual dense block between two convolutions, as in ESRGAN; `growing` nests its concatenations."""

    def __init__(self, width: int = 8, growth: int = 8, count: int = 3, growing: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 1, 1)
        self.grow = nn.ModuleList(nn.Conv2d(width + i * growth, growth, 3, 1, 1) for i in range(count))
        self.fuse = nn.Conv2d(width + count * growth, width, 3, 1, 1)
        self.last = nn.Conv2d(width, 3, 3, 1, 1)
        self.growing = growing

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        read, parts = x, [x]
        for conv in self.grow:
            parts.append(F.leaky_relu(conv(read), 0.2))
            read = torch.cat([read, parts[-1]], 1) if self.growing else torch.cat(parts, 1)
        return self.last(x + self.fuse(read) * 0.2)


class UNet(nn.Module):
    """Down and up again, with a skip connection that is concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up, self.join, self.leave = (
            nn.ConvTranspose2d(16, 16, 4, 2, 1),
            nn.Conv2d(24, 8, 3, 1, 1),
            nn.Conv2d(8, 3, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.enter(x))
        up = F.relu(self.up(F.relu(self.down(skip))))
        return self.leave(F.relu(self.join(torch.cat([up, skip], 1))))


class Generator(nn.Module):
    """A 7x7 stem with an instance norm, a stride, a dense pair and a transposed convolution: all passes in one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 7, 1, 3), nn.InstanceNorm2d(16, affine=True)
        self.down, self.grow = nn.Conv2d(16, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.fuse = nn.Conv2d(32, 16, 3, 1, 1)
        self.up, self.out = nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.Conv2d(16, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.down(F.relu(self.norm(self.stem(x)))))
        x = x + self.fuse(torch.cat([x, F.relu(self.grow(x))], 1))
        return self.out(F.relu(self.up(x)))


def traced(net: nn.Module, *shape: int) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    """The traced net and its example inputs."""
    example_inputs = (torch.randn(shape, generator=torch.Generator().manual_seed(5)),)
    return trace(net.eval(), example_inputs), example_inputs


def close(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    """Assert that two outputs differ by at most a share of the second's largest value."""
    assert got.shape == want.shape
    with torch.no_grad():
        assert float((got - want).abs().max()) <= tolerance * float(want.abs().max())


def ops(module: fx.GraphModule) -> Sequence[str]:
    """The nodes of a graph by what they call: a layer's kind, or an op's name."""
    return [
        type(module.get_submodule(str(n.target))).__name__ if n.op == "call_module" else str(n.target)
        for n in module.graph.nodes
        if n.op.startswith("call")
    ]
