"""`compress methods bench`: the table on stdout, progress and complaints on stderr, files in the folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress import bench
from compress.cli import main
from compress.errors import TrainingDiverged
from tests.bench.stubs import stub


def broken(seed: int) -> tuple[float, float]:
    raise TrainingDiverged("the loss is NaN")


@pytest.fixture(autouse=True)
def cheap_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = stub(lambda seed: (2, 1)), stub(lambda seed: (1, 2), method="san"), stub(broken, method="wgan")
    monkeypatch.setitem(bench.FAMILIES, "generator", cases)


def test_a_losing_method_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "bench", "--only", "san", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    row = next(line for line in shown.out.splitlines() if "san" in line)
    assert row.split()[:3] == ["69", "san", "stub"] and " loss " in row
    assert "san: stub: loss" in shown.err
    assert "**loss**" in (tmp_path / "generator.md").read_text()


def test_json_is_alone_on_stdout_and_holds_every_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["methods", "bench", "--only", "r3gan", "--seeds", "4", "--out", str(tmp_path), "--json"]
    assert main(command) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["number"], row["with_idea"], row["verdict"]) == (119, [2.0] * 4, "win")


def test_a_failed_case_is_told_once_the_table_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "bench", "--out", str(tmp_path)]) == 1
    assert "1 case of the bench failed: wgan (stub): the loss is NaN" in capsys.readouterr().err
    assert "1 win, 1 loss, 1 failed" in (tmp_path / "generator.md").read_text().replace("3 cases: ", "")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--family", "generators"), "did you mean generator"),
        (("--only", "r3gam"), "did you mean r3gan"),
        (("--seeds", "2"), "--seeds"),
    ],
)
def test_what_is_not_there_is_refused(
    arguments: tuple[str, ...], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["methods", "bench", "--out", str(tmp_path), *arguments]) == 2
    assert complaint in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
