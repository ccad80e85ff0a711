"""Ranking the networks of NAS-Bench-201 from ten measurements: latencies of stated costs, and noise of stated size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from compress.errors import DataError
from compress.profile.features import Layout
from compress.profile.few_shot import choose, device_costs, from_devices, from_profile, predictions
from compress.profile.nas_cells import (
    EDGES,
    FORMS,
    OPERATIONS,
    PARTS,
    Form,
    Ints,
    amounts_of_parts,
    cells_of,
    connected,
    mirrored,
    network,
    parts,
    runs,
)
from compress.profile.ranking import TABLE, Ranked, ranking
from compress.profile.regression import Floats, design_of
from compress.profile.reliability import ceiling_of_groups, ceiling_of_pairs, kendall, ranked, spearman
from compress.resources import data_folder
from tests.profile.stated import costs_of, stated

# Milliseconds of each of PARTS: a phone, and devices that differ from it as devices do.
STATED_MS = np.array([0.5, 2.0, 0.2, 2.5, 5.0, 1.2, 0.3])
OTHERS_MS = STATED_MS * np.random.default_rng(5).lognormal(0.0, 0.4, (6, len(PARTS)))


def named(*operations: int) -> str:
    """The name of the cell with these operations on `EDGES`."""
    terms = [f"{OPERATIONS[operation]}~{start}" for operation, (start, _) in zip(operations, EDGES, strict=True)]
    return f"|{terms[0]}|+|{'|'.join(terms[1:3])}|+|{'|'.join(terms[3:])}|"


def some_cells() -> Ints:
    """Every cell without a skip, in no order: 4,096 of them."""
    grid = np.stack(np.meshgrid(*[[0, 2, 3, 4]] * 6, indexing="ij"), axis=-1).reshape(-1, 6)
    return np.random.default_rng(3).permutation(grid)


CELLS = some_cells()


def latency_ms(form: Form, cost_ms: Floats = STATED_MS) -> Floats:
    return parts(CELLS, form) @ cost_ms


def test_a_cell_is_read_edge_by_edge() -> None:
    name = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|nor_conv_3x3~1|skip_connect~2|"
    assert cells_of([name]).tolist() == [[4, 2, 1, 0, 3, 1]]
    assert named(4, 2, 1, 0, 3, 1) == name


def test_the_largest_network_has_the_size_that_the_benchmark_states() -> None:
    # "FLOPs" 220.1 M and 1.53 M parameters for six 3x3 convolutions (Dong & Yang, 2020), which counts MACs.
    ops = network(np.array([3] * 6), "pruned")
    assert sum(op.macs or 0 for op in ops) == pytest.approx(220.1e6, rel=2e-3)
    assert sum(op.weight_count for op in ops) == pytest.approx(1.53e6, rel=5e-3)


@pytest.mark.parametrize("form", FORMS)
def test_amounts_of_parts_are_those_of_whole_networks(form: Form) -> None:
    layout = Layout(channels=8)
    some = CELLS[connected(CELLS)][:6]
    assert parts(some, form) @ amounts_of_parts(layout) == pytest.approx(
        design_of([network(cell, form) for cell in some], layout)
    )


@pytest.mark.parametrize(
    ("cell", "form", "edges"),
    [
        ([3, 0, 0, 1, 0, 0], "written", [0, 1, 2, 3, 4, 5]),
        ([3, 0, 0, 1, 0, 0], "pruned", [3]),
        ([3, 0, 0, 1, 0, 0], "folded", [0, 3]),  # multiplied by zero, and computed all the same
        ([0, 0, 0, 1, 3, 0], "folded", [3, 4]),  # of a constant
        ([3, 3, 3, 1, 0, 0], "folded", [3]),  # two such values joined
        ([3, 3, 3, 1, 0, 0], "pruned", [3]),
        ([3, 3, 3, 0, 0, 0], "folded", []),  # no way from the input to the output
        ([3, 0, 2, 1, 0, 4], "pruned", [0, 2, 3, 5]),
    ],
)
def test_what_of_a_cell_runs(cell: list[int], form: Form, edges: list[int]) -> None:
    assert np.flatnonzero(runs(np.array([cell]), form)[0]).tolist() == edges


def test_only_graphs_that_are_the_same_whatever_runs_are_pairs() -> None:
    names = [named(2, 3, 0, 0, 4, 2), named(3, 2, 0, 0, 2, 4), named(2, 3, 1, 0, 4, 2), named(3, 2, 1, 0, 2, 4)]
    assert mirrored(cells_of(names)).tolist() == [[0, 1]]
    # Equal to each other by algebra alone: the second adds zero, and multiplies a convolution by it.
    assert mirrored(cells_of([named(1, 0, 0, 0, 3, 0), named(1, 3, 0, 0, 3, 0)])).tolist() == []


@pytest.mark.parametrize("form", ["written", "folded"])
def test_stated_costs_are_ranked_without_a_fault_from_ten_of_their_latencies(form: Form) -> None:
    measured = latency_ms(form)
    known = [device_costs(CELLS, latency_ms("written", cost_ms)) for cost_ms in OTHERS_MS]
    starts = from_devices(CELLS, known)
    chosen = choose(starts, CELLS)
    start, predicted = predictions(starts, chosen, measured)
    alive = connected(CELLS)
    assert len(set(chosen.tolist())) == 10 and start.form == form
    assert spearman(predicted[alive], measured[alive]) > 0.999
    assert np.abs(predicted / measured - 1)[alive].mean() < 0.03
    # Ablations: the other form, and no measurement that says which network was fast.
    other = next(each for each in starts if each.form == "pruned")
    assert spearman(other.predicted(chosen, measured[chosen], np.arange(len(CELLS))), measured) < 0.95
    shuffled = np.random.default_rng(0).permutation(measured)
    assert abs(spearman(predictions(starts, chosen, measured)[1], shuffled)) < 0.05


def test_measurements_correct_what_a_profile_has_wrong() -> None:
    measured = latency_ms("written")
    starts = from_profile("stated", costs_of(stated()), CELLS)
    chosen = choose(starts, CELLS)
    before = spearman(np.exp(starts[0].part_ns) @ parts(CELLS, "written").T, measured)
    _, predicted = predictions(starts, chosen, measured)
    assert before < 0.97 < 0.99 < spearman(predicted, measured)


def test_networks_are_chosen_before_anything_is_measured_and_always_the_same() -> None:
    starts = from_profile("stated", costs_of(stated()), CELLS)
    chosen = choose(starts, CELLS, 6)
    assert chosen.tolist() == choose(starts, CELLS, 6).tolist() == choose(starts, CELLS, 10)[:6].tolist()
    assert connected(CELLS[chosen]).all()


def test_costs_of_a_device_are_found_from_its_latencies() -> None:
    found = np.exp(device_costs(CELLS, latency_ms("folded"))) * 1e-6
    assert found[3:6] == pytest.approx(STATED_MS[3:6], rel=0.05)


def test_the_ceiling_is_what_the_truth_reaches() -> None:
    truth = latency_ms("written")
    noisy = truth * np.random.default_rng(1).lognormal(0.0, 0.15, len(truth))
    reached = spearman(truth, noisy)
    assert 0.85 < reached < 0.97
    ceiling, error = ceiling_of_pairs(noisy, mirrored(CELLS), truth)
    assert error < 0.02 and abs(ceiling - reached) < 3 * error
    _, groups = np.unique(parts(CELLS, "written"), axis=0, return_inverse=True)
    assert ceiling_of_groups(noisy, groups.ravel()) == pytest.approx(reached, abs=0.01)
    assert ceiling_of_pairs(truth, mirrored(CELLS), truth) == (1.0, 0.0)
    # Pairs that have nothing in common leave nothing to predict.
    strangers = np.random.default_rng(2).integers(0, len(truth), (2000, 2))
    level = np.random.default_rng(3).random(len(truth))
    assert ceiling_of_pairs(noisy, strangers, level)[0] < 0.3


def test_a_ceiling_counts_every_level_alike_whatever_its_pairs() -> None:
    level, values = np.arange(1000.0), np.arange(1000.0)
    values[500:] = 500 + np.random.default_rng(0).permutation(500)  # the upper half repeats nothing
    low, high = np.arange(0, 500, 2), np.arange(500, 1000, 2)
    both = np.concatenate([low, high])
    whole, _ = ceiling_of_pairs(values, np.stack([both, both + 1], axis=1), level)
    few = np.concatenate([low[::10], high])
    assert ceiling_of_pairs(values, np.stack([few, few + 1], axis=1), level)[0] == pytest.approx(whole, abs=0.01)


def test_rank_correlations_by_hand() -> None:
    assert ranked(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
    first, second = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert spearman(first, second) == pytest.approx(0.8) and kendall(first, second) == pytest.approx(4 / 6)
    assert kendall(first, -first) == pytest.approx(-1.0)
    tied = np.array([1.0, 1.0, 2.0, 2.0])
    assert kendall(first, tied) == pytest.approx(4 / np.sqrt(6 * 4))
    assert spearman(first, np.ones(4)) == kendall(first, np.ones(4)) == 0.0


def test_the_excess_of_pairs_is_that_of_counting_them_all() -> None:
    random = np.random.default_rng(0)
    first, more = random.integers(0, 20, (2, 101)).astype(np.float64)
    second = first + more
    signs = [np.sign(values[:, None] - values) for values in (first, second)]
    by_hand = (signs[0] * signs[1]).sum() / np.sqrt(np.abs(signs[0]).sum() * np.abs(signs[1]).sum())
    assert kendall(first, second) == pytest.approx(float(by_hand))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=TABLE):
        ranking(tmp_path)


def phones() -> list[str]:
    lines = (data_folder("profiles") / "ranking" / "devices.csv").read_text(encoding="utf-8").splitlines()
    return [line.split(",")[0] for line in lines[1:] if line.split(",")[1] == "phone"]


def test_every_phone_of_a_table_is_ranked_beside_what_bounds_it(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the flexible regressor is scikit-learn's")
    phone = phones()[0]
    noisy = latency_ms("written") * np.random.default_rng(1).lognormal(0.0, 0.1, len(CELLS))
    rows = np.array([noisy, *(latency_ms("written", cost_ms) for cost_ms in OTHERS_MS)])
    devices = np.array([phone, *(f"other_{place}" for place in range(len(OTHERS_MS)))])
    names = np.array([named(*cell) for cell in CELLS.tolist()])
    np.savez(tmp_path / TABLE, arch_str=names, devices=devices, latency=rows)
    (found,) = ranking(tmp_path)
    assert isinstance(found, Ranked) and found.device == phone and found.n == len(CELLS) - 10
    assert found.from_devices.form == found.from_profiles.form == "written"
    assert abs(found.from_devices.spearman - found.ceiling_of_parts) < 0.02
    assert found.from_devices.spearman < found.ceiling + 3 * found.ceiling_error
    assert abs(found.drift) < 0.1 and found.boosted["1000"] < found.ceiling_of_parts
    record = json.loads(json.dumps(found.to_dict()))
    assert len(record["from_profiles"]["networks"]) == 10 and record["calibrated"]["random"] is None
