"""A search on a stated problem: resumes to the same answer, keeps the budget, shows the true front."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.errors import Infeasible
from compress.graph.groups import Block
from compress.profile.budget import Limits
from compress.search import SearchPlan, make_space, search
from compress.types import BlockEdit, ChannelEdit, ResolutionEdit

SPACE = make_space(
    {"a": (8, 16, 24, 32), "b": (8, 16)}, [Block("add", "relu", ("a",)), Block("add_1", "x", ("c",))], (), "width_depth"
)
SCORES = {"a": torch.arange(32.0), "b": torch.arange(16.0)}


class Killed(Exception):
    """Stands for a process that dies."""


def _judge(edits: tuple[Any, ...]) -> tuple[float, dict[str, float]]:
    """Quality and latency both fall with every channel and block removed, quality less for the block `add_1`."""
    channels = sum(len(e.remove) for e in edits if isinstance(e, ChannelEdit))
    blocks = [e.block for e in edits if isinstance(e, BlockEdit)]
    latency = 10.0 - 0.1 * channels - 2.0 * len(blocks)
    return 1.0 - 0.01 * channels - 0.3 * ("add" in blocks) - 0.01 * ("add_1" in blocks), {
        "latency_ms": latency,
        "macs": 1.0,
    }


def _search(folder: Path, judge: Any = _judge, trials: int = 30, limit: float = 7.0, **more: Any) -> SearchPlan:
    storage = f"sqlite:///{folder / 'study.db'}"
    options = {"population": 6, "seed": 0, "higher_is_better": True, "must_meet": True} | more
    return search(SPACE, SCORES, judge, Limits({"latency_ms": limit}), trials=trials, storage=storage, **options)


def test_the_chosen_candidate_keeps_the_budget_and_is_the_best_of_those(tmp_path: Path) -> None:
    plan = _search(tmp_path)
    inside = [t for t in plan.trials if t["latency_ms"] <= 7.0]
    chosen = next(t for t in plan.trials if t["number"] == plan.chosen)
    assert chosen["quality"] == max(t["quality"] for t in inside)
    assert _judge(plan.edits)[0] == chosen["quality"]
    for trial in plan.trials:
        beaten = any(o["quality"] >= trial["quality"] and o["latency_ms"] < trial["latency_ms"] for o in plan.trials)
        assert not (trial["on_front"] and beaten)


def test_a_search_killed_anywhere_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = _search(tmp_path / "whole")
    for after in (3, 11):
        calls = 0

        def dies(edits: tuple[Any, ...], after: int = after) -> tuple[float, dict[str, float]]:
            nonlocal calls
            calls += 1
            if calls > after:
                raise Killed
            return _judge(edits)

        with pytest.raises(Killed):
            _search(tmp_path / "killed", dies)
    resumed = _search(tmp_path / "killed")
    assert [t["choice"] for t in resumed.trials] == [t["choice"] for t in whole.trials]
    assert resumed == whole


def test_no_candidate_is_judged_twice(tmp_path: Path) -> None:
    judged: list[tuple[Any, ...]] = []

    def counts(edits: tuple[Any, ...]) -> tuple[float, dict[str, float]]:
        judged.append(edits)
        return _judge(edits)

    plan = _search(tmp_path, counts, trials=60)  # of 32 candidates
    assert len(plan.trials) == 60
    assert len(judged) == len({str(t["choice"]) for t in plan.trials}) <= 32


def test_an_impossible_budget_is_infeasible_unless_a_later_step_can_help(tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match="latency_ms"):
        _search(tmp_path, limit=0.1, trials=8)
    plan = _search(tmp_path, limit=0.1, trials=8, must_meet=False)
    assert plan.trials


def test_channels_of_a_removed_block_are_not_cut_and_the_least_important_go_first() -> None:
    edits = SPACE.edits({"keep:add": 0, "keep:add_1": 1, "width:a": 8, "width:b": 8}, SCORES)
    assert edits == (BlockEdit("add"), ChannelEdit("b", 16, tuple(range(8))))


def test_plan_round_trip(tmp_path: Path) -> None:
    plan = _search(tmp_path, trials=8)
    assert SearchPlan.from_dict(plan.to_dict()) == plan


def test_a_small_space_is_tried_in_full_and_resolution_is_one_of_its_axes(tmp_path: Path) -> None:
    space = make_space({"a": (8, 16)}, [], ((16, 24), (24, 40), (32, 48)), "width_resolution")
    assert space.size == 6
    seen: list[tuple[Any, ...]] = []

    def judge(edits: tuple[Any, ...]) -> tuple[float, dict[str, float]]:
        seen.append(edits)
        cost = math.prod(e.size[0] / 32 if isinstance(e, ResolutionEdit) else 0.45 for e in edits)
        return cost, {"latency_ms": 10 * cost, "macs": 1.0}

    storage = f"sqlite:///{tmp_path / 'study.db'}"
    options: dict[str, Any] = {"population": 6, "seed": 0, "higher_is_better": True, "must_meet": True}
    limits = Limits({"latency_ms": 6.0})
    plan = search(space, {"a": torch.arange(16.0)}, judge, limits, trials=8, storage=storage, **options)
    assert len(set(seen)) == len(seen) == 6  # all, and none twice
    assert plan.edits == (ResolutionEdit((16, 24), (32, 48)),)  # half the height is worth 0.5, the narrow one 0.45
    assert plan.table() == [("resolution", "32x48", "16x24")]


def test_a_large_space_starts_with_every_resolution_at_full_width(tmp_path: Path) -> None:
    sizes = ((16, 16), (24, 24), (32, 32))
    space = make_space({"a": (8, 16, 24, 32), "b": (8, 16)}, [], sizes, "width_depth_resolution")
    full = [seed["height"] for seed in space.seeds(limit=10) if (seed["width:a"], seed["width:b"]) == (3, 1)]
    assert sorted(full) == [0, 1, 2]
