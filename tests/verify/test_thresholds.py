"""One threshold per scheme, which a recipe may restate for all or for one."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from compress.errors import RecipeError, UnknownName
from compress.recipe import Verify, make_recipe
from compress.types import Scheme
from compress.verify import THRESHOLDS, threshold_of


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
