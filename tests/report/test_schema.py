import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from compress.errors import RunFolderError
from compress.files import write_json
from compress.report import (
    SCHEMA_VERSION,
    ArtifactRow,
    Figure,
    Figures,
    HistoryRow,
    MeasuredRow,
    Pareto,
    ParetoPoint,
    Report,
    StepRow,
    load_report,
    report_json_schema,
)
from compress.types import Number
from tests.report.sample import example

NUMBER_KEYS = {"value", "unit", "origin", "n", "interval", "source"}


def test_a_report_reads_back_as_it_was(tmp_path):
    report = example()
    write_json(tmp_path / "report.json", report.to_dict())
    assert load_report(tmp_path / "report.json") == report
    assert load_report(tmp_path) == report


def test_the_named_figures_are_whole_numbers_dicts():
    record = example().to_dict()
    for model in ("teacher", "student"):
        for key in ("quality", "params", "macs", "size_bytes", "latency"):
            assert set(record[model][key]) == NUMBER_KEYS
    first = record["artifacts"][0]
    wanted = (
        "format",
        "path",
        "scheme",
        "size_bytes",
        "sha256",
        "ran_on",
        "max_error",
        "sqnr_db",
        "quality",
        "latency",
    )
    assert set(wanted) <= set(first)
    assert set(first["latency"]) == NUMBER_KEYS
    assert {"limit", "value", "met"} <= set(record["budget"][0])


def test_a_number_goes_in_and_comes_out():
    number = Number(1.5, "ms", "predicted", 12, (1.25, 2.0), "roofline")
    figures = Figures(latency=number, more_qualities={"psnr": Number(31.0, "dB", "measured")})
    assert figures.latency == Figure.of(number)
    assert figures.latency.to_number() == number
    assert figures.model_dump()["latency"] == {**number.to_dict(), "interval": (1.25, 2.0)}
    assert figures.more_qualities["psnr"].unit == "dB"


@pytest.mark.parametrize(
    ("value", "word"), [(math.inf, "infinite"), (-math.inf, "infinite"), (math.nan, "not a number")]
)
def test_what_json_cannot_hold_becomes_none_and_says_so(value, word):
    figure = Figure(value=value, unit="dB", origin="measured", source="64 samples", interval=(1.0, math.inf))
    assert figure.value is None
    assert figure.source == f"{word}; 64 samples"
    assert figure.interval == (1.0, None)
    json.dumps(figure.model_dump(mode="json"), allow_nan=False)


def test_array_scalars_become_plain_numbers():
    figures = Figures(macs=np.int64(12), latency=np.float32(0.5))
    assert figures.macs is not None and type(figures.macs.value) is int
    assert figures.latency is not None and figures.latency.value == 0.5 and figures.latency.unit == "ms"
    step = StepRow(index=0, verb="prune", settings={"ratio": np.float64("nan"), "widths": (1, np.int64(8))})
    assert step.settings == {"ratio": None, "widths": [1, 8]}


def test_unnamed_keys_of_a_history_row_are_losses():
    row = HistoryRow.model_validate({"epoch": 2, "student/kd": 0.25, "quality": 0.5, "losses": {"hint": 1.0}})
    assert row.losses == {"hint": 1.0, "student/kd": 0.25}
    assert HistoryRow.model_validate(row.model_dump()) == row


def test_the_players_of_a_training_keep_their_terms_apart():
    row = HistoryRow.model_validate(
        {
            "epoch": 0, "student.gan": 0.5, "student.learning_rate": 0.1, "discriminator.penalty": 0.2,
            "discriminator.learning_rate": 0.3, "stats": {"sign_real": 0.9}, "findings": ["it won: rate halved"],
        }
    )  # fmt: skip
    assert row.losses == {"student.gan": 0.5, "discriminator.penalty": 0.2} and row.learning_rate == 0.1
    assert row.stats == {"sign_real": 0.9} and row.findings == ["it won: rate halved"]
    assert HistoryRow.model_validate(row.model_dump()) == row


def test_other_names_of_a_steps_figures_are_understood():
    step = StepRow(
        index=1, verb="prune", before={"size": {"value": 4, "unit": "bytes"}}, after={"latency_ms": Figure(value=2.0)}
    )
    assert list(step.before) == ["size_bytes"] and list(step.after) == ["latency"]


def test_a_bare_quality_has_the_unit_of_the_teachers():
    point = ParetoPoint(number=0, quality=0.9)
    teacher = Figures(quality=Number(0.95, "fraction", "measured"))
    report = Report(
        name="x", teacher=teacher, pareto=Pareto(points=[point]), artifacts=[ArtifactRow(format="onnx", quality=0.8)]
    )
    assert report.pareto is not None and report.pareto.points[0].quality == Figure(
        value=0.9, unit="fraction", origin="measured"
    )
    assert report.artifacts[0].quality is not None and report.artifacts[0].quality.unit == "fraction"


def test_a_misspelt_field_is_refused():
    with pytest.raises(ValidationError, match="qualty"):
        Figures(qualty=0.5)


def test_only_data_uris_are_taken_as_pictures():
    record = example().to_dict()
    record["samples"][0]["image"] = "https://example.org/a.png"
    with pytest.raises(ValidationError, match="image"):
        Report.model_validate(record)


def test_damaged_reports_are_refused_with_the_field(tmp_path):
    record = example().to_dict()
    record["steps"][1]["index"] = "first"
    write_json(tmp_path / "report.json", record)
    with pytest.raises(RunFolderError, match=r"report\.json: steps\.1\.index"):
        load_report(tmp_path)
    record["schema_version"] = "2.0"
    write_json(tmp_path / "report.json", record)
    with pytest.raises(RunFolderError, match=r"schema_version 2\.0; this release reads 1\."):
        load_report(tmp_path)
    with pytest.raises(RunFolderError, match="cannot read"):
        load_report(tmp_path / "nowhere.json")


def test_a_report_of_version_1_0_reads_without_what_was_measured_on_devices(tmp_path):
    record = example().to_dict()
    record["schema_version"] = "1.0"
    del record["measurements"], record["references"]
    for row in record["artifacts"]:
        del row["measured"]
    write_json(tmp_path / "report.json", record)
    report = load_report(tmp_path)
    assert report.measurements == [] and report.references == [] and all(row.measured == [] for row in report.artifacts)
    assert SCHEMA_VERSION == "1.2" and example().to_dict()["schema_version"] == "1.2"


def test_the_fields_of_what_was_measured_are_frozen():
    """Others read report.json: a field that is renamed or goes takes a new schema version."""
    fields = report_json_schema()["$defs"]["MeasuredRow"]["properties"]
    assert " ".join(fields) == (
        "file line device is_host soc os unit runtime runtime_version threads n latency_p50_ms latency_p90_ms "
        "latency_p99_ms latency_mean_ms first_ms load_ms peak_memory_bytes latency_is prediction_error_percent "
        "in_interval not_compared throttled throttled_why governor temperature_before_c temperature_after_c date "
        "command notes"
    )
    assert set(report_json_schema()["$defs"]["MeasurementFile"]["properties"]) == {"path", "sha256", "rows", "matched"}


def test_a_bare_time_on_a_device_is_measured_milliseconds():
    row = MeasuredRow(device="acme A 1", latency_p50_ms=2.5, peak_memory_bytes=9)
    assert row.latency_p50_ms == Figure(value=2.5, unit="ms", origin="measured")
    assert row.peak_memory_bytes == Figure(value=9, unit="bytes", origin="measured")


def test_the_json_schema_names_every_field_of_a_figure():
    schema = report_json_schema()
    assert set(schema["$defs"]["Figure"]["properties"]) == NUMBER_KEYS
    assert set(example().to_dict()) == set(schema["properties"])
    assert "NaN" not in json.dumps(schema)
