"""The search space of a traced model: a width per free channel group, which blocks stay, the image's size."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compress.graph.groups import Block
from compress.types import BlockEdit, ChannelEdit, Edit, ResolutionEdit

UNIFORM = ((1.0, 1), (0.75, 1), (0.5, 1), (0.25, 1), (1.0, 2), (0.5, 2))
"""The first candidates: (share of every width, keep every n-th block); they span the front from the start."""


@dataclass(frozen=True)
class Space:
    """What may be chosen.

    `widths[layer]` go from narrow to full, in multiples of what the target wants; `blocks` may be removed; `sizes`
    (height, width) of the image go from small to the model's own, and are empty where it works at no other.
    """

    widths: Mapping[str, tuple[int, ...]]
    blocks: tuple[Block, ...]
    sizes: tuple[tuple[int, int], ...] = ()

    def sample(self, trial: Any) -> dict[str, int]:
        """One candidate of an Optuna trial: `width:<layer>` -> channels, `keep:<block>` -> 0, 1, `height` in pixels."""
        choice = {f"keep:{b.name}": trial.suggest_int(f"keep:{b.name}", 0, 1) for b in self.blocks}
        for layer, widths in self.widths.items():
            choice[f"width:{layer}"] = widths[trial.suggest_int(f"width:{layer}", 0, len(widths) - 1)]
        if self.sizes:
            choice["height"] = self.sizes[trial.suggest_int("height", 0, len(self.sizes) - 1)][0]
        return choice

    def uniform(self, share: float, keep_every: int = 1) -> dict[str, int]:
        """The parameters of the candidate with every group at about `share` of its width and every n-th block kept."""
        parameters = {f"keep:{b.name}": int(i % keep_every == 0) for i, b in enumerate(self.blocks)}
        for layer, widths in self.widths.items():
            nearest = min(range(len(widths)), key=lambda i: abs(widths[i] - share * widths[-1]))
            parameters[f"width:{layer}"] = nearest
        if self.sizes:
            parameters["height"] = len(self.sizes) - 1
        return parameters

    def seeds(self, limit: int) -> list[dict[str, int]]:
        """The parameters to try first: every candidate where there are at most `limit`, else some that span the front.

        Those are every share of `UNIFORM` at the full resolution, and every resolution at full width and depth.
        """
        ranges = {f"keep:{b.name}": range(2) for b in self.blocks}
        ranges |= {f"width:{layer}": range(len(widths)) for layer, widths in self.widths.items()}
        ranges |= {"height": range(len(self.sizes))} if self.sizes else {}
        if self.size <= limit:
            return [dict(zip(ranges, values, strict=True)) for values in itertools.product(*ranges.values())]
        spread = [self.uniform(share, every) for share, every in UNIFORM]
        spread += [self.uniform(1.0) | {"height": i} for i in reversed(range(len(self.sizes)))]
        return [candidate for i, candidate in enumerate(spread) if candidate not in spread[:i]]

    def edits(self, choice: Mapping[str, int], scores: Mapping[str, Tensor]) -> tuple[Edit, ...]:
        """The choice as edits: resolution, blocks, then the least important channels of each group that survives."""
        gone = [b for b in self.blocks if not choice.get(f"keep:{b.name}", 1)]
        dead_layers = {layer for block in gone for layer in block.inside}
        edits: list[Edit] = [
            ResolutionEdit(size, self.sizes[-1]) for size in self.sizes[:-1] if size[0] == choice.get("height")
        ]
        edits += [BlockEdit(block.name) for block in gone]
        for layer, widths in self.widths.items():
            keep = choice.get(f"width:{layer}", widths[-1])
            if layer not in dead_layers and keep < widths[-1]:
                order = torch.sort(scores[layer], stable=True).indices
                edits.append(ChannelEdit(layer, widths[-1], tuple(sorted(order[: widths[-1] - keep].tolist()))))
        return tuple(edits)

    @property
    def size(self) -> int:
        """How many candidates there are."""
        total = 2 ** len(self.blocks) * max(1, len(self.sizes))
        for widths in self.widths.values():
            total *= len(widths)
        return total


def make_space(
    widths: Mapping[str, tuple[int, ...]], blocks: Sequence[Block], sizes: Sequence[tuple[int, int]], kind: str
) -> Space:
    """The space of what `kind` names (width, depth, resolution, joined by _); `widths` are each group's useful ones."""
    axes = kind.split("_")
    choices = {layer: tuple(w) for layer, w in widths.items() if len(w) > 1} if "width" in axes else {}
    return Space(choices, tuple(blocks) if "depth" in axes else (), tuple(sizes) if "resolution" in axes else ())
