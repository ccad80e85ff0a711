"""What a search hands on: its plan as a table, a candidate in words, the front, and any storage that Optuna has."""

from __future__ import annotations

import optuna
import torch

from compress.profile.budget import Limits
from compress.search import SearchPlan, front, label, make_space, search
from compress.types import BlockEdit, ChannelEdit, Edit, KernelEdit, ResolutionEdit


def test_the_table_has_a_row_for_every_kind_of_edit() -> None:
    edits = (
        ResolutionEdit((16, 24), (32, 48)),
        BlockEdit("add"),
        KernelEdit("first", 3, 7),
        ChannelEdit("up", 8, (1, 5)),
    )
    assert SearchPlan(edits, 0).table() == [
        ("resolution", "32x48", "16x24"), ("add", "block", "removed"), ("first kernel", "7", "3"), ("up", "8", "6"),
    ]  # fmt: skip
    assert SearchPlan.from_dict(SearchPlan(edits, 0).to_dict()) == SearchPlan(edits, 0)


def test_a_candidate_in_words_names_its_kernels() -> None:
    choice = {"keep:add": 0, "keep:add_1": 1, "width:up": 6, "kernel:first": 3, "height": 16}
    assert label(choice) == "16 pixels high; without add; up=6; first kernel 3"
    assert label({"keep:add": 1, "kernel:first": 3, "kernel:last": 5}) == "first kernel 3, last kernel 5"


def test_the_front_is_what_no_other_beats_in_both() -> None:
    points = [(0.9, 3.0), (0.5, 1.0), (0.8, 3.0), (0.5, 2.0), (0.95, 9.0), (0.7, 2.5)]
    assert front(points, higher_is_better=True) == {0, 1, 4, 5}
    assert front([(-quality, latency) for quality, latency in points], higher_is_better=False) == {0, 1, 4, 5}


def test_a_storage_may_be_an_object_and_the_search_goes_on_in_it() -> None:
    storage = optuna.storages.InMemoryStorage()
    space, judged = make_space({"a": (2, 4, 6, 8)}, [], (), "width"), []

    def judge(edits: tuple[Edit, ...]) -> tuple[float, dict[str, float]]:
        judged.append(edits)
        return -float(len(edits)), {"latency_ms": 1.0}

    first, second = (
        search(
            space, {"a": torch.arange(8.0)}, judge, Limits({}),
            trials=trials, population=2, seed=0, storage=storage, higher_is_better=True, must_meet=False,
        )
        for trials in (2, 4)
    )  # fmt: skip
    assert [t["choice"] for t in second.trials[:2]] == [t["choice"] for t in first.trials]
    assert len(second.trials) == 4 and len(judged) == len(set(judged))
