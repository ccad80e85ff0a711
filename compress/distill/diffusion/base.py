"""What the distillation methods for diffusion models share: denoisers of all parties, noise levels, rollouts.

Everything is written in the coordinate of `compress.diffusion`: x = x0 + level e. A method is one small file: which
players it brings along, how it draws its inputs, and its losses.

Legend: N samples of shape (C, H, W); levels (N,); conditions (N, K), or none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.diffusion import Denoiser, guided, per_sample
from compress.distill.playing import STRICT, Playing
from compress.errors import RecipeError
from compress.tasks import Diffusion, Task
from compress.train import OptimizerSettings, Player

Metric = Literal["l1", "l2", "huber"]


@dataclass(frozen=True)
class DiffusionOptions:
    """The settings that all methods for diffusion models share."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    guidance: float = 1.0
    """Classifier-free guidance of the teacher; 1 is none."""
    asked: tuple[int, ...] = ()
    """The conditions to learn, by their numbers among the task's; none: all of them (MSD's students share them out)."""


class DiffusionMethod(Playing):
    """A distillation of a denoiser."""

    Options: ClassVar[type[Any]] = DiffusionOptions

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        options: Any,
        task: Task,
    ) -> None:
        if not isinstance(task, Diffusion):
            kind, given = type(self).__name__, type(task).__name__
            raise RecipeError(f"distill: {kind} is for diffusion, and this is a {given} task")
        self.task, self.options = task, options
        self.teacher = teacher.eval().requires_grad_(False)
        self.asked = task.asked
        if options.asked:
            if task.asked is None or max(options.asked) >= len(task.asked):
                count = 0 if task.asked is None else len(task.asked)
                raise RecipeError(f"distill.options.asked names condition {max(options.asked)}; the task has {count}")
            self.asked = task.asked[list(options.asked)]
        self.levels = list(task.sampler.levels)
        self.prepare(student, example_inputs)

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """Make the networks that the method brings along; called once, when all else is known."""

    # The parties, each as a function (x, level, *condition) to the clean sample

    def denoiser(self, network: nn.Module) -> Denoiser:
        """A network as the student's denoiser."""
        return Denoiser(self.task.with_until(network), self.task.preconditioning)

    @property
    def real(self) -> Callable[..., Tensor]:
        """The teacher's denoiser, with the recipe's guidance."""
        return self.as_teacher(self.teacher)

    def as_teacher(self, network: nn.Module, guidance: float | None = None) -> Callable[..., Tensor]:
        """The teacher's network, in this state or another, as a denoiser with a guidance; by default the recipe's."""
        teacher = Denoiser(self.task.with_until(network), self.task.teacher_preconditioning)
        return guided(teacher, self.options.guidance if guidance is None else guidance, torch.zeros_like)

    def teacher_inputs(self, x: Tensor, level: Tensor, condition: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the teacher's network, or a copy of it, is given for samples x at levels (N,)."""
        factors = self.task.teacher_preconditioning(level)
        times = (factors.time,) * (2 if self.task.takes_until else 1)
        return per_sample(factors.scale, x) * x, *times, *condition

    # What is drawn; all from torch's own state, which the loop sets for each step

    def noise(self, count: int) -> Tensor:
        """Standard normal samples (count, C, H, W)."""
        return torch.randn(count, *self.task.shape, device=self.device)

    def condition(self, count: int) -> tuple[Tensor, ...]:
        """Conditions that samples are made for, drawn evenly; nothing where the task has none."""
        if self.asked is None:
            return ()
        return (self.asked[torch.randint(len(self.asked), (count,))].to(self.device),)

    @property
    def device(self) -> torch.device:
        """Where the teacher is, and with it the training."""
        return next(self.teacher.parameters()).device

    def rollout(self, denoise: Callable[..., Tensor], count: int, condition: tuple[Tensor, ...]) -> Tensor:
        """Samples as the task's few-step sampler makes them, left at a random step, which alone has a gradient.

        Each step denoises and adds fresh noise up to the next level ("backward simulation", Yin et al., 2024): what
        the student is trained on is what it will be given.
        """
        last = int(torch.randint(len(self.levels), ()))
        clean = torch.zeros(count, *self.task.shape, device=self.device)
        for number in range(last + 1):
            level = torch.full((count,), self.levels[number], device=self.device)
            x = (clean if number else 0) + per_sample(level, clean) * self.noise(count)
            with torch.set_grad_enabled(number == last and torch.is_grad_enabled()):
                clean = denoise(x, level, *condition)
        return clean

    def generate(self, denoise: Callable[..., Tensor], latent: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """One-step samples of standard normal latents (N, C, H, W): what is said at the sampler's first level."""
        first = torch.full((len(latent),), self.levels[0], device=latent.device)
        return denoise(self.levels[0] * latent, first, *condition)

    def student_player(
        self,
        learner: nn.Module,
        optimizer: OptimizerSettings,
        loss: Callable[[Any, Any], dict[str, Tensor]],
        every: int = 1,
    ) -> Player:
        """The student as a player with a loss of (all modules, batch)."""
        return Player("student", learner, loss, optimizer, every)

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The student alone, by `loss`."""
        return [self.student_player(learner, optimizer, lambda modules, batch: self.loss(modules["student"], batch))]

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Named loss terms of the student on one batch, for methods with one player."""
        raise NotImplementedError


def rounds_of(student: nn.Module) -> nn.ModuleDict:
    """The `extra` of a method that learns in rounds: `previous`, what the student was when its `round` began.

    With the student, so that a training that goes on after an interruption finds it again.
    """
    extra = nn.ModuleDict({"previous": copy.deepcopy(student)})
    extra.register_buffer("round", torch.zeros((), dtype=torch.long))
    return extra


def begin_round(extra: Any, student: nn.Module, now: int) -> None:
    """Where a new round begins, what the student has become is what it was."""
    if now > int(extra.round):
        extra["previous"].load_state_dict(student.state_dict())
        extra.round.fill_(now)


def no_loss(network: nn.Module) -> Tensor:
    """Zero, for a player that waits: its gradients are zero too."""
    return torch.stack([p.sum() * 0 for p in network.parameters()]).sum()


def copy_of(network: nn.Module) -> nn.Module:
    """A copy of a network to train, with gradients."""
    return copy.deepcopy(network).requires_grad_(True)


def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the parameters of a running average towards a network's, in place."""
    with torch.no_grad():
        for ours, theirs in zip(average.parameters(), network.parameters(), strict=True):
            ours.lerp_(theirs, 1 - decay)


def distance(output: Tensor, wanted: Tensor, metric: Metric) -> Tensor:
    """The mean distance of each sample: (N,). Huber's constant is 0.00054 sqrt(D) (Song and Dhariwal, 2024)."""
    difference = (output - wanted).flatten(1)
    if metric == "l1":
        return difference.abs().mean(1)
    if metric == "l2":
        return difference.square().mean(1)
    constant = 0.00054 * difference.shape[1] ** 0.5
    return torch.sqrt(difference.square().sum(1) + constant**2) - constant


def raw_loss(denoiser: Denoiser, clean: Tensor, x: Tensor, level: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
    """The mean squared error of a network's raw output on samples whose clean ones are known, per sample: (N,)."""
    factors = denoiser.preconditioning(level)
    raw = denoiser.network(per_sample(factors.scale, x) * x, factors.time, *condition)
    wanted = denoiser.preconditioning.output_of(clean, x, level)
    return F.mse_loss(raw.float(), wanted, reduction="none").flatten(1).mean(1)
