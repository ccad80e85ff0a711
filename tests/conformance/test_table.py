"""The table keeps every result through its file, and never mixes results of different tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.conformance.cases import CASES
from compress.conformance.page import render
from compress.conformance.run import plain
from compress.conformance.table import Table, conditions, load_table, save_table
from compress.errors import RunFolderError
from compress.resources import data_folder
from tests.conformance.samples import result, table


def test_a_table_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    made = table(
        result("conv2d", "float32", "onnx", sqnr_db=139.5, max_error=1e-6),
        result("conv2d", "w8a8", "litert", "fell back", "PAD at operator (no range)"),
        result("group_norm", "w8a8", "onnx", "refused", "a line"),
    )
    save_table(made, tmp_path / "t.json")
    again = load_table(tmp_path / "t.json")
    assert dict(again.results) == dict(made.results) and again.made == made.made
    save_table(again, tmp_path / "u.json")
    assert (tmp_path / "u.json").read_bytes() == (tmp_path / "t.json").read_bytes()


def test_counts_are_those_of_one_format_and_scheme() -> None:
    made = table(
        result("conv2d", "float32", "coreml", checked="structure"),
        result("conv2d_relu", "float32", "coreml", "wrong", "its eps"),
        result("conv2d", "w8a8", "coreml"),
    )
    counts = made.counts("float32", "coreml")
    assert (counts["pass"], counts["wrong"], counts["refused"], counts["structure"]) == (1, 1, 0, 1)


def test_new_results_replace_old_ones_of_the_same_tools() -> None:
    old = table(result("conv2d", "float32", "onnx", "wrong", "x"), result("group_norm", "float32", "onnx"))
    new = old.with_results([result("conv2d", "float32", "onnx")], conditions())
    assert [r.verdict for r in new.results.values()] == ["pass", "pass"]


def test_results_of_other_versions_are_left_out() -> None:
    old = table(result("group_norm", "float32", "onnx"))
    moved = {**conditions(), "versions": {"torch": "1.0"}}
    new = old.with_results([result("conv2d", "float32", "onnx")], moved)
    assert [key[0] for key in new.results] == ["conv2d"] and new.made["versions"] == {"torch": "1.0"}


def test_the_order_is_the_suites_whatever_came_first() -> None:
    late, early = result("group_norm", "w8a8", "onnx"), result("conv2d", "float32", "litert")
    assert table(late, early).to_json() == table(early, late).to_json()
    assert next(iter(table(late, early).results)) == ("conv2d", "float32", "litert")


def test_a_missing_table_is_empty_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    assert load_table(tmp_path / "none.json").results == {}
    (tmp_path / "bad.json").write_text('{"cases": {}}')
    with pytest.raises(RunFolderError, match="compress conformance"):
        load_table(tmp_path / "bad.json")


def test_reasons_say_nothing_of_this_machine() -> None:
    folder = "/" + "home/me/lib/python3.11/"
    shown = plain(f"a\nb  at {folder}site.py:3 <object at 0x7f00deadbeef> see https://x.org/y")
    assert shown == "a b at site.py:3 <object at 0x...> see https://x.org/y"
    assert len(plain("x" * 1000)) < 250


# The page


def test_the_page_shows_every_verdict_with_its_reason() -> None:
    made = table(
        result("conv2d", "float32", "onnx", sqnr_db=139.5),
        result("group_norm", "float32", "onnx", "refused", "no <kernel> here"),
        result("conv2d_relu", "float32", "onnx", "wrong", "SQNR is 3.0 dB"),
    )
    page = render(made)
    assert 'class="pass">pass<small>140</small>' in page
    assert 'class="refused">refused<sup><a href="#n' in page and "no &lt;kernel&gt; here" in page
    assert 'class="wrong">WRONG' in page and "SQNR is 3.0 dB" in page
    assert "<kernel>" not in page and "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_an_empty_table_still_has_a_page() -> None:
    assert "Operator conformance" in render(Table())


# The one that ships

needs_table = pytest.mark.skipif(
    not (data_folder("profiles") / "conformance" / "conformance.json").exists(),
    reason="profiles/conformance holds no table yet; `compress conformance` makes it (about an hour)",
)


@needs_table
def test_the_shipped_table_is_whole_and_small() -> None:
    """Every case of the suite in it, and no case that the suite no longer has."""
    shipped = load_table()
    assert {case for case, _, _ in shipped.results} == set(CASES)
    assert set(shipped.formats) == {"onnx", "litert", "executorch", "coreml"}
    assert {"float32", "w8a8"} <= set(shipped.schemes)
    folder = data_folder("profiles") / "conformance"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_500_000


@needs_table
def test_the_shipped_page_is_that_of_the_shipped_table() -> None:
    page = data_folder("profiles") / "conformance" / "index.html"
    assert page.read_text(encoding="utf-8") == render(load_table())
