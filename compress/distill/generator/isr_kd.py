"""ISR-KD: a new domain without losing the old one.

"Face to Cartoon Incremental Super-Resolution using Knowledge Distillation" (2024).

The teacher is the network as it was trained on the old domain. The student learns the new domain from real outputs and
stays near the teacher's outputs: L = L_new(S(x), y) + lambda ||S(x) - T_old(x)||, on the new inputs alone or, with a
small memory, on old inputs too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, fx, nn

from compress.distill.generator.base import GeneratorMethod, Options, Terms
from compress.errors import DataError, RecipeError
from compress.tasks import Task
from compress.train import OptimizerSettings, Player


@dataclass(frozen=True)
class IsrKdOptions(Options):
    """The loss of an SRGAN on the new domain, and what keeps the old one."""

    target: Terms = field(default_factory=lambda: Terms(pixel=1.0))
    """The student against the real outputs of the new domain."""
    teacher: Terms = field(default_factory=lambda: Terms(pixel=1.0))
    """lambda: the student against the old network's outputs."""
    gan: float = 0.001
    memory: str = ""
    """A .safetensors file with a few old inputs, one tensor (M, ...) per model input, in order of name."""
    memory_batch: int = 8
    """How many of them are drawn at each step."""


class IsrKd(GeneratorMethod):
    """The new domain's loss and the retention, on the batch and on what is in the memory."""

    Options = IsrKdOptions
    options: IsrKdOptions

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        options: IsrKdOptions,
        task: Task,
    ) -> None:
        super().__init__(teacher, student, example_inputs, options, task)
        self.memory = read_memory(Path(options.memory), example_inputs) if options.memory else ()

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The players of all methods; norms keep the old domain's statistics, which new ones would overwrite."""
        learner.keep_norms = True  # type: ignore[assignment]
        return super().players(learner, optimizer)

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The terms on the batch, and the retention on old inputs drawn from the memory.

        Raises:
            RecipeError: the task has no real outputs: there is no new domain to learn.
        """
        if batch.target is None:
            raise RecipeError("distill.method: isr_kd learns from real outputs; take a task that has them")
        terms = super().loss(learner, batch)
        if self.memory:
            chosen = torch.randint(len(self.memory[0]), (self.options.memory_batch,))
            old = [x[chosen].to(batch.inputs[0].device) for x in self.memory]
            with torch.no_grad():
                wanted = self.teacher(*old)
            terms |= self.distances(learner(*old), wanted, self.options.teacher, "memory ")
        return terms


def read_memory(path: Path, example_inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The inputs in a memory file, in order of name.

    Raises:
        DataError: the file cannot be read, or its tensors are not what the model takes.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"distill.options.memory: {path} cannot be read ({error}); name a .safetensors file") from error
    inputs = tuple(found[name] for name in sorted(found))
    wanted = [example.dim() for example in example_inputs]
    if [x.dim() for x in inputs] != wanted or len({len(x) for x in inputs}) != 1:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise DataError(
            f"distill.options.memory: {path} holds tensors of shape {shapes or 'none'}; the model takes {len(wanted)} "
            f"inputs, as many samples of each"
        )
    return inputs
