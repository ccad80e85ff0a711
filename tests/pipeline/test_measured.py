"""What a phone measured of a run's files stands in its report, beside the prediction, however late it comes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.cli import main
from compress.errors import RecipeError
from compress.files import write_json
from compress.pipeline import RunResult, dry_run, run
from compress.recipe import make_recipe
from tests import phone_outputs as real
from tests.fake_phone import FakePhone

Capture = pytest.CaptureFixture[str]
STEPS: list[dict[str, Any]] = [
    {"quantize": {"calibration_batches": 1}},
    {"export": {"formats": ["onnx"]}},
    {"profile": {"runs": 5, "warm_up": 1, "baseline": False}},
]


def record(*measured: str) -> dict[str, Any]:
    """A recipe for a phone, with the files of measurements that its profile step names."""
    *others, profile = STEPS
    more = {"measured": list(measured)} if measured else {}
    return {
        "name": "tiny", "teacher": {"entry": "tests/pipeline/tiny.py:teacher"}, "target": "pixel-4",
        "task": {"entry": "tests/pipeline/tiny.py:task"}, "train": {"threads": 1},
        "steps": [*others, {"profile": profile["profile"] | more}],
    }  # fmt: skip


def go(folder: Path, *measured: str, **options: Any) -> RunResult:
    """The run in `folder`, its recipe beside it."""
    return run(make_recipe(record(*measured)), folder, recipe_folder=folder.parent, quiet=True, **options)


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What is measured of each scheme, as report.json has it."""
    return {artifact["scheme"]: artifact["measured"] for artifact in report_of(folder)["artifacts"]}


def edited(path: Path, to: Path, *changes: dict[str, str]) -> Path:
    """A CSV file whose rows are the first of `path`, each with other values in some columns."""
    with path.open(newline="") as file:
        first = next(csv.DictReader(file))
    with to.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(first))
        writer.writeheader()
        writer.writerows(first | change for change in changes)
    return to


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that knows of no measurements; tests work on copies."""
    folder = tmp_path_factory.mktemp("done") / "run"
    assert go(folder).exit_code == 0
    return folder


@pytest.fixture
def folder(done: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(done, tmp_path / "run"))


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    return FakePhone(tmp_path, monkeypatch)


@pytest.fixture
def mine(phone: FakePhone, folder: Path) -> Path:
    """A CSV file beside the recipe with the w8a8 file as a phone measured it: 12.5 ms, 150 runs."""
    phone.write(output=real.onnxruntime(12.5))
    return measure(phone, folder, "w8a8")


def measure(phone: FakePhone, folder: Path, scheme: str, *more: str) -> Path:
    """Measure an artifact on the phone, as a user does; the file the row went to."""
    out, artifact = folder.parent / "mine.csv", folder / "artifacts" / f"tiny-{scheme}.onnx"
    where = ("--device", "adb", "--cool-down", "0", "--tools", str(phone.tools), "--out", str(out))
    assert main(["profile", str(artifact), "--measure", *where, *more]) == 0
    return out


def test_a_phones_latency_stands_beside_the_prediction(folder: Path, mine: Path) -> None:
    before = report_of(folder)
    go(folder, mine.name)
    after = report_of(folder)
    (artifact,) = (each for each in after["artifacts"] if each["scheme"] == "w8a8")
    (row,) = artifact["measured"]
    assert (row["device"], row["unit"], row["is_host"], row["n"]) == ("acme A 1", "cpu", False, 150)
    p50, p90 = row["latency_p50_ms"], row["latency_p90_ms"]
    assert (p50["value"], p50["unit"], p50["origin"], p50["n"]) == (12.5, "ms", "measured", 150)
    assert p90["value"] > 12.5 and p50["source"] == "on acme A 1; mine.csv, line 2"
    assert row["runtime"] == "onnxruntime" and "sha256" in row["runtime_version"] and row["throttled"] is False
    predicted = artifact["predicted_latency"]
    assert row["prediction_error_percent"] == pytest.approx(100 * (predicted["value"] / 12.5 - 1))
    assert row["in_interval"] is False and not predicted["interval"][0] <= 12.5 <= predicted["interval"][1]
    assert "predicted for litert files, measured as onnx in onnxruntime" in row["notes"]
    assert any("does not say that acme A 1 is one" in note for note in row["notes"])
    assert rows_of(folder)["float32"] == [] and after["warnings"] == before["warnings"]
    (file,) = after["measurements"]
    assert (file["path"], file["rows"], file["matched"]) == ("mine.csv", 1, 1)
    page = (folder / "report.html").read_text()
    assert "Measured on acme A 1" in page and "12.5 ms" in page


def test_a_latency_inside_the_interval_is_called_so(folder: Path, mine: Path) -> None:
    (artifact,) = (each for each in report_of(folder)["artifacts"] if each["scheme"] == "w8a8")
    low, high = artifact["predicted_latency"]["interval"]
    edited(mine, mine.with_name("other.csv"), {"latency_p50_ms": f"{(low + high) / 2:.6g}", "target": "pixel-4"})
    go(folder, "other.csv")
    (row,) = rows_of(folder)["w8a8"]
    assert row["in_interval"] is True and not any("does not say" in note for note in row["notes"])


def test_nothing_is_measured_or_trained_again_for_it(folder: Path, mine: Path) -> None:
    work = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    before = {path: path.stat().st_mtime_ns for path in work}
    here = [artifact["latency"] for artifact in report_of(folder)["artifacts"]]
    go(folder, mine.name)
    assert {path: path.stat().st_mtime_ns for path in work} == before
    assert [artifact["latency"] for artifact in report_of(folder)["artifacts"]] == here
    steps = report_of(folder)["steps"]
    assert (
        steps[-1]["settings"]["measured"]
        == ["mine.csv"]
        == report_of(folder)["recipe"]["steps"][-1]["profile"]["measured"]
    )


def test_report_notices_a_file_that_came_grew_and_went(
    folder: Path, mine: Path, phone: FakePhone, capsys: Capture
) -> None:
    source = folder.parent / "recipe.yaml"
    source.write_text(yaml.safe_dump(record("mine.csv")))

    def report() -> str:
        capsys.readouterr()
        assert main(["report", str(source), "--out", str(folder)]) == 0
        return capsys.readouterr().out

    assert "Measured on acme A 1" in report() and len(rows_of(folder)["w8a8"]) == 1
    written = (folder / "report.json").stat().st_mtime_ns
    assert "12.5 ms" in report() and (folder / "report.json").stat().st_mtime_ns == written, "nothing to write again"
    phone.write(output=real.onnxruntime(20.0))
    measure(phone, folder, "float32")
    assert "20.0 ms" in report() and rows_of(folder)["float32"][0]["latency_p50_ms"]["value"] == 20.0
    source.write_text(yaml.safe_dump(record()))
    assert "Measured on acme" not in report() and rows_of(folder) == {"float32": [], "w8a8": []}
    assert report_of(folder)["measurements"] == [] and "acme" not in (folder / "report.html").read_text()


def test_a_file_named_from_the_start_is_in_the_first_report(folder: Path, mine: Path) -> None:
    go(folder.with_name("fresh"), mine.name)
    assert report_of(folder.with_name("fresh"))["measurements"][0]["rows"] == 1


def test_several_files_are_read_and_one_of_them_twice_once(folder: Path, mine: Path) -> None:
    edited(mine, mine.with_name("more.csv"), {"device": "acme B 2", "latency_p50_ms": "8"})
    go(folder, "mine.csv", "more.csv", "mine.csv")
    assert [(row["device"], row["file"]) for row in rows_of(folder)["w8a8"]] == [
        ("acme A 1", "mine.csv"), ("acme B 2", "more.csv")]  # fmt: skip


def test_a_phone_that_held_back_is_called_so(folder: Path, phone: FakePhone, capsys: Capture) -> None:
    phone.write(output=real.onnxruntime(12.5), output_3=real.onnxruntime(16.0))
    measure(phone, folder, "w8a8")
    go(folder, "mine.csv")
    (row,) = rows_of(folder)["w8a8"]
    assert row["throttled"] is True and "28% slower" in row["throttled_why"]
    assert '<strong class="bad">throttled</strong>' in (folder / "report.html").read_text()


def test_rows_of_other_files_are_one_warning_and_no_error(folder: Path, mine: Path) -> None:
    strange = [{"sha256": f"{number:02x}" * 32, "model": f"net{number}.onnx"} for number in range(8)]
    edited(mine, mine.with_name("other.csv"), {}, *strange, {"sha256": "", "model": "old.onnx"})
    assert go(folder, "other.csv").exit_code == 0
    found = report_of(folder)
    (warning,) = (each for each in found["warnings"] if "not of this run" in each)
    assert "other.csv line 3 (net0.onnx, sha256 00000000)" in warning and "and 3 more" in warning
    assert found["measurements"][0]["matched"] == 1 and len(rows_of(folder)["w8a8"]) == 1
    go(folder)
    assert not any("not of this run" in each for each in report_of(folder)["warnings"])


def test_what_this_machine_measured_is_never_shown_as_the_phones(folder: Path) -> None:
    out, artifact = folder.parent / "mine.csv", folder / "artifacts" / "tiny-w8a8.onnx"
    asked = ("--measure", "--runs", "3", "--target", "pixel-4", "--out", str(out))
    assert main(["profile", str(artifact), *asked]) == 0
    go(folder, "mine.csv")
    (row,) = rows_of(folder)["w8a8"]
    assert row["is_host"] and row["not_compared"] == "measured on a host, predicted for pixel-4 cpu"
    assert row["prediction_error_percent"] is None and row["in_interval"] is None
    page = (folder / "report.html").read_text()
    assert "<h2>Measured on a host</h2>" in page and "this machine, cpu" not in page


@pytest.mark.parametrize(("changes", "why"), [
    ({"unit": "gpu"}, "measured on gpu, predicted for pixel-4 cpu"),
    ({"scheme": "float32"}, "noted as float32, predicted for w8a8"),
    ({"target": "galaxy-s10"}, "measured as galaxy-s10, predicted for pixel-4"),
    ({"device": "this Mac"}, "measured on a host, predicted for pixel-4 cpu"),
    ({"latency_p50_ms": "", "latency_mean_ms": ""}, "no latency was reported"),
    ({"scheme": "w8a8", "target": "pixel-4"}, ""),
])  # fmt: skip
def test_only_a_prediction_for_the_same_is_compared(
    folder: Path, mine: Path, changes: dict[str, str], why: str
) -> None:
    edited(mine, mine.with_name("other.csv"), changes)
    go(folder, "other.csv")
    (row,) = rows_of(folder)["w8a8"]
    assert row["not_compared"] == why
    assert (row["prediction_error_percent"] is None) == bool(why) == (row["in_interval"] is None)


def test_a_mean_stands_for_a_median_that_nobody_reported(folder: Path, mine: Path) -> None:
    none = {"latency_p50_ms": "", "latency_mean_ms": "10", "notes": "warm; latency_p50_ms: it prints the mean alone"}
    edited(mine, mine.with_name("other.csv"), none)
    go(folder, "other.csv")
    (artifact,) = (each for each in report_of(folder)["artifacts"] if each["scheme"] == "w8a8")
    (row,) = artifact["measured"]
    assert row["latency_is"] == "latency_mean_ms" and row["notes"][0] == "warm"
    assert row["latency_p50_ms"]["value"] is None and row["latency_p50_ms"]["source"] == "it prints the mean alone"
    assert row["prediction_error_percent"] == pytest.approx(100 * (artifact["predicted_latency"]["value"] / 10 - 1))


def test_a_report_of_the_version_before_takes_measurements(folder: Path, mine: Path) -> None:
    old = report_of(folder)
    old["schema_version"] = "1.0"
    del old["measurements"], old["steps"][-1]["settings"]["measured"]
    for artifact in old["artifacts"]:
        del artifact["measured"]
    write_json(folder / "report.json", old)
    assert go(folder).report is not None and report_of(folder) == old, "nothing measured, nothing to write"
    go(folder, mine.name)
    assert report_of(folder)["schema_version"] == "1.2" and len(rows_of(folder)["w8a8"]) == 1


@pytest.mark.parametrize(("text", "words"), [
    (None, "no file mine.csv in"),
    (b"\xff\xfe\x00", "mine.csv: not a CSV file"),
    (b"model,latency_ms\nnet.onnx,3\n", "mine.csv: no column sha256, device, unit, runtime, latency_p50_ms"),
    (b"", "mine.csv: no column sha256"),
    (b"sha256,device,unit,runtime,latency_p50_ms\nab,acme,cpu,onnx,fast\n", "mine.csv:2: latency_p50_ms is 'fast'"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_line_before_anything_runs(
    tmp_path: Path, capsys: Capture, text: bytes | None, words: str
) -> None:
    if text is not None:
        (tmp_path / "mine.csv").write_bytes(text)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(record("mine.csv")))
    for more in ((), ("--dry-run",)):
        capsys.readouterr()
        asked = ("run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), *more)
        assert main(list(asked)) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: profile.measured: ") and words in line
    assert not (tmp_path / "run").exists()


def test_steps_before_profile_do_not_ask_for_the_file(tmp_path: Path) -> None:
    assert go(tmp_path / "run", "nowhere.csv", until="export").exit_code == 0
    with pytest.raises(RecipeError, match=r"profile\.measured: no file nowhere\.csv"):
        go(tmp_path / "run", "nowhere.csv", until="profile")
    with pytest.raises(RecipeError, match=r"profile\.measured"):
        dry_run(make_recipe(record("nowhere.csv")), tmp_path)
