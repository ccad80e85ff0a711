"""`compress profile --measure`: on this machine, on a phone, rows that go straight into calibrate, and refusals."""

from __future__ import annotations

import csv
import errno
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress import runtimes
from compress.cli import main
from compress.estimate import estimate
from compress.files import refusal, sha256_of
from compress.profile import rows
from compress.targets import load_target
from tests import phone_outputs as real
from tests.fake_phone import SERIAL, FakePhone

Capture = pytest.CaptureFixture[str]
PHONE = ("--measure", "--device", "adb", "--cool-down", "0")


def convolutions(path: Path, *widths: int, size: int | str = 48) -> Path:
    """An ONNX file of 3x3 convolutions of these widths."""
    nodes, weights, before = [], [], 3
    for number, width in enumerate(widths):
        weight = np.full((width, before, 3, 3), 0.01, np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("Conv", [f"x{number}", f"w{number}"], [f"x{number + 1}"], pads=[1, 1, 1, 1]))
        before = width
    given = helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, 3, size, size])
    made = helper.make_tensor_value_info(f"x{len(widths)}", TensorProto.FLOAT, [1, before, size, size])
    graph = helper.make_graph(nodes, "net", [given], [made], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def tokens(path: Path) -> Path:
    """An ONNX file that looks up integers in a table of ten rows."""
    table = numpy_helper.from_array(np.ones((10, 4), np.float32), "table")
    given = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 12])
    made = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [1, 12, 4])
    graph = helper.make_graph([helper.make_node("Gather", ["table", "ids"], ["rows"])], "net", [given], [made], [table])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def one_op(path: Path, op: str, kind: int, rows: int = 10) -> Path:
    """An ONNX file of one op on an input of some type, which for Gather are places in a table of `rows` rows."""
    given = helper.make_tensor_value_info("x", kind, [1, 12])
    table = [numpy_helper.from_array(np.ones((rows, 4), np.float32), "table")] if op == "Gather" else []
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT if table else kind, None)
    node = helper.make_node(op, ["table", "x"] if table else ["x"], ["y"])
    graph = helper.make_graph([node], "net", [given], [made], table)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def apart(path: Path, weights: str) -> Path:
    """An ONNX file of a convolution whose weights are in another file."""
    model = onnx.load(str(convolutions(path, 8)))
    onnx.save(model, str(path), save_as_external_data=True, location=weights, size_threshold=0)
    return path


def json_of(capsys: Capture, *arguments: str, exit_code: int = 0) -> Any:
    capsys.readouterr()
    assert main(["profile", *arguments, "--json"]) == exit_code
    return json.loads(capsys.readouterr().out)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_this_machine_measures_a_file_in_its_own_shapes(tmp_path: Path, capsys: Capture) -> None:
    net = convolutions(tmp_path / "net.onnx", 8)
    (row,) = json_of(capsys, str(net), "--measure", "--runs", "5")
    values = {name: figure["value"] for name, figure in row["figures"].items()}
    assert values["latency_min_ms"] <= values["latency_p50_ms"] <= values["latency_p90_ms"] <= values["latency_p99_ms"]
    assert values["load_ms"] > 0 and values["first_ms"] > 0 and row["latency_ms"] == values["latency_p50_ms"]
    assert (row["n"], row["threads"], row["input"], row["unit"]) == (5, 1, "1x3x48x48", "cpu")
    assert (row["target"], row["runtime"], row["sha256"]) == ("host", "onnxruntime", sha256_of(net))
    assert row["origin"] == "measured" and row["throttled"] is None and "--runs 5" in row["command"]
    assert (values["peak_memory_bytes"] or 0) > 1e6 or "not measured" in row["figures"]["peak_memory_bytes"]["source"]


def test_doubles_go_in_as_doubles(tmp_path: Path, capsys: Capture) -> None:
    (row,) = json_of(
        capsys, str(one_op(tmp_path / "net.onnx", "Identity", TensorProto.DOUBLE)), "--measure", "--runs", "2"
    )
    assert row["input"] == "1x12:float64" and row["latency_ms"] > 0


def test_integers_go_in_as_integers_and_open_sizes_as_one(tmp_path: Path, capsys: Capture) -> None:
    words, flexible = tokens(tmp_path / "words.onnx"), convolutions(tmp_path / "flexible.onnx", 4, size="side")
    found = json_of(capsys, str(words), str(flexible), "--measure", "--runs", "2")
    assert [row["input"] for row in found] == ["1x12:int64", "1x3x1x1"]
    assert found[0]["notes"] == "" and "taken as 1" in found[1]["notes"]


def test_a_table_says_that_it_was_measured_and_on_what(tmp_path: Path, capsys: Capture) -> None:
    net, out = convolutions(tmp_path / "net.onnx", 8), tmp_path / "rows.csv"
    for _ in range(2):
        assert main(["profile", str(net), "--measure", "--runs", "3", "--threads", "2", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "measured on this machine" in text and "onnxruntime, 2 threads" in text and "P99, MS" in text
    assert [row["threads"] for row in rows_of(out)] == ["2", "2"], "a second run adds a row"


def test_a_runtime_that_is_not_installed_does_not_stop_the_others(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = runtimes.importlib.util.find_spec
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None if "litert" in name else find(name))
    (tmp_path / "net.tflite").write_text("weights")
    net = convolutions(tmp_path / "net.onnx", 8)
    missing, row = str(tmp_path / "net.tflite"), str(net)
    found = json_of(capsys, missing, row, "--measure", "--runs", "2", exit_code=4)
    assert [each["model"] for each in found] == [row, missing]
    assert "'.[litert]'" in found[1]["error"] and found[1]["kind"] == "ToolMissing"
    assert main(["profile", missing, "--measure"]) == 4
    complaint = capsys.readouterr().err.strip()
    assert complaint.count("\n") == 0 and complaint.startswith("error: ") and "'.[litert]'" in complaint


def test_a_phone_gives_a_row_with_its_conditions(phone: FakePhone, tmp_path: Path, capsys: Capture) -> None:
    net = convolutions(tmp_path / "my net.onnx", 8)
    phone.write(output=real.onnxruntime(12.5))
    where = ("--tools", str(phone.tools), "--target", "mine", "--scheme", "float32")
    (row,) = json_of(capsys, str(net), *PHONE, *where, "--threads", "4", "--runs", "20")
    assert (row["latency_ms"], row["n"], row["threads"], row["unit"]) == (12.5, 150, 4, "cpu")
    assert (row["device"], row["soc"], row["target"], row["scheme"]) == ("acme A 1", "QTI SM0000", "mine", "float32")
    assert row["os"].startswith("Android 15, acme/a1") and row["governor"] == "schedutil"
    assert (row["throttled"], row["temperature_before_c"], row["temperature_after_c"]) == (False, 24.7, 24.7)
    assert row["runtime"] == "onnxruntime" and "sha256" in row["runtime_version"]
    assert row["figures"]["latency_p99_ms"] == {"value": 18.75, "unit": "ms", "origin": "measured", "n": 150,
                                                "interval": None, "source": "median of 3 rounds"}  # fmt: skip
    assert len(row["environment"]["states"]) == 4 and "my net.onnx" in row["environment"]["phone_command"]
    assert phone.arguments()[-1].endswith("/my net.onnx") and "20" in phone.arguments() and phone.left() == []


def test_weights_in_another_file_go_along(phone: FakePhone, tmp_path: Path) -> None:
    phone.write(output=real.onnxruntime(12.5), event_1='ls > "$FAKE_PHONE/there"\n')
    net = apart(tmp_path / "net.onnx", "net.bin")
    assert main(["profile", str(net), *PHONE, "--tools", str(phone.tools)]) == 0
    assert (phone.root / "there").read_text().split() == ["net.bin", "net.onnx", "onnxruntime_perf_test"]


def test_a_row_that_cannot_be_saved_is_shown_and_ends_the_measuring(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets = [str(convolutions(tmp_path / f"{name}.onnx", 8)) for name in "abc"]
    out, append = tmp_path / "rows.csv", rows.append

    def full(path: Path, row: rows.Row) -> None:
        if row.model == nets[1]:
            raise refusal(OSError(errno.ENOSPC, "No space left on device"), path)
        append(path, row)

    monkeypatch.setattr(rows, "append", full)
    asked = [*nets, "--measure", "--runs", "2", "--out", str(out)]
    found = json_of(capsys, *asked, exit_code=2)
    assert [(each["model"], "latency_ms" in each) for each in found] == [
        (nets[0], True),
        (nets[1], True),
        (nets[1], False),
    ]
    assert "the disk is full" in found[2]["error"] and [row["model"] for row in rows_of(out)] == nets[:1]
    assert main(["profile", *asked]) == 2
    assert f"added 1 row to {out}" in capsys.readouterr().out


def test_a_throttled_row_is_called_so(phone: FakePhone, tmp_path: Path, capsys: Capture) -> None:
    net, out = convolutions(tmp_path / "net.onnx", 8), tmp_path / "rows.csv"
    phone.write(output=real.onnxruntime(12.5), output_3=real.onnxruntime(16.0))
    asked = [str(net), *PHONE, "--tools", str(phone.tools), "--out", str(out)]
    assert main(["profile", *asked]) == 0
    captured = capsys.readouterr()
    assert "throttled, so slower than it would be cool: round 3 was 28% slower than round 1" in captured.out
    assert f"serial {SERIAL}" in captured.err and "measured on acme A 1 (QTI SM0000)" in captured.out
    assert rows_of(out)[0]["throttled"] == "yes"


def test_the_rows_of_a_phone_go_straight_into_calibrate(phone: FakePhone, tmp_path: Path, capsys: Capture) -> None:
    """A made-up phone that takes twice as long as predicted; its throttled row, and another unit's, are left out."""
    out, latencies = tmp_path / "rows.csv", {}
    shapes = {"a": (16, 16), "b": (32, 32), "c": (64, 32), "d": (16,) * 8, "e": (32, 64, 32), "hot": (48, 48)}
    for name, widths in shapes.items():
        net = convolutions(tmp_path / f"{name}.onnx", *widths)
        latencies[name] = 2 * (estimate(net, "pixel-4", "cpu").prediction.latency.value or 0.0)
        phone.write(**{f"output_{name}.onnx": real.onnxruntime(latencies[name])})
    # The files come one after another, three rounds each: the last is at rounds 16 to 18.
    phone.write(output_16=real.onnxruntime(latencies["hot"]), output_18=real.onnxruntime(3 * latencies["hot"]))
    files = [str(tmp_path / f"{name}.onnx") for name in shapes]
    assert main(["profile", *files, *PHONE, "--tools", str(phone.tools), "--out", str(out)]) == 0
    other = rows_of(out)[0] | {"unit": "gpu", "latency_ms": "1000"}
    with out.open("a", newline="") as file:
        csv.DictWriter(file, list(other)).writerow(other)
    asked = ("calibrate", str(out), "--target", "mine", "--like", "pixel-4", "--out", str(tmp_path / "mine"))
    with pytest.warns(UserWarning, match=r"left out line 7 \(throttled\), line 8 \(unit gpu, not cpu\)"):
        found = json_of(capsys, *asked)
    assert found["n"] == 5 and found["mape_before"] == pytest.approx(0.5, abs=1e-3)
    assert found["mape_after"] < 0.1
    ours = estimate(files[0], str(tmp_path / "mine" / "mine.yaml"), "cpu").prediction.latency
    assert ours.value == pytest.approx(latencies["a"], rel=0.15)
    assert "op costs for onnxruntime not printed by onnxruntime_perf_test; sha256" in ours.source
    target = load_target(str(tmp_path / "mine" / "mine.yaml"))
    assert target.soc == "QTI SM0000" and "5 measurements on acme A 1 (QTI SM0000), Android 15" in target.sources["soc"]
    assert target.sources["cpu.profile"].endswith("one thread")


def test_rows_of_several_devices_or_runtimes_are_not_calibrated_as_one(tmp_path: Path, capsys: Capture) -> None:
    net, out = convolutions(tmp_path / "net.onnx", 8), tmp_path / "rows.csv"
    assert main(["profile", str(net), "--measure", "--runs", "2", "--out", str(out)]) == 0
    (row,) = rows_of(out)
    for column, value, words in (
        ("device", "acme A 1", "rows of several devices (this machine, acme A 1)"),
        ("runtime", "LiteRT", "rows of several runtimes (onnxruntime, LiteRT)"),
        ("threads", "4", "rows of several numbers of threads (1, 4)"),
        ("throttled", "yes", "calibrating takes at least 3"),
    ):
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows([row, row | {column: value}])
        asked = ["profile", "calibrate", str(out), "--target", "mine", "--like", "host", "--out", str(tmp_path)]
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert main(asked) == 2
        assert words in capsys.readouterr().err
    out.write_text(out.read_text().replace(",cpu,", ",gpu,"))
    with pytest.warns(UserWarning, match="left out line 2"):
        assert main(asked) == 2
    assert "no row is left" in capsys.readouterr().err and not (tmp_path / "mine.yaml").exists()


def test_a_phone_that_goes_away_stops_the_others_and_keeps_what_came(
    phone: FakePhone, tmp_path: Path, capsys: Capture
) -> None:
    nets = [str(convolutions(tmp_path / f"{name}.onnx", 8)) for name in "abc"]
    out = tmp_path / "rows.csv"
    phone.write(output=real.onnxruntime(12.5), event_5=': > "$FAKE_PHONE/lost"\n')
    found = json_of(capsys, *nets, *PHONE, "--tools", str(phone.tools), "--out", str(out), exit_code=4)
    assert [(each["model"], each.get("n")) for each in found] == [(nets[0], 150), (nets[1], 50), (nets[2], None)]
    assert "round 2 of 3 failed" in found[1]["notes"] and found[2]["kind"] == "DeviceLost"
    assert [row["model"] for row in rows_of(out)] == nets[:2]


def test_the_programs_may_be_named_by_the_environment(
    phone: FakePhone, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = str(convolutions(tmp_path / "net.onnx", 8))
    phone.write(output=real.onnxruntime(12.5))
    monkeypatch.chdir(tmp_path)
    assert main(["profile", net, *PHONE]) == 4
    assert "there is no onnxruntime_perf_test for the phone in it. Get it: build it" in capsys.readouterr().err
    monkeypatch.setenv("COMPRESS_TOOLS", str(phone.tools))
    assert main(["profile", net, *PHONE]) == 0
    assert phone.left() == []


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["net.onnx", "--device", "adb"], 2, "add --measure"),
    (["net.onnx", "--ai-hub", "X"], 2, "add --measure"),
    (["net.onnx", "--measure", "--device", "adb", "--ai-hub", "X"], 2, "name one of them"),
    (["net.onnx", "--measure", "--input", "1x3x8x8"], 2, "leave --input out"),
    (["net.onnx", "--measure", "--ai-hub", "X", "--dry-run", "--seed", "1"], 2, "leave --seed, --dry-run out"),
    (["net.onnx", "--target", "pixel-4", "--unit", "cpu", "--threads", "4"], 2, "--threads: only where something is"),
    (["net.onnx", "--measure", "--scheme", "w8a9"], 2, "did you mean w8a8"),
    (["net.onnx", "--measure", "--out", "bad.onnx/rows.csv"], 2, "cannot write bad.onnx"),
    (["text.onnx", "--measure"], 2, "text.onnx: an input holds string"),
    (["range.onnx", "--measure"], 2, "range.onnx: the onnx runtime does not run it on made-up values"),
    (["outside.onnx", "--measure", "--device", "adb"], 2, "its weights are in away.bin, and that file is not"),
    (["apart.onnx", "--measure", "--ai-hub", "X"], 2, "keeps weights in apart.bin"),
    (["net.onnx", "--measure", "--unit", "npu"], 2, "unknown unit of this machine 'npu'"),
    (["net.onnx", "--measure", "--out", "."], 2, "is a folder"),
    (["nowhere.onnx", "--measure"], 2, "no such file"),
    (["timm:resnet18", "--measure"], 2, "--measure takes .onnx"),
    (["net.mlperf", "--measure"], 2, "does not publish the format"),
    (["net.onnx", "--measure", "--device", "R5CT20ABCDX"], 2, f"did you mean {SERIAL}"),
    (["net.onnx", "--measure", "--device", "adb", "--unit", "npu"], 2, "unknown unit of onnxruntime_perf_test 'npu'"),
    (["net.mlpackage", "--measure", "--device", "adb"], 4, "Apple's devices only"),
    (["net.mlpackage", "--measure"], 4, "runs on macOS only"),
    (["bad.onnx", "--measure"], 2, "cannot be loaded by the onnx runtime"),
], ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "")  # fmt: skip
def test_what_cannot_be_measured_is_one_line(
    arguments: list[str], code: int, words: str, phone: FakePhone, tmp_path: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("compress.profile.apple.sys.platform", "linux")
    convolutions(tmp_path / "net.onnx", 8)
    (tmp_path / "bad.onnx").write_text("no model")
    one_op(tmp_path / "text.onnx", "Identity", TensorProto.STRING)
    one_op(tmp_path / "range.onnx", "Gather", TensorProto.INT64, rows=1)
    apart(tmp_path / "apart.onnx", "apart.bin")
    apart(tmp_path / "outside.onnx", "away.bin").with_name("away.bin").unlink()
    monkeypatch.setenv("COMPRESS_TOOLS", str(phone.tools))
    (tmp_path / "net.mlpackage").mkdir()
    assert main(["profile", *arguments]) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("measuring on")]
    assert len(errors) == 1 and errors[0].startswith("error: ") and words in errors[0], errors
    assert phone.left() == [] and os.listdir(phone.root / "data/local/tmp") == []


def test_nothing_is_uploaded_unless_asked(phone: FakePhone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def upload(*_: Any) -> None:
        raise AssertionError("uploaded")

    monkeypatch.setattr("compress.measure_files.measure_remotely", upload)
    net = str(convolutions(tmp_path / "net.onnx", 8))
    phone.write(output=real.onnxruntime(12.5))
    assert main(["profile", net, "--measure", "--runs", "2"]) == 0
    assert main(["profile", net, *PHONE, "--tools", str(phone.tools)]) == 0
