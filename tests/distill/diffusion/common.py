"""A bed where everything is known: one-pixel samples from a Gaussian, and networks that denoise one exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.diffusion import Edm, euler, preconditioning_of, renoise, table_of
from compress.distill.diffusion import DiffusionMethod
from compress.graph.trace import trace
from compress.metrics import Features
from compress.tasks import Diffusion

MEAN, STD, FIRST_LEVEL = 2.0, 0.5, 2.5
SAYS_CLEAN = preconditioning_of("sample", Edm())


class Gaussian(nn.Module):
    """The exact denoiser of N(mean, std^2), as a network that says the clean sample."""

    def __init__(self, mean: float = MEAN, std: float = STD) -> None:
        super().__init__()
        self.mean, self.std = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(std))
        self.layer = nn.Conv2d(1, 1, 1, bias=False)  # passes on what it gets; for methods that change layers
        nn.init.ones_(self.layer.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        level = time.reshape(-1, 1, 1, 1)
        share = self.std**2 / (self.std**2 + level**2)
        found: Tensor = self.layer(self.mean + share * (x - self.mean))
        return found


class Linear(nn.Module):
    """A generator a z + b of the noise z behind its input."""

    def __init__(self, a: float = 1.5, b: float = -1.0) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.a * x / time.reshape(-1, 1, 1, 1) + self.b


def bed(levels: tuple[float, ...] = (FIRST_LEVEL, 0.0), sampler: Any = renoise, **settings: Any) -> Diffusion:
    """The task: samples (1, 1, 1) of N(2, 0.5^2)."""
    generator = torch.Generator().manual_seed(0)
    samples = MEAN + STD * torch.randn(256, 1, 1, 1, generator=generator)
    return Diffusion(
        samples[:128], samples[128:], preconditioning=SAYS_CLEAN,
        sampler=table_of("sampler", sampler, levels, SAYS_CLEAN),
        features=Features("the pixel", lambda images: images[:, 0].flatten(1)),
        count=64, batch_size=64, pixels=lambda samples: samples.expand(-1, 3, -1, -1), **settings,
    )  # fmt: skip


def traced(network: nn.Module, task: Diffusion) -> fx.GraphModule:
    """A network as the pipeline holds it."""
    return trace(network, task.example_inputs())


def method(
    kind: type[DiffusionMethod], task: Diffusion | None = None, teacher: nn.Module | None = None,
    student: nn.Module | None = None, **options: Any,
) -> tuple[Any, fx.GraphModule]:  # fmt: skip
    """A method on the bed, and the student."""
    task = task or bed()
    known = traced(teacher or Gaussian(), task)
    learning = traced(student or Linear(), task)
    return kind(known, learning, task.example_inputs(), kind.options_from(options), task), learning


def batch_of(task: Diffusion, count: int = 64) -> Any:
    """A training batch."""
    return task.train_batch(torch.arange(count), torch.Generator().manual_seed(1))


__all__ = [
    "FIRST_LEVEL",
    "MEAN",
    "SAYS_CLEAN",
    "STD",
    "Gaussian",
    "Linear",
    "batch_of",
    "bed",
    "euler",
    "method",
    "traced",
]
