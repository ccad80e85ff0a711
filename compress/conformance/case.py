"""One operator case: a small module around one operator, its inputs, and the kinds of model that need it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

VISION, GENERATOR, DIFFUSION, VOCODER = "vision", "generator", "diffusion", "vocoder"
KINDS = (VISION, GENERATOR, DIFFUSION, VOCODER)

IMAGE = (1, 8, 12, 12)
SIGNAL = (1, 8, 32)
TOKENS = (1, 12, 16)
ROW = (1, 16)
VOLUME = (1, 4, 6, 6, 6)

_HEAD_WIDTH = 4
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True, slots=True)
class Case:
    """One operator: `make()` gives its module, `shapes` are its inputs' (batch 1 first), `kinds` who needs it.

    Weights and inputs are random numbers seeded by the name, so that they are the same on every machine.
    """

    name: str
    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]
    family: str = ""

    def module(self) -> nn.Module:
        """The module, in eval mode, with norms that have seen data: a wrong eps, scale or statistic shows."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            module = self.make()
            for part in module.modules():
                if isinstance(part, _NORMS):
                    _stir(part)
        return module.eval().requires_grad_(False)

    def inputs(self, count: int) -> list[tuple[Tensor, ...]]:
        """`count` samples, each one tensor per input, standard normal."""
        generator = torch.Generator().manual_seed(self._seed + 1)
        return [tuple(torch.randn(shape, generator=generator) for shape in self.shapes) for _ in range(count)]

    @property
    def _seed(self) -> int:
        return zlib.crc32(self.name.encode())


def _stir(norm: Any) -> None:
    """Give a norm's statistics and its affine part values other than the neutral ones, in place."""
    if getattr(norm, "running_mean", None) is not None:
        norm.running_mean.normal_(0.0, 0.3)
        norm.running_var.uniform_(0.3, 2.0)
    for parameter, low, high in ((norm.weight, 0.5, 1.5), (getattr(norm, "bias", None), -0.5, 0.5)):
        if parameter is not None:
            nn.init.uniform_(parameter, low, high)


class Function(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        """The function's value."""
        return self.function(*inputs)


class Framed(nn.Module):
    """A layer, the operator, a layer: so that the operator stands where a model has it, between quantized values.

    The layers are pointwise convolutions, or linear layers for tokens; where the operator's output is no tensor of
    channels, only the first one stands.
    """

    def __init__(self, operator: nn.Module, shapes: tuple[tuple[int, ...], ...], tokens: bool) -> None:
        super().__init__()
        self.stem = _pointwise(shapes[0], shapes[0], tokens)
        self.operator = operator
        with torch.no_grad():
            probe = [torch.rand(shape) for shape in shapes]
            shape = tuple(operator.eval()(self.stem(probe[0]), *probe[1:]).shape)
        self.head = _pointwise(shape, (shape[0], _HEAD_WIDTH), tokens)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """The head's output of the operator's output."""
        output: Tensor = self.head(self.operator(self.stem(first), *others))
        return output


FRAME = ("stem", "head")


def _pointwise(shape: tuple[int, ...], out: tuple[int, ...], tokens: bool) -> nn.Module:
    """The layer of a frame for a value of `shape`, which makes as many channels as `out` has."""
    rank = len(shape)
    if rank <= 2 or (tokens and rank == 3):
        return nn.Linear(shape[-1], out[-1]) if rank >= 2 else nn.Identity()
    kinds: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    return kinds[rank](shape[1], out[1], 1) if rank in kinds else nn.Identity()


Operator = Callable[..., Any]


def case(
    name: str, operator: Operator | Made, *shapes: tuple[int, ...], kinds: tuple[str, ...] = KINDS, tokens: bool = False
) -> Case:
    """A case whose operator stands in a frame.

    Args:
        name: unique in the suite.
        operator: a function of tensors, or `Made(factory)` for a module.
        shapes: of the inputs; the first goes through the frame's first layer.
        kinds: the kinds of model that need it.
        tokens: channels come last, as in a transformer.
    """
    return Case(name, lambda: Framed(_module(operator), shapes, tokens), shapes, kinds)


def bare(name: str, make: Callable[[], nn.Module], *shapes: tuple[int, ...], kinds: tuple[str, ...] = KINDS) -> Case:
    """A case without a frame: convolutions and linear layers, which are quantized by themselves."""
    return Case(name, make, shapes, kinds)


def _module(operator: Operator | Made) -> nn.Module:
    """The operator as a module: what a factory makes, or the function itself."""
    if isinstance(operator, Made):
        return operator.make()
    return Function(operator)


@dataclass(frozen=True, slots=True)
class Made:
    """Marks a factory of modules, so that it is not taken for the operator itself."""

    make: Callable[[], nn.Module]
