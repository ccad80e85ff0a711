"""Which channels go: a plan made from importances and a budget, as data that replays on a fresh model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from compress.errors import Infeasible
from compress.graph.groups import WidthModel
from compress.profile.budget import CostModel, Limits, useful_widths
from compress.types import ChannelEdit, edit_from_dict, edit_to_dict


@dataclass(frozen=True)
class PrunePlan:
    """Channels to remove, with the predicted figures before and after and the groups that were left alone and why."""

    edits: tuple[ChannelEdit, ...]
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    pinned: Mapping[str, str] = field(default_factory=dict)
    kind = "prune"

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON data."""
        return {
            "kind": self.kind,
            "edits": [edit_to_dict(edit) for edit in self.edits],
            "before": dict(self.before),
            "after": dict(self.after),
            "pinned": dict(self.pinned),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The plan back from plain JSON data."""
        edits = tuple(edit_from_dict(edit) for edit in record["edits"])
        return cls(edits, record["before"], record["after"], record["pinned"])  # type: ignore[arg-type]

    def table(self) -> list[tuple[str, str, str]]:
        """Rows (layer, channels before, channels after); pinned groups with their reason."""
        rows = [(e.layer, str(e.width), str(e.width - len(e.remove))) for e in self.edits]
        return rows + [(layer, "-", f"left alone: {reason}") for layer, reason in self.pinned.items()]


def plan_ratio(
    widths: WidthModel, scores: Mapping[str, Tensor], cost: CostModel, ratio: float, max_ratio: float
) -> PrunePlan:
    """Remove about the share `ratio` of every group's channels, least important first, at the nearest useful width."""
    removed = {}
    for layer, choices in useful_widths(widths, cost, 1 - max_ratio).items():
        wanted = choices[-1] * (1 - ratio)
        removed[layer] = choices[-1] - min(choices, key=lambda width: (abs(width - wanted), width))
    return _finish(widths, scores, cost, removed)


def plan_budget(
    widths: WidthModel, scores: Mapping[str, Tensor], cost: CostModel, limits: Limits, max_ratio: float
) -> PrunePlan:
    """Remove what the budget asks for and no more, the least importance per predicted gain first.

    Channels go in chunks, from one useful width (see `useful_widths`) to the next. At each step the chunk with the
    lowest importance per unit of excess it takes away is removed; when the limits hold, chunks that turned out not to
    be needed come back, the most important first.

    Raises:
        Infeasible: everything that may be cut is cut and a limit is still broken; carries that closest plan.
    """
    search = _Greedy(widths, scores, cost, limits, max_ratio)
    removed = search.run()
    plan = _finish(widths, scores, cost, removed)
    if limits.excess(plan.after) > 0:
        limit = limits.worst(plan.after)
        raise Infeasible(
            f"pruning cannot meet the budget: the smallest model still has {limit}; "
            f"raise that limit or prune.max_ratio (now {max_ratio:g})",
            plan.to_dict(),
            limit,
        )
    return plan


class _Greedy:
    """The state of one greedy search over group widths."""

    def __init__(
        self, widths: WidthModel, scores: Mapping[str, Tensor], cost: CostModel, limits: Limits, max_ratio: float
    ) -> None:
        self.widths, self.cost, self.limits = widths, cost, limits
        self.choices = useful_widths(widths, cost, 1 - max_ratio, limits)
        self.cheapest_first = {g.layer: torch.sort(scores[g.layer]).values.cumsum(0) for g in widths.free}
        self.removed = {group.layer: 0 for group in widths.free}
        self.steps: list[tuple[float, str, int]] = []

    def run(self) -> dict[str, int]:
        """The number of channels to remove from each group."""
        excess, macs = self._state(self.removed)
        while excess > 0:
            step = self._best_step(excess, macs)
            if step is None:
                break
            loss, layer, count = step
            self.steps.append((loss, layer, count))
            self.removed[layer] += count
            excess, macs = self._state(self.removed)
        if excess == 0:
            self._give_back()
        return self.removed

    def _state(self, removed: Mapping[str, int]) -> tuple[float, float]:
        figures = self.cost.figures(self.widths.ops(dict(removed)))
        return self.limits.excess(figures), figures["macs"]

    def _best_step(self, excess: float, macs: float) -> tuple[float, str, int] | None:
        best: tuple[float, float, str, int] | None = None
        for group in self.widths.free:
            width = group.width - self.removed[group.layer]
            narrower = [w for w in self.choices[group.layer] if w < width]
            if not narrower:
                continue
            count = width - narrower[-1]
            trial = {**self.removed, group.layer: self.removed[group.layer] + count}
            new_excess, new_macs = self._state(trial)
            # Where the cost is flat (a floor of overheads) fewer MACs break the tie, so that the search moves on.
            gain = max(0.0, excess - new_excess) + 1e-3 * max(0.0, macs - new_macs) / max(1.0, macs)
            loss = self._loss(group.layer, self.removed[group.layer], count)
            price = loss / max(gain, 1e-12)
            if best is None or price < best[0]:
                best = (price, loss, group.layer, count)
        return best[1:] if best else None

    def _loss(self, layer: str, already: int, count: int) -> float:
        sums = self.cheapest_first[layer]
        before = float(sums[already - 1]) if already else 0.0
        return float(sums[already + count - 1]) - before

    def _give_back(self) -> None:
        for _, layer, count in sorted(self.steps, reverse=True):
            trial = {**self.removed, layer: self.removed[layer] - count}
            if self._state(trial)[0] == 0:
                self.removed = trial


def _finish(widths: WidthModel, scores: Mapping[str, Tensor], cost: CostModel, removed: Mapping[str, int]) -> PrunePlan:
    edits = []
    for group in widths.free:
        count = removed.get(group.layer, 0)
        if count:
            # Equal scores fall to the lower index, so that the same scores always give the same plan.
            order = torch.sort(scores[group.layer], stable=True).indices
            edits.append(ChannelEdit(group.layer, group.width, tuple(sorted(order[:count].tolist()))))
    return PrunePlan(
        tuple(edits),
        cost.figures(widths.base.ops),
        cost.figures(widths.ops(dict(removed))),
        {g.layer: g.pinned for g in widths.groups if g.pinned},
    )


def describe(edits: Sequence[ChannelEdit]) -> str:
    """One line on how much a plan removes."""
    channels, gone = sum(e.width for e in edits), sum(len(e.remove) for e in edits)
    return f"{gone} of {channels} channels in {len(edits)} groups" if edits else "nothing: the budget already holds"
