"""The bench's run: rows as they are done, resuming, failures as rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.bench import Row, read_rows, run_bench
from compress.errors import ToolMissing, TrainingDiverged, UnknownName
from tests.bench.stubs import KNOWN, stub


def bench(folder: Path, *cases: object, **options: object) -> list[Row]:
    return run_bench("family", cases, KNOWN, folder, 3, **options)  # type: ignore[arg-type]


def test_each_row_is_on_disk_before_the_next_case_starts(tmp_path: Path) -> None:
    def interrupted(seed: int) -> tuple[float, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(tmp_path, stub(lambda seed: (1, 0)), stub(interrupted, method="san"))
    assert [row.method for row in read_rows(tmp_path / "family.json")] == ["r3gan"]


def test_resume_runs_what_is_missing_failed_or_of_other_seeds(tmp_path: Path) -> None:
    ran: list[str] = []
    broken = True

    def counted(seed: int) -> tuple[float, float]:
        ran.append(f"good {seed}")
        return 1, 0

    def mended(seed: int) -> tuple[float, float]:
        ran.append(f"mended {seed}")
        if broken:
            raise TrainingDiverged("the loss is NaN")
        return 1, 0

    cases = stub(counted), stub(mended, method="san")
    assert [row.verdict for row in bench(tmp_path, *cases)] == ["win", "failed"]
    broken = False
    ran.clear()
    assert [row.verdict for row in bench(tmp_path, *cases, resume=True)] == ["win", "win"]
    assert ran == ["mended 0", "mended 1", "mended 2"]
    ran.clear()
    run_bench("family", cases, KNOWN, tmp_path, 4, resume=True)
    assert len(ran) == 8


def test_only_one_method_is_run_and_the_others_rows_stay(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    cases = stub(lambda seed: (1, 0)), stub(lambda seed: (0, 1), method="san")
    bench(tmp_path, *cases)
    rows = bench(tmp_path, *cases, only="san", watch=lambda *now: seen.append(now))
    assert [row.verdict for row in rows] == ["win", "loss"]
    assert seen == [(seed, 3, f"san: stub, seed {seed}") for seed in range(3)]
    with pytest.raises(UnknownName, match="did you mean r3gan"):
        bench(tmp_path, *cases, only="r3gam")


def test_a_case_that_refuses_is_a_failed_row_with_its_reason(tmp_path: Path) -> None:
    def diverged(seed: int) -> tuple[float, float]:
        raise TrainingDiverged("the loss is NaN\nat step 3")

    told: list[Row] = []
    row, other = bench(tmp_path, stub(diverged), stub(lambda seed: (float("inf"), 0), method="san"), tell=told.append)
    assert (row.verdict, row.reason, row.with_idea) == ("failed", "the loss is NaN at step 3", ())
    assert other.verdict == "failed" and "NaN or infinite" in other.reason
    assert told == [row, other]


def test_a_missing_tool_stops_the_bench(tmp_path: Path) -> None:
    def without_data(seed: int) -> tuple[float, float]:
        raise ToolMissing("scikit-learn", "examples")

    with pytest.raises(ToolMissing, match="scikit-learn is not installed"):
        bench(tmp_path, stub(without_data))


def test_the_page_shows_losses_as_losses(tmp_path: Path) -> None:
    bench(tmp_path, stub(lambda seed: (1 + seed, 0)), stub(lambda seed: (0, 1), method="san", higher_is_better=True))
    page = (tmp_path / "family.md").read_text()
    assert "2 cases: 1 win, 1 loss; " in page
    assert "| 119 | r3gan | stub | figure, dB ↑ | 2 | 0 | win |" in page
    assert "## 69 SAN (`san`)" in page and "with 0 (seeds: 0, 0, 0); without 1 (seeds: 1, 1, 1): **loss**" in page
    assert "the card: it wins." in page


def test_cases_by_evaluations_are_a_table_of_their_own(tmp_path: Path) -> None:
    at = lambda student, teacher: lambda seed: (student + seed, teacher)  # noqa: E731
    bench(
        tmp_path,
        stub(at(3, 9), method="r3gan", name="1 evaluation", higher_is_better=False),
        stub(at(1, 4), method="r3gan", name="4 evaluations", higher_is_better=False),
        stub(at(2, 4), method="san", name="4 evaluations", higher_is_better=False),
    )
    page = (tmp_path / "family.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith(("| the teacher", "| R3GAN", "| SAN"))]
    assert "| METHOD | 1 | 4 | CPU SECONDS A SEED |" in page
    assert [row.split(" | ")[1:3] for row in rows] == [["9", "4"], ["4", "2"], ["–", "3"]]
