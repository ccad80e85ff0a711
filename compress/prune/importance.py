"""How much each channel matters: one score per channel of every group, higher is more important.

An importance is a function `(graph_module, groups, backward) -> {root layer: scores (width,)}`, where `groups` maps a
root layer to torch-pruning's group over all its channels, and `backward()` runs the loss over a few batches and leaves
gradients in the model. A recipe names one of the table below, or `module:attribute` / `file.py:attribute`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch_pruning as tp
from torch import Tensor, fx

Scores = dict[str, Tensor]
Importance = Callable[[fx.GraphModule, Mapping[str, tp.Group], Callable[[], None]], Scores]


def magnitude(graph_module: fx.GraphModule, groups: Mapping[str, tp.Group], backward: Callable[[], None]) -> Scores:
    """Mean squared weight of each channel over all coupled layers, scaled to mean 1 in each group (DepGraph, 2023)."""
    measure = tp.importance.GroupMagnitudeImportance(p=2, normalizer="mean")
    return {root: _whole(measure(group), group) for root, group in groups.items()}


def taylor(graph_module: fx.GraphModule, groups: Mapping[str, tp.Group], backward: Callable[[], None]) -> Scores:
    """First-order change of the loss when a channel goes: the sum of |weight x gradient| (Molchanov et al. 2019).

    Not scaled per group: the loss is one currency, so that a channel of one group can be weighed against another's.
    """
    graph_module.zero_grad()
    backward()
    measure = tp.importance.GroupTaylorImportance(group_reduction="sum", normalizer=None)
    scores = {root: _whole(measure(group), group) for root, group in groups.items()}
    graph_module.zero_grad()
    return scores


def _whole(scores: Tensor | None, group: tp.Group) -> Tensor:
    width = len(group[0].idxs)
    return torch.ones(width) if scores is None else scores.detach().float()[:width]


IMPORTANCES: dict[str, Importance] = {"magnitude": magnitude, "taylor": taylor}
