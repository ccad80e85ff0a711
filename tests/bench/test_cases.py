"""The cases of each family: whole, about methods that are in the list, and one of them run to its end."""

from __future__ import annotations

import pytest

from compress.bench import FAMILIES, Case
from compress.bench.generator import r3gan
from compress.methods import list_methods

CASES = [case for cases in FAMILIES.values() for case in cases]


def test_no_two_cases_share_a_row() -> None:
    assert len({(case.method, case.name) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method}-{case.name}")
def test_a_case_is_about_a_listed_method_and_says_what_it_does(case: Case) -> None:
    assert case.method in {"imitate", *(method.key for method in list_methods())}
    assert case.question.endswith(".") and "against" in case.question
    assert case.card.endswith(".") and case.metric


def test_the_dirac_game_converges_with_penalties_only() -> None:
    case = next(case for case in r3gan.CASES if case.name == "convergence")
    with_idea, without = case.run(0)
    assert with_idea < 1e-3 and without > 0.1
