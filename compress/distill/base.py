"""What a distillation method is: which modules it trains beside the student, what it shows both, and its losses.

A method is one small file. The pipeline builds it with `build(config, teacher, student, example_inputs)`, hands its
`loss` to the one training loop, and throws `extra` away before export: train-only modules never reach a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.errors import ModelError
from compress.graph.layers import BATCH_NORM

LabelLoss = Callable[[Tensor, Any], Tensor]


class Learner(nn.Module):
    """The student with the train-only modules of the method, as one player; called, it is the student."""

    def __init__(self, student: nn.Module, extra: nn.Module | None = None, keep_norms: bool = False) -> None:
        super().__init__()
        self.student = student
        self.keep_norms = keep_norms
        self.extra = extra if extra is not None else nn.Identity()

    def train(self, mode: bool = True) -> Self:
        """Switch to training; with `keep_norms` the student's BatchNorms use and keep the statistics they have."""
        super().train(mode)
        for module in self.student.modules() if self.keep_norms else ():
            if isinstance(module, BATCH_NORM):
                module.eval()
        return self

    def forward(self, *inputs: Tensor) -> Tensor:
        """The student's output."""
        output: Tensor = self.student(*inputs)
        return output


@dataclass(frozen=True)
class Settings:
    """The settings that the methods share; see the recipe's `distill` section."""

    temperature: float = 4.0
    label_weight: float = 0.0
    mixup: float = 0.0
    feature_weight: float = 1.0
    teacher_layer: str | None = None
    student_layer: str | None = None


class Distiller(Protocol):
    """A distillation method."""

    extra: nn.Module | None

    def view(self, batch: Any, generator: torch.Generator) -> Any:
        """The batch as teacher and student both see it (one view for both: cards on consistent teaching)."""
        ...

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Named loss terms of one batch; their sum is minimized."""
        ...


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p_teacher || p_student) at temperature T, averaged over the batch (Hinton et al. 2015).

    The mean is over samples, not over elements: dividing by the class count as well would weaken the loss tenfold for
    ten classes. T^2 keeps the gradient's size when the temperature changes.
    """
    log_student = F.log_softmax(student_logits.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def mix_pairs(batch: Any, probability: float, generator: torch.Generator) -> Any:
    """The batch with each image mixed with another by one random share, with the given probability (Zhang 2018).

    The labels no longer fit a mixed image and are dropped.
    """
    if not probability or float(torch.rand((), generator=generator)) >= probability:
        return batch
    share = float(torch.rand((), generator=generator))
    order = torch.randperm(len(batch), generator=generator)
    mixed = tuple(share * x + (1 - share) * x[order] for x in batch.inputs)
    return replace(batch, inputs=mixed, target=None, sample_ids=None)


class Tap:
    """Catches the output of one layer while the model runs; a context manager."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        try:
            self._layer = model.get_submodule(layer)
        except AttributeError as error:
            raise ModelError(
                f"distill: the model has no layer '{layer}'; report.html lists them layer by layer"
            ) from error
        self.value: Tensor | None = None

    def __enter__(self) -> Self:
        self._handle = self._layer.register_forward_hook(self._keep)
        return self

    def _keep(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self.value = output

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()

    @property
    def caught(self) -> Tensor:
        """The layer's last output."""
        if self.value is None:
            raise ModelError("distill: the tapped layer did not run in the forward pass")
        return self.value


def feature_layers(model: fx.GraphModule) -> list[str]:
    """The layers a feature loss may tap, in order: norms after convolutions, else the convolutions themselves."""
    order = [str(n.target) for n in model.graph.nodes if n.op == "call_module"]
    norms = [p for p in order if isinstance(model.get_submodule(p), (nn.BatchNorm2d, nn.GroupNorm))]
    convs = [p for p in order if isinstance(model.get_submodule(p), nn.Conv2d)]
    return norms or convs


def shared_layer(teacher: fx.GraphModule, student: fx.GraphModule, settings: Settings, share: float) -> tuple[str, str]:
    """The (teacher, student) layers to tap: as set, or the one at `share` of the depth that both models have."""
    if settings.teacher_layer and settings.student_layer:
        return settings.teacher_layer, settings.student_layer
    ours = set(feature_layers(student))
    common = [layer for layer in feature_layers(teacher) if layer in ours]
    if not common:
        raise ModelError("distill: teacher and student share no layer; name teacher_layer and student_layer")
    chosen = common[min(len(common) - 1, int(share * len(common)))]
    return settings.teacher_layer or chosen, settings.student_layer or chosen


def run_taps(
    teacher: nn.Module, student: nn.Module, layers: tuple[str, str], example_inputs: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The tapped features of teacher and student on the example inputs, to size the modules between them."""
    with torch.no_grad(), Tap(teacher, layers[0]) as theirs, Tap(student, layers[1]) as ours:
        teacher(*example_inputs)
        student(*example_inputs)
    return theirs.caught, ours.caught
