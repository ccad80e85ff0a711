"""The operator suite: each verdict is the one in the table that ships, so that a change for better or worse shows."""

from __future__ import annotations

from functools import cache

import pytest

from compress.conformance import CASES, FAMILIES, SCHEMES, Table, load_table, run
from compress.conformance.pool import processes_here, run_all
from compress.conformance.table import conditions
from compress.export import EXPORTERS, available
from compress.resources import data_folder

FORMATS = tuple(EXPORTERS)

# One case per family: the one that a generator needs and that has most often gone wrong.
REPRESENTATIVES = {
    "convolutions": "conv2d_depthwise_batch_norm",
    "transposed convolutions": "conv_transpose2d_grouped",
    "norms": "instance_norm2d_affine",
    "activations": "hardswish",
    "elementwise": "mul_channels",
    "resizes": "bilinear_by_scale",
    "pads": "pad_reflect",
    "pools": "avg_pool2d_border_not_counted",
    "attention": "attention_written_out",
    "shapes": "cat",
    "reductions": "mean_plane_kept",
    "sampling and signals": "grid_sample",
}


@cache
def shipped() -> Table:
    return load_table()


def test_every_family_is_represented() -> None:
    assert set(REPRESENTATIVES) == set(FAMILIES)
    assert all(CASES[name].family == family for family, name in REPRESENTATIVES.items())


# Each in two of the four formats, in turn: every format has half of the families, and the whole takes under a minute.
PAIRS = [(name, FORMATS[(turn + step) % 4]) for turn, name in enumerate(REPRESENTATIVES.values()) for step in (0, 2)]


needs_table = pytest.mark.skipif(
    not (data_folder("profiles") / "conformance" / "conformance.json").exists(),
    reason="profiles/conformance holds no table yet; `compress conformance` makes it (about an hour)",
)


@needs_table
@pytest.mark.parametrize(("name", "format"), PAIRS, ids=[f"{name}-{format}" for name, format in PAIRS])
def test_a_case_of_each_family_on_integers(name: str, format: str) -> None:
    """In w8a8, which goes through all of it: trace, fold, quantize, write, run, compare."""
    reason = available(format)
    if reason:
        pytest.skip(reason)
    found, recorded = run(name, "w8a8", format), shipped().results[name, "w8a8", format]
    assert found.verdict == recorded.verdict, explained(found.reason, recorded.reason)


def explained(now: str, then: str) -> str:
    """What differs, and whether other versions may be why."""
    versions, made = conditions()["versions"], shipped().made["versions"]
    moved = ", ".join(f"{tool} {made.get(tool)} -> {new}" for tool, new in versions.items() if made.get(tool) != new)
    hint = f"tools have changed ({moved})" if moved else "the tools are the same: this is a change of ours"
    return f"now: {now or 'passes'}; recorded: {then or 'passes'}; {hint}; compress conformance makes the table anew"


@needs_table
@pytest.mark.slow
def test_every_case_in_every_scheme_and_format() -> None:
    """The whole suite (about an hour on two cores); every verdict is compared, and all differences are told at once."""
    tasks = [(name, scheme, FORMATS) for name in CASES for scheme in SCHEMES]
    differences = []
    for results in run_all(tasks, processes_here()):
        for found in results:
            recorded = shipped().results[found.case, found.scheme, found.format]
            if found.verdict != recorded.verdict:
                where = f"{found.case} {found.scheme} {found.format}: {recorded.verdict} -> {found.verdict}"
                differences.append(f"{where}: {explained(found.reason, recorded.reason)}")
    assert differences == []
