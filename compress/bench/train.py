"""Training for the bench, all of it by the one loop: distillation as a recipe's step does it, plain learning, GANs."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.adversarial import Adversary
from compress.bench.beds.seeds import seeded
from compress.distill import Learner
from compress.distill.playing import Playing
from compress.graph.trace import trace
from compress.tasks import Task
from compress.train import DeviceSettings, LoopSettings, OptimizerSettings, Player, fit, make_fabric

_NEVER_S = 1e9  # between two checkpoints: what trains for seconds is not worth resuming
_LATENT = "z"


def distil(
    method: type[Playing],
    options: Mapping[str, Any],
    teacher: nn.Module,
    student: Callable[[], nn.Module],
    task: Task,
    *,
    seed: int,
    epochs: int = 10,
    learning_rate: float = 2e-3,
    batch_size: int | None = None,
    devices: DeviceSettings | None = None,
) -> nn.Module:
    """A new student of `teacher`, trained on `task` by `method` as `steps.distill` would.

    Args:
        options: the method's, as a recipe writes them.
        student: makes the student; its weights, and those of what the method adds, are drawn from `seed`.
    """
    inputs = task.example_inputs()
    with seeded(seed):
        traced = trace(copy.deepcopy(teacher), inputs)
        model = trace(student(), inputs)
        judged = copy.copy(task).with_teacher(_quietly(traced))  # a bed's task is shared by all cases
        trainer = method(traced, model, inputs, method.options_from(options), judged)
        learner = Learner(model, trainer.extra)
        learner.requires_grad_(True)

        def draw(indices: Tensor, generator: torch.Generator) -> Any:
            return trainer.view(judged.train_batch(indices, generator), generator)

        players = trainer.players(learner, OptimizerSettings("adamw", learning_rate, weight_decay=0.0))
        size = batch_size or task.batch_size
        play(
            players, draw, task.train_size(), epochs, size, seed, lambda epoch: trainer.on_epoch(epoch, epochs),
            devices=devices,
        )  # fmt: skip
    return model.eval()


def learn(model: nn.Module, task: Task, *, seed: int, epochs: int, learning_rate: float = 2e-3) -> nn.Module:
    """The model after learning from the task's own targets, in place, by the task's loss."""

    def loss(modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        return {"target": task.loss(modules["model"](*batch.inputs), batch.target)}

    player = Player("model", model, loss, OptimizerSettings("adamw", learning_rate, weight_decay=0.0))
    with seeded(seed):
        play([player], task.train_batch, task.train_size(), epochs, task.batch_size, seed)
    return model.eval()


def train_gan(
    generator: nn.Module,
    adversary: Adversary,
    draw_real: Callable[[int, torch.Generator], Tensor],
    *,
    seed: int,
    steps: int,
    latent: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    adversary_learning_rate: float | None = None,
    betas: tuple[float, float] = (0.0, 0.99),
    adversary_turns: int = 1,
    average: float = 0.0,
) -> nn.Module:
    """The generator after training against the adversary on samples of `draw_real(count, generator)`, in place.

    Args:
        steps: of the adversary; the generator takes one for every `adversary_turns` of them.
        latent: length of the generator's normal noise (N, latent).
        adversary_learning_rate: the generator's where it is not given.
        average: decay of the moving average of weights that is returned; 0 for the last weights.
    """

    def draw(indices: Tensor, randomness: torch.Generator) -> dict[str, Tensor]:
        noise = torch.randn(len(indices), latent, generator=randomness)
        return {"real": draw_real(len(indices), randomness), _LATENT: noise}

    def generator_loss(modules: Mapping[str, nn.Module], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"gan": adversary.generator_loss(modules["generator"](batch[_LATENT]), batch["real"])}

    def adversary_loss(modules: Mapping[str, nn.Module], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = modules["generator"](batch[_LATENT])
        return adversary.discriminator_loss(fake, batch["real"]).terms

    def optimizer(rate: float) -> OptimizerSettings:
        return OptimizerSettings("adamw", rate, 0.0, schedule="constant", warm_up_share=0.0, clip_norm=0.0, betas=betas)

    players = [
        Player("generator", generator, generator_loss, optimizer(learning_rate), every=adversary_turns),
        Player("adversary", adversary, adversary_loss, optimizer(adversary_learning_rate or learning_rate)),
    ]
    with seeded(seed):
        play(players, draw, steps * batch_size, 1, batch_size, seed, average=average)
    return generator.eval()


def play(
    players: Sequence[Player],
    draw: Callable[[Tensor, torch.Generator], Any],
    size: int,
    epochs: int,
    batch_size: int,
    seed: int,
    on_epoch: Callable[[int], None] | None = None,
    average: float = 0.0,
    devices: DeviceSettings | None = None,
) -> None:
    """Train players in place for so many epochs of `size` samples; by default on the CPU, in float32."""
    loop = LoopSettings(epochs, batch_size, seed, _NEVER_S, ema_decay=average)
    with tempfile.TemporaryDirectory() as folder:
        fit(players, draw, size, loop, make_fabric(devices or DeviceSettings()), Path(folder), on_epoch=on_epoch)


def _quietly(model: nn.Module) -> Callable[..., Tensor]:
    """The model as a function, without gradients."""

    @torch.no_grad()
    def predict(*inputs: Tensor) -> Tensor:
        output: Tensor = model(*inputs)
        return output

    return predict
