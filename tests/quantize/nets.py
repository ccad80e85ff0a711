"""Networks with planted faults that the better quantization methods are there to mend."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from compress.graph.fold import fold_batch_norms
from compress.graph.trace import trace


def sqnr_db(reference: Tensor, other: Tensor) -> float:
    """Signal to quantization noise, in dB."""
    return float(10 * torch.log10(reference.square().sum() / (reference - other).square().sum()).detach())


def traced(model: nn.Module, x: Tensor) -> fx.GraphModule:
    """The model's folded trace."""
    return fold_batch_norms(trace(model.eval(), (x[:2],)))


class Uneven(nn.Module):
    """Convolution, activation, grouped and transposed convolution, pooling, head; channel ranges as planted."""

    def __init__(self, activation: nn.Module, factors: Tensor | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.act = nn.Conv2d(3, 8, 3, padding=1), activation
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2, groups=4)
        self.head = nn.Linear(8, 5)
        if factors is not None:
            plant(self.a, self.b, factors)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.b(self.act(self.a(x))))
        x = torch.relu(self.up(x))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


@torch.no_grad()
def plant(first: nn.Conv2d, second: nn.Conv2d, factors: Tensor) -> None:
    """Multiply the first layer's channels and divide the second's inputs: the function stays, the ranges do not."""
    first.weight.mul_(factors[:, None, None, None])
    first.bias.mul_(factors)
    per_group = second.weight.shape[1]
    for output in range(second.weight.shape[0]):
        group = output // (second.weight.shape[0] // second.groups)
        second.weight[output].div_(factors[group * per_group : (group + 1) * per_group, None, None])


class Attending(nn.Module):
    """A pre-norm transformer block: (N, 6, 16) -> (N, 6, 16); `outliers` scales three channels of the norms."""

    def __init__(self, outliers: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)
        with torch.no_grad():
            for norm, readers in ((self.norm1, (self.query, self.key, self.value)), (self.norm2, (self.wide,))):
                norm.weight[:3] *= outliers
                for reader in readers:
                    reader.weight[:, :3] /= outliers

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        weights = torch.softmax(self.query(y) @ self.key(y).transpose(1, 2) / 4.0, -1)
        x = x + self.out(weights @ self.value(y))
        return x + self.narrow(nn.functional.gelu(self.wide(self.norm2(x))))
