"""The search space of a traced model: a width per free channel group, blocks that stay, kernels, the image's size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compress.graph.groups import Block
from compress.types import BlockEdit, ChannelEdit, Edit, KernelEdit, ResolutionEdit

UNIFORM = ((1.0, 1), (0.75, 1), (0.5, 1), (0.25, 1), (1.0, 2), (0.5, 2))
"""The first candidates: (share of every width, keep every n-th block); they span the front from the start."""


@dataclass(frozen=True)
class Draw:
    """Stands for an Optuna trial: `place(name, last)` is what a choice takes of its range from 0 to `last`."""

    place: Callable[[str, int], int]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """The choice's place; every range of a space begins at 0."""
        return self.place(name, high)


@dataclass(frozen=True)
class Space:
    """What may be chosen.

    `widths[layer]` go from narrow to full, in multiples of what the target wants; `blocks` may be removed; `sizes`
    (height, width) of the image go from small to the model's own, and are empty where it works at no other.
    `kernels[layer]` are the odd sizes a convolution may have, up to its own. `same_channels[layer]` are the layers that
    stand for a group whose root a removed block takes away.
    """

    widths: Mapping[str, tuple[int, ...]]
    blocks: tuple[Block, ...]
    sizes: tuple[tuple[int, int], ...] = ()
    kernels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    same_channels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def sample(self, trial: Any) -> dict[str, int]:
        """One candidate of an Optuna trial, or of a `Draw`.

        `width:<layer>` -> channels, `keep:<block>` -> 0, 1, `kernel:<layer>` -> taps, `height` in pixels.
        """
        choice = {f"keep:{b.name}": trial.suggest_int(f"keep:{b.name}", 0, 1) for b in self.blocks}
        for layer, widths in self.widths.items():
            choice[f"width:{layer}"] = widths[trial.suggest_int(f"width:{layer}", 0, len(widths) - 1)]
        for layer, kernels in self.kernels.items():
            choice[f"kernel:{layer}"] = kernels[trial.suggest_int(f"kernel:{layer}", 0, len(kernels) - 1)]
        if self.sizes:
            choice["height"] = self.sizes[trial.suggest_int("height", 0, len(self.sizes) - 1)][0]
        return choice

    def uniform(self, share: float, keep_every: int = 1) -> dict[str, int]:
        """The parameters of the candidate with every group at about `share` of its width and every n-th block kept."""
        parameters = {f"keep:{b.name}": int(i % keep_every == 0) for i, b in enumerate(self.blocks)}
        for layer, widths in self.widths.items():
            nearest = min(range(len(widths)), key=lambda i: abs(widths[i] - share * widths[-1]))
            parameters[f"width:{layer}"] = nearest
        parameters |= {f"kernel:{layer}": len(kernels) - 1 for layer, kernels in self.kernels.items()}
        if self.sizes:
            parameters["height"] = len(self.sizes) - 1
        return parameters

    def seeds(self, limit: int) -> list[dict[str, int]]:
        """The parameters to try first: every candidate where there are at most `limit`, else some that span the front.

        Those are every share of `UNIFORM` at the full resolution, and every resolution at full width and depth.
        """
        ranges = {f"keep:{b.name}": range(2) for b in self.blocks}
        ranges |= {f"width:{layer}": range(len(widths)) for layer, widths in self.widths.items()}
        ranges |= {f"kernel:{layer}": range(len(kernels)) for layer, kernels in self.kernels.items()}
        ranges |= {"height": range(len(self.sizes))} if self.sizes else {}
        if self.size <= limit:
            return [dict(zip(ranges, values, strict=True)) for values in itertools.product(*ranges.values())]
        spread = [self.uniform(share, every) for share, every in UNIFORM]
        spread += [self.uniform(1.0) | {"height": i} for i in reversed(range(len(self.sizes)))]
        return [candidate for i, candidate in enumerate(spread) if candidate not in spread[:i]]

    def edits(self, choice: Mapping[str, int], scores: Mapping[str, Tensor]) -> tuple[Edit, ...]:
        """The choice as edits: resolution, blocks, kernels, then each remaining group's least important channels."""
        named = [b for b in self.blocks if not choice.get(f"keep:{b.name}", 1)]
        gone = [b for b in named if not any(set(b.inside) < set(other.inside) for other in named)]
        dead_layers = {layer for block in gone for layer in block.inside}
        edits: list[Edit] = [
            ResolutionEdit(size, self.sizes[-1]) for size in self.sizes[:-1] if size[0] == choice.get("height")
        ]
        edits += [BlockEdit(block.name) for block in gone]
        for layer, sizes in self.kernels.items():
            taps = choice.get(f"kernel:{layer}", sizes[-1])
            if layer not in dead_layers and taps < sizes[-1]:
                edits.append(KernelEdit(layer, taps, sizes[-1]))
        for layer, widths in self.widths.items():
            keep = choice.get(f"width:{layer}", widths[-1])
            alive = [name for name in (layer, *self.same_channels.get(layer, ())) if name not in dead_layers]
            if alive and keep < widths[-1]:
                order = torch.sort(scores[layer], stable=True).indices
                edits.append(ChannelEdit(alive[0], widths[-1], tuple(sorted(order[: widths[-1] - keep].tolist()))))
        return tuple(edits)

    @property
    def size(self) -> int:
        """How many candidates there are."""
        total = 2 ** len(self.blocks) * max(1, len(self.sizes))
        for choices in (*self.widths.values(), *self.kernels.values()):
            total *= len(choices)
        return total


def make_space(
    widths: Mapping[str, tuple[int, ...]],
    blocks: Sequence[Block],
    sizes: Sequence[tuple[int, int]],
    kind: str,
    kernels: Mapping[str, tuple[int, ...]] | None = None,
    same_channels: Mapping[str, tuple[str, ...]] | None = None,
) -> Space:
    """The space of what `kind` names (width, depth, resolution, kernel, joined by _).

    `widths` are each group's useful ones, `kernels` each convolution's possible ones.
    """
    axes = kind.split("_")
    return Space(
        {layer: tuple(w) for layer, w in widths.items() if len(w) > 1} if "width" in axes else {},
        tuple(blocks) if "depth" in axes else (),
        tuple(sizes) if "resolution" in axes else (),
        dict(kernels or {}) if "kernel" in axes else {},
        dict(same_channels or {}),
    )
