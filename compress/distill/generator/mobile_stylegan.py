"""Belousov (2021, MobileStyleGAN): a generator imitates its teacher at every resolution, in pixels and in wavelets.

A head beside each resolution of the student, dropped after training, predicts the Haar coefficients of the teacher's
picture at twice that resolution; the student's own output counts as the finest of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.adversarial import AdversarySettings
from compress.distill.generator.base import GeneratorMethod, Options, Terms
from compress.distill.generator.taps import Features
from compress.errors import ModelError
from compress.graph.layers import LAYERS
from compress.students.mobile_stylegan import SLOPE, haar, inverse_haar
from compress.tasks import Task
from compress.train import OptimizerSettings, Player


@dataclass(frozen=True)
class MobileStyleGanOptions(Options):
    """The paper's weights; it brings pictures to 256 pixels for the perceptual term, here they stay as they are."""

    teacher: Terms = field(default_factory=lambda: Terms(perceptual=1.0))
    pyramid: float = 1.0
    """L1 plus squared error of pixels, at every resolution."""
    wavelet: float = 1.0
    """The same of Haar coefficients."""
    shared: str = ""
    """Path of a part that both networks have, such as `mapping`: the student takes the teacher's and leaves it so."""
    gan: float = 0.5
    real: Literal["auto", "target", "teacher"] = "teacher"
    adversary: AdversarySettings = field(
        default_factory=lambda: AdversarySettings(
            loss="non_saturating", penalty="r1", penalty_weight=10.0, penalty_every=16,
            augment=("flip", "translation", "cutout"), augment_probability=0.8,
        )
    )  # fmt: skip
    adversary_learning_rate: float = 5e-4


class MobileStyleGan(GeneratorMethod):
    """See the module's text; the student may be any generator of square images with even sides."""

    Options = MobileStyleGanOptions
    options: MobileStyleGanOptions

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        options: MobileStyleGanOptions,
        task: Task,
    ) -> None:
        super().__init__(teacher, student, example_inputs, options, task)
        if options.shared:
            share(teacher, student, options.shared)
        self.scales, heads = coarse_heads(student, example_inputs)
        parts = dict(self.extra.named_children()) if self.extra is not None else {}
        self.extra = nn.ModuleDict({**parts, "heads": heads})

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The student's player, which leaves the shared part alone, and the discriminator's."""
        if self.options.shared:
            learner.get_submodule(f"student.{self.options.shared}").requires_grad_(False)
        return super().players(learner, optimizer)

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The terms of `Options`, with those of all resolutions."""
        self._heads: Any = learner.extra["heads"]  # type: ignore[index]
        with Features(learner.student, self.scales) as self._ours:  # type: ignore[arg-type]
            return super().loss(learner, batch)

    def output_terms(self, output: Tensor, wanted: Tensor, batch: Any) -> dict[str, Tensor]:
        """The distances to the teacher's output, at every resolution and as a whole."""
        terms = super().output_terms(output, wanted, batch)
        pixels, coefficients = [], []
        for found in [*self._coarse(), haar(self.as_seen(output))]:
            picture = F.interpolate(self.as_seen(wanted), size=2 * found.shape[-1], mode="area")
            pixels.append(_both(inverse_haar(found), picture))
            coefficients.append(_both(found, haar(picture)))
        terms["pyramid"] = self.options.pyramid * torch.stack(pixels).sum()
        terms["wavelet"] = self.options.wavelet * torch.stack(coefficients).sum()
        return terms

    def _coarse(self) -> Iterator[Tensor]:
        """The Haar coefficients that the heads make of the student's maps, from coarse to fine."""
        for scale, head in zip(self.scales, self._heads, strict=True):
            yield head(F.leaky_relu(self._ours.caught[scale], SLOPE))


def coarse_heads(student: fx.GraphModule, example_inputs: Sequence[Tensor]) -> tuple[list[str], nn.ModuleList]:
    """(the last convolution of the student at each resolution below half the output's, a 1x1 head for each).

    Raises:
        ModelError: the student does not make square images with even sides.
    """
    nodes = [str(n.target) for n in student.graph.nodes if n.op == "call_module"]
    layers = [path for path in dict.fromkeys(nodes) if isinstance(student.get_submodule(path), LAYERS)]
    features = Features(student, layers)
    with torch.no_grad():
        output = features(*example_inputs)
    if output.dim() != 4 or output.shape[2] != output.shape[3] or output.shape[2] % 2:
        raise ModelError(
            f"distill.method mobile_stylegan takes square images with even sides, not {tuple(output.shape)}; "
            "take imitate"
        )
    last: dict[int, str] = {}
    for path in layers:
        shape = features.caught[path].shape
        if len(shape) == 4 and shape[2] == shape[3] and 2 * shape[2] < output.shape[2]:
            last[shape[2]] = path
    scales = [last[side] for side in sorted(last)]
    widths = [features.caught[path].shape[1] for path in scales]
    return scales, nn.ModuleList(nn.Conv2d(width, 4 * output.shape[1], 1) for width in widths)


def share(teacher: nn.Module, student: nn.Module, path: str) -> None:
    """Copies the teacher's part at `path` into the student's, in place.

    Raises:
        ModelError: one of them has no such part, or they differ in shape.
    """
    try:
        student.get_submodule(path).load_state_dict(teacher.get_submodule(path).state_dict())
    except (AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ModelError(
            f"distill.options.shared: '{path}' is not the same part of both networks ({reason})"
        ) from error


def _both(found: Tensor, wanted: Tensor) -> Tensor:
    return F.l1_loss(found, wanted) + F.mse_loss(found, wanted)
