"""The four-bit example: how it compares, by which split it chooses, and that its recipe is one of its ways."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest

from compress.recipe import load_recipe, make_recipe
from examples.cifar10.four_bits import RECIPE, WAYS, compare, gain, lines, mixture, page


def way(name: str, validation: float, test: str, trained: bool = False) -> dict[str, Any]:
    history = [{"epoch": 0}] if trained else []
    number = {"value": validation}
    return {
        "name": name, "validation": number, "float_validation": {"value": 0.9}, "test": test,
        "float_test": "1" * len(test), "history": history, "seconds": 1.0,
    }  # fmt: skip


def test_a_gain_is_paired_over_images() -> None:
    new, old = "1110100000", "1000100001"
    changes = [int(a) - int(b) for a, b in zip(new, old, strict=True)]
    points, error = gain(new, old)
    assert points == pytest.approx(10.0)
    assert error == pytest.approx(100 * statistics.stdev(changes) / math.sqrt(10))
    assert gain(old, old) == (0.0, 0.0)
    with pytest.raises(ValueError, match="shorter"):
        gain(new, old[:-1])


def test_the_best_way_is_chosen_on_the_validation_split() -> None:
    ways = {
        "w4a8-nearest": way("w4a8-nearest", 0.80, "1100000000"),
        "w4a8-bias": way("w4a8-bias", 0.85, "1110000000"),
        "w4a8-lsq": way("w4a8-lsq", 0.88, "1111000000", trained=True),
        "w4a8-follow": way("w4a8-follow", 0.87, "1111111111", trained=True),
        "w4a8-mixed": way("w4a8-mixed", 0.99, "1111111111"),
    }
    found = compare(ways)["w4a8"]
    assert found["best_trained_by_validation"] == "w4a8-lsq"
    assert found["best_post_training_by_validation"] == "w4a8-bias"
    assert found["points_over_nearest"]["w4a8-lsq"][0] == pytest.approx(20.0)
    assert found["points_over_best_post_training"][0] == pytest.approx(10.0)
    assert found["margin_reached"] == {"w4a8-lsq": True, "w4a8-follow": True}
    assert "w4a8-mixed" not in found["points_over_nearest"]
    ways["w4a8-lsq"]["test"] = "1100000000"
    assert compare(ways)["w4a8"]["margin_reached"] == {"w4a8-lsq": False, "w4a8-follow": True}


def test_distilled_ways_have_the_larger_margin_to_reach() -> None:
    nearest, gained = "1" * 500 + "0" * 500, "1" * 517 + "0" * 483  # 1.7 points
    ways = {name: way(name, 0.9, gained, trained=True) for name in ("even-labels", "even-distilled")}
    ways["even-nearest"] = way("even-nearest", 0.8, nearest) | {"float_test": gained}
    found = compare(ways)["even"]
    assert found["margin_reached"] == {"even-labels": True, "even-distilled": False}
    assert found["points_nearest_loses"][0] == pytest.approx(1.7)


def test_random_choices_that_meet_the_drop_are_counted_and_the_page_shows_all() -> None:
    mixed = way("w4a8-mixed", 0.88, "1111111100")
    settings = {"mixed": {"max_quality_drop": 0.02}}
    mixed |= {
        "recipe": {"steps": [{"quantize": settings}]},
        "mixed": {
            "float_quality": 0.9,
            "sensitivities": [{"layer": "a"}, {"layer": "b<c>"}],
            "looks": [{"kept": [], "quality": 0.8}, {"kept": ["a"], "quality": 0.885}],
            "chosen": {"kept": ["a"], "quality": 0.885},
        },
        "random": [{"kept": ["a"], "quality": 0.885}, {"kept": ["b<c>"], "quality": 0.81}],
    }
    found = mixture(mixed)
    assert (found["random_that_meet_it"], found["random"], found["layers"]) == (1, 2, 2)
    assert found["asked"] == pytest.approx(0.88) and found["random_mean"] == pytest.approx(0.8475)
    record = {"ways": {"w4a8-mixed": mixed}, "schemes": {}, "mixtures": {"w4a8-mixed": found | {"kept": ["b<c>"]}}}
    text = page(record)
    assert "b<c>" not in text and "<script src" not in text and "80.00" in text
    assert [line[0] for line in lines(record)] == ["way", "float", "w4a8-mixed"]


def test_every_way_is_a_legal_recipe_and_the_recipe_file_is_one_of_them() -> None:
    recipe = load_recipe(RECIPE)
    settings = {}
    for name, steps in WAYS.items():
        record = recipe.to_dict() | {"steps": [{verb: keys} for verb, keys in steps.items()]}
        settings[name] = make_recipe(record, name).steps[0].settings
    assert recipe.steps[0].settings == settings["w4a8-distilled"]
