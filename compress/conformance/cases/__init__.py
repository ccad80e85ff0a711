"""Every operator case of the suite, by name: one file per family."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

from compress.conformance.case import Case
from compress.conformance.cases import (
    activations,
    attention,
    convolutions,
    elementwise,
    norms,
    pads,
    pools,
    reductions,
    resizes,
    sampling,
    shapes,
    transposed,
)
from compress.errors import UnknownName

FAMILIES: dict[str, tuple[Case, ...]] = {
    "convolutions": convolutions.CASES,
    "transposed convolutions": transposed.CASES,
    "norms": norms.CASES,
    "activations": activations.CASES,
    "elementwise": elementwise.CASES,
    "resizes": resizes.CASES,
    "pads": pads.CASES,
    "pools": pools.CASES,
    "attention": attention.CASES,
    "shapes": shapes.CASES,
    "reductions": reductions.CASES,
    "sampling and signals": sampling.CASES,
}

CASES: dict[str, Case] = {
    case.name: replace(case, family=family) for family, cases in FAMILIES.items() for case in cases
}


def find_cases(pattern: str = "*") -> list[Case]:
    """The cases whose name or family matches a shell pattern ("conv*", "norms"), in the suite's order.

    Raises:
        UnknownName: nothing matches.
    """
    found = [one for one in CASES.values() if fnmatchcase(one.name, pattern) or fnmatchcase(one.family, pattern)]
    if not found:
        raise UnknownName("operator case", pattern, [*CASES, *FAMILIES])
    return found
