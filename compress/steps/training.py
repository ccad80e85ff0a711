"""One way from a recipe's settings into the training loop, for every step that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.job import Job
from compress.tasks import Batch
from compress.train import FitResult, Guard, LoopSettings, OptimizerSettings, Player, fit
from compress.train.kernels import wrong_in_bfloat16
from compress.train.norms import recalibrate_norms
from compress.types import Number

Draw = Callable[[Tensor, torch.Generator], Batch]


def train(
    job: Job,
    index: int,
    folder: Path,
    model: nn.Module,
    loss: Callable[[Any, Any], dict[str, Tensor]] | None,
    draw: Draw,
    settings: Any,
    judge: nn.Module,
    epochs: int | None = None,
    on_epoch: Callable[[int], None] | None = None,
    norm_batches: int = 0,
    players: Callable[[OptimizerSettings], list[Player]] | None = None,
    guard: Guard | None = None,
    teachers: Sequence[nn.Module] = (),
) -> FitResult:
    """Train `model` by `loss` in place; quality on the validation split is that of `judge`.

    `teachers` are the networks that the loss asks and nobody trains: for that time they are where the training is.
    With `players`, a function of the recipe's optimizer, these play instead of the one that `loss` makes; `model` is
    what the first of them trains.

    With `norm_batches`, the norms of `judge` take their statistics from so many batches before each look: in a short
    training the running ones lag behind the weights, and the best epoch would be chosen by an accident.
    `settings` is a recipe section with the training keys (see `recipe.Training`).
    """
    optimizer = OptimizerSettings(
        settings.optimizer,
        settings.learning_rate,
        getattr(settings, "weight_decay", 0.0),
        getattr(settings, "momentum", 0.9),
        getattr(settings, "schedule", "cosine"),
        getattr(settings, "warm_up", 0.05),
        getattr(settings, "clip_norm", 5.0),
        getattr(settings, "betas", (0.9, 0.999)),
    )
    loop = LoopSettings(
        epochs=settings.epochs if epochs is None else epochs,
        batch_size=settings.batch_size or job.task.batch_size,
        seed=job.recipe.seed * 1_000 + index,
        checkpoint_every_s=settings.checkpoint_every_s,
        evaluate_every=getattr(settings, "evaluate_every", 1),
        keep=settings.keep,
        ema_decay=getattr(settings, "ema", 0.0),
    )
    task = job.judged_task if "traced_teacher" in job.__dict__ else job.task
    sign = 1.0 if task.higher_is_better else -1.0
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.requires_grad_(True)

    def evaluate() -> Number:
        if norm_batches:
            recalibrate_norms(judge, job.train_batches(norm_batches))
        return task.quality(job.predictor(judge), "validation")

    playing = _players(model, loss, optimizer, players)
    fabric = fabric_for(job, [*(player.module for player in playing), *teachers])
    with job.console.progress(f"{job.verbs[index]}") as bar, on_device(teachers, fabric.device):
        result = fit(
            playing,
            draw,
            task.train_size(),
            loop,
            fabric,
            folder,
            evaluate=evaluate,
            better=lambda new, old: sign * new > sign * old,
            on_epoch=on_epoch,
            watch=bar.watch,
            guard=guard,
        )
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model.to("cpu")
    return result


def fabric_for(job: Job, networks: Sequence[nn.Module]) -> Any:
    """The recipe's Fabric; float32's where this CPU's bfloat16 kernels compute one of the networks wrongly."""
    if job.devices.precision != "bf16" or job.fabric.device.type != "cpu":
        return job.fabric
    wrong = wrong_in_bfloat16(networks)
    if not wrong:
        return job.fabric
    chosen = job.recipe.train.precision == "auto"
    job.console.warn(
        f"this CPU's bfloat16 kernels compute {', '.join(wrong[:3])}{' and more' if len(wrong) > 3 else ''} wrongly: "
        + ("training in float32" if chosen else "train.precision: bf16 was asked for, and is kept; auto takes float32")
    )
    return job.exact_fabric if chosen else job.fabric


def _players(
    model: nn.Module,
    loss: Callable[[Any, Any], dict[str, Tensor]] | None,
    optimizer: OptimizerSettings,
    players: Callable[[OptimizerSettings], list[Player]] | None,
) -> list[Player]:
    if players is not None:
        return players(optimizer)
    assert loss is not None
    return [Player("model", model, loss, optimizer)]


@contextmanager
def on_device(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """The modules are on a device for a while, and back on the CPU after it."""
    for module in modules:
        module.to(device)
    yield
    for module in modules:
        module.to("cpu")


def networks_of(method: Any) -> list[nn.Module]:
    """The networks that a distillation method holds beside the student and what is trained with it."""
    return [held for held in vars(method).values() if isinstance(held, nn.Module) and held is not method.extra]
