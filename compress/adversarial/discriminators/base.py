"""What every discriminator is: towers of layers over views of the input, and a head on each tower that gives logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.errors import DataError

SLOPE = 0.2
_FREQUENCIES = 8


@dataclass(frozen=True)
class Condition:
    """What a sample is judged as: a class label (N,) and the number of noise steps it went through (N,)."""

    label: Tensor | None = None
    time: Tensor | None = None


class Discriminator(nn.Module):
    """Towers and heads; a subclass says what each tower reads (`inputs`).

    Args:
        towers: layers in order, whose outputs are the intermediate maps; an activation belongs to its layer.
        heads: one per tower, from its last map (N, C, ...) to logits (N, 1, ...).
        widths: C of each head's input.
        classes: number of classes to condition on, 0 for none.
        timed: whether to condition on the number of noise steps.
    """

    def __init__(
        self,
        towers: Sequence[nn.Sequential],
        heads: Sequence[nn.Module],
        widths: Sequence[int],
        classes: int = 0,
        timed: bool = False,
    ) -> None:
        super().__init__()
        self.towers, self.heads = nn.ModuleList(towers), nn.ModuleList(heads)
        self.widths = tuple(widths)
        self.projections = nn.ModuleList(Projection(width, classes, timed) for width in widths)

    def inputs(self, x: Tensor) -> list[Tensor]:
        """What each tower reads of the samples."""
        return [x for _ in self.towers]

    def maps(self, x: Tensor) -> list[list[Tensor]]:
        """The output of every layer, tower by tower."""
        found = []
        for tower, view in zip(self.towers, self.inputs(x), strict=True):
            outputs: list[Tensor] = []
            for layer in tower.children():
                outputs.append(layer(outputs[-1] if outputs else view))
            found.append(outputs)
        return found

    def features(self, x: Tensor) -> list[Tensor]:
        """All intermediate maps, for feature matching and discriminator-cooperated distillation."""
        return [output for outputs in self.maps(x) for output in outputs]

    def hidden(self, x: Tensor) -> list[Tensor]:
        """What each head reads."""
        return [outputs[-1] for outputs in self.maps(x)]

    def forward(self, x: Tensor, condition: Condition | None = None) -> list[Tensor]:
        """The logits (N, 1, ...), one tensor per tower."""
        condition = condition or Condition()
        return [
            head(hidden) + projection(hidden, condition)
            for head, projection, hidden in zip(self.heads, self.projections, self.hidden(x), strict=True)
        ]


class Projection(nn.Module):
    """The logit's conditional part: <embedding, mean of the hidden map over positions> (Miyato and Koyama 2018).

    It starts at zero: an unconditional discriminator.
    """

    def __init__(self, width: int, classes: int, timed: bool) -> None:
        super().__init__()
        self.label = nn.Embedding(classes, width) if classes else None
        self.time = nn.Linear(2 * _FREQUENCIES, width) if timed else None
        for part in (self.label, self.time):
            for parameter in part.parameters() if part is not None else ():
                nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor, condition: Condition) -> Tensor:
        """What the condition adds to the logits: (N, 1, ...) with one position; 0 for an unconditional one."""
        embedded = []
        given = ("class label", self.label, condition.label), ("time", self.time, condition.time)
        for name, embed, value in given:
            if (embed is None) != (value is None):
                wanted, got = ("a", "none was given") if embed is not None else ("no", "one was given")
                raise DataError(f"the discriminator was built for {wanted} {name} per sample, and {got}")
            if embed is not None and value is not None:
                embedded.append(embed(value if name == "class label" else _waves(value)))
        if not embedded:
            return hidden.new_zeros(())
        added_N = (torch.stack(embedded).sum(0) * hidden.flatten(2).mean(2)).sum(1)
        return added_N.view(-1, *[1] * (hidden.dim() - 1))


def activated(layer: nn.Module) -> nn.Sequential:
    """The layer followed by the leaky rectifier that all discriminators here use."""
    return nn.Sequential(layer, nn.LeakyReLU(SLOPE))


def _waves(times_N: Tensor) -> Tensor:
    """Sines and cosines of log(1 + t) at doubling frequencies: (N, 2 F). The logarithm keeps short times apart."""
    position = torch.log1p(times_N.float())[:, None] / math.log(1001)
    angles = position * (2.0 ** torch.arange(_FREQUENCIES, device=times_N.device)) * math.pi / 2
    return torch.cat([angles.sin(), angles.cos()], dim=1)
