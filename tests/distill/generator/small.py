"""A small generator, its narrower student, a task with real outputs and the loop, for the tests of these methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.distill import Learner
from compress.distill.generator import GeneratorMethod
from compress.graph.surgery import apply_edits
from compress.graph.trace import trace
from compress.tasks import Batch, PairedTranslation
from compress.train import DeviceSettings, FitResult, LoopSettings, OptimizerSettings, fit, make_fabric
from compress.types import ChannelEdit

INPUTS = (torch.zeros(1, 1, 8, 8),)
LIGHT = {"discriminator": "patch", "depth": 1, "width": 8}
"""A discriminator for outputs of 8 x 8, as a recipe names it."""


class Small(nn.Module):
    """(N, 1, 8, 8) to (N, 1, 8, 8): an encoder of two convolutions with norms, a decoder of two without."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip
        self.decoder = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def pair(cut: bool = True, seed: int = 0) -> tuple[fx.GraphModule, fx.GraphModule]:
    """(teacher, student); the student has half the channels inside, or is a copy."""
    torch.manual_seed(seed)
    teacher = trace(Small().eval(), INPUTS)
    edits = [ChannelEdit(name, 16, tuple(range(8))) for name in ("encoder.0", "encoder.3", "decoder.0")] if cut else []
    return teacher, apply_edits(teacher, edits, INPUTS)


def pictures(count: int, seed: int = 0) -> Tensor:
    """Smooth random pictures (count, 1, 8, 8) in [0, 1]."""
    noise = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, scale_factor=2, mode="bilinear")


def paired(count: int = 64, **settings: Any) -> PairedTranslation:
    """A task whose right output is the negative of the input."""
    splits = [(x, 1 - x) for x in (pictures(count), pictures(16, 1), pictures(16, 2))]
    return PairedTranslation(*splits, **{"batch_size": 16, **settings})


def batch_of(task: Any, count: int = 8) -> Batch:
    """The first training samples of a task."""
    return task.train_batch(torch.arange(count), torch.Generator().manual_seed(0))


def learner_of(method: GeneratorMethod, student: fx.GraphModule) -> Learner:
    """The student with what the method trains beside it."""
    return Learner(student, method.extra)


def taught(
    method: GeneratorMethod, student: fx.GraphModule, folder: Path, epochs: int = 2, rate: float = 2e-3
) -> FitResult:
    """Train a student in place by a method, on its task, as the distill step does."""
    learner = learner_of(method, student)
    learner.requires_grad_(True)
    task: Any = method.task
    folder.mkdir(parents=True, exist_ok=True)
    result = fit(
        method.players(learner, OptimizerSettings("adamw", rate, weight_decay=0.0)),
        lambda indices, generator: method.view(task.train_batch(indices, generator), generator),
        task.train_size(),
        LoopSettings(epochs, task.batch_size),
        make_fabric(DeviceSettings()),
        folder,
        on_epoch=lambda epoch: method.on_epoch(epoch, epochs),
    )
    method.finish(student)
    return result


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's state."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two states are equal, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def error(model: nn.Module, task: PairedTranslation) -> float:
    """The mean absolute error on the held-out pairs."""
    with torch.no_grad():
        errors = [F.l1_loss(model(*batch.inputs), batch.target) for batch in task.batches("validation")]
    return float(torch.stack(errors).mean())


def has_gradient(module: nn.Module) -> bool:
    """Whether a backward pass left a gradient other than 0 anywhere in a module."""
    return any(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())
