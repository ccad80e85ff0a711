"""The search space of a traced model: a width for every free channel group, and which residual blocks stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compress.graph.groups import Block
from compress.types import BlockEdit, ChannelEdit, Edit


@dataclass(frozen=True)
class Space:
    """Legal choices: `widths[layer]` from narrow to full, multiples of what the target wants; removable `blocks`."""

    widths: Mapping[str, tuple[int, ...]]
    blocks: tuple[Block, ...]

    def sample(self, trial: Any) -> dict[str, int]:
        """One candidate, proposed by an Optuna trial: `width:<layer>` -> channels, `keep:<block>` -> 0 or 1."""
        choice = {f"keep:{b.name}": trial.suggest_int(f"keep:{b.name}", 0, 1) for b in self.blocks}
        for layer, widths in self.widths.items():
            choice[f"width:{layer}"] = widths[trial.suggest_int(f"width:{layer}", 0, len(widths) - 1)]
        return choice

    def uniform(self, share: float, keep_every: int = 1) -> dict[str, int]:
        """The parameters of the candidate with every group at about `share` of its width and every n-th block kept."""
        parameters = {f"keep:{b.name}": int(i % keep_every == 0) for i, b in enumerate(self.blocks)}
        for layer, widths in self.widths.items():
            nearest = min(range(len(widths)), key=lambda i: abs(widths[i] - share * widths[-1]))
            parameters[f"width:{layer}"] = nearest
        return parameters

    def edits(self, choice: Mapping[str, int], scores: Mapping[str, Tensor]) -> tuple[Edit, ...]:
        """The choice as edits: blocks first, then the least important channels of each group that survives."""
        gone = [b for b in self.blocks if not choice.get(f"keep:{b.name}", 1)]
        dead_layers = {layer for block in gone for layer in block.inside}
        edits: list[Edit] = [BlockEdit(block.name) for block in gone]
        for layer, widths in self.widths.items():
            keep = choice.get(f"width:{layer}", widths[-1])
            if layer not in dead_layers and keep < widths[-1]:
                order = torch.sort(scores[layer], stable=True).indices
                edits.append(ChannelEdit(layer, widths[-1], tuple(sorted(order[: widths[-1] - keep].tolist()))))
        return tuple(edits)

    @property
    def size(self) -> int:
        """How many candidates there are."""
        total = 2 ** len(self.blocks)
        for widths in self.widths.values():
            total *= len(widths)
        return total


def make_space(widths: Mapping[str, tuple[int, ...]], blocks: Sequence[Block], kind: str) -> Space:
    """The space of widths, of depth, or of both; `widths` are the useful ones of each free group."""
    choices = {layer: tuple(w) for layer, w in widths.items() if len(w) > 1} if "width" in kind else {}
    return Space(choices, tuple(blocks) if "depth" in kind else ())
