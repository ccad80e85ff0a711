"""One threshold per scheme, which a recipe may restate for all or for one."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from compress.errors import RecipeError, UnknownName
from compress.recipe import Verify, make_recipe
from compress.types import Scheme
from compress.verify import THRESHOLDS, beside_own_noise, compare, threshold_of


def test_every_scheme_has_a_threshold_that_binds() -> None:
    assert set(get_args(Scheme)) <= set(THRESHOLDS)
    for scheme, limits in THRESHOLDS.items():
        assert limits.max_relative_error is not None or limits.min_sqnr_db is not None, scheme
        assert limits.op_sqnr_db >= (limits.min_sqnr_db or 0.0), scheme  # one op alone keeps more than a whole net


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UnknownName, match="w8a8"):
        threshold_of("w8a9")


def test_a_recipe_restates_limits() -> None:
    assert Verify().limits_of("w8a8") == {}
    general = Verify(min_sqnr_db=25, max_relative_error=1e-4)
    assert general.limits_of("w8a8") == {"min_sqnr_db": 25.0}
    assert general.limits_of("float32") == {"max_relative_error": 1e-4}
    one = Verify(min_sqnr_db={"float32": 90.0})
    assert one.limits_of("w8a8") == {}
    limits = threshold_of("float32", **one.limits_of("float32"))
    assert (limits.min_sqnr_db, limits.max_relative_error) == (90.0, THRESHOLDS["float32"].max_relative_error)


def recipe(verify: dict[str, Any]) -> dict[str, Any]:
    steps = [{"export": {}}, {"verify": verify}]
    return {"name": "x", "teacher": {"entry": "m:t"}, "task": {"entry": "m:t"}, "steps": steps}


@pytest.mark.parametrize(
    ("verify", "words"),
    [
        ({"min_sqnr_db": {"w8a9": 20}}, "did you mean w8a8"),
        ({"min_sqnr_db": {"w8a8": "high"}}, "number above 0"),
        ({"max_relative_error": 0}, "number above 0"),
        ({"max_relative_error": True}, "number above 0"),
    ],
)
def test_a_limit_that_means_nothing_is_refused_with_its_key(verify: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words) as refused:
        make_recipe(recipe(verify))
    assert f"verify.{next(iter(verify))}" in str(refused.value) and "\n" not in str(refused.value)


def test_a_recipe_with_limits_reads_back() -> None:
    made = make_recipe(recipe({"min_sqnr_db": {"w8a8": 22.5}}))
    assert make_recipe(made.to_dict()) == made


def test_a_noisy_model_is_asked_no_more_of_its_files_than_of_itself() -> None:
    limits = threshold_of("w8a8")
    assert beside_own_noise(limits, 40.0) == limits and beside_own_noise(limits, 23.0) == limits
    assert beside_own_noise(limits, 19.0).min_sqnr_db == 16.0
    assert beside_own_noise(limits, 19.0).op_sqnr_db == limits.op_sqnr_db
    assert beside_own_noise(threshold_of("float32"), 5.0) == threshold_of("float32")


def test_two_roundings_of_one_signal_are_three_decibels_further_apart() -> None:
    random = np.random.default_rng(0)
    signal = random.standard_normal(100_000)
    first, second = (signal + 0.1 * random.standard_normal(signal.size) for _ in range(2))
    own, apart = compare(signal, first).sqnr_db, compare(first, second).sqnr_db
    assert own == pytest.approx(20.0, abs=0.1) and apart == pytest.approx(own - 3, abs=0.15)
