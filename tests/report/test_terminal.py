import io
from pathlib import Path

from rich.console import Console

from compress.report import print_report
from tests.report.sample import example


def printed(report, folder=None):
    stream = io.StringIO()
    print_report(report, folder, Console(file=stream, width=100, color_system=None))
    return stream.getvalue()


def test_the_end_of_a_run_fits_a_hundred_columns_and_says_origins():
    shown = printed(example(), Path("runs/cifar10"))
    assert max(len(line) for line in shown.splitlines()) <= 100
    row = next(line for line in shown.splitlines() if line.strip().startswith("Latency"))
    assert " ".join(row.split()) == "Latency 8.44 ms [6.58, 10.3] 1.91 ms [1.49, 2.33] 23 % predicted, pixel-4 cpu"
    assert "runs/cifar10/report.html" in shown


def test_each_artifact_is_one_line_with_its_parity():
    lines = printed(example()).splitlines()
    row = next(line for line in lines if line.strip().startswith("litert w8a8"))
    assert " ".join(row.split()) == "litert w8a8 118 kB 0.8254 30.6 dB 88.40 % 0.324 ms 0.360 ms passed"
    row = next(line for line in lines if line.strip().startswith("coreml w8a8"))
    assert " ".join(row.split()) == "coreml w8a8 129 kB – – – – – not run here"


def below(lines, start):
    """The lines from the one that starts so up to the next empty one, without their padding."""
    first = next(number for number, line in enumerate(lines) if line.startswith(start))
    rest = [" ".join(line.split()) for line in lines[first:]]
    return rest[: rest.index("")]


def test_what_a_device_measured_stands_beside_the_prediction():
    lines = below(printed(example()).splitlines(), "Measured on")
    assert lines[0] == "Measured on acme A 1, acme B 2 and a host, beside the prediction for pixel-4 cpu"
    told = " ".join(lines)
    assert "litert w8a8 acme A 1, cpu 2.10 ms 2.52 ms 1.91 ms −9.03 % inside" in told
    assert "150 runs, LiteRT 2.17.0, 1 thread" in told and "not throttled [litert w8a8]" in told
    assert "−40.3 % outside" in told and "throttled: round 3 was 28% slower [litert w8a8]" in told
    assert "the mean stands for the median: 3.78 ms [executorch float32]" in told


def test_a_host_is_neither_named_as_a_device_nor_held_against_a_prediction():
    report = example()
    for row in report.artifacts:
        row.measured = [each for each in row.measured if each.is_host]
    lines = below(printed(report).splitlines(), "Measured on")
    told = " ".join(lines)
    assert lines[0].startswith("Measured on a host, beside")
    assert "onnx float32 a host, cpu 0.612 ms 0.734 ms – not compared" in told and "this machine" not in told
    assert "not compared: measured on a host, predicted for pixel-4 cpu [onnx float32]" in told


def test_a_package_that_the_reference_evaluator_computed_is_not_said_to_have_run():
    report = example()
    coreml = next(row for row in report.artifacts if row.format == "coreml")
    last = {}
    for ran_on in (
        "Core ML program, reference evaluator (not Core ML itself) 1",
        "not run here: Core ML runs on macOS",
    ):
        coreml.ran_on, coreml.passed = ran_on, True
        last[ran_on[:3]] = next(line for line in printed(report).splitlines() if line.strip().startswith("coreml "))
    assert last["Cor"].rstrip().endswith("evaluated")
    assert last["not"].rstrip().endswith("structure")


def test_failures_and_unmet_limits_are_said():
    report = example()
    report.artifacts[1].passed, report.artifacts[1].reason = False, "SQNR 12.0 dB, least 20.0"
    report.budget[0].met = False
    lines = printed(report).splitlines()
    limit = next(line for line in lines if line.strip().startswith("latency_ms"))
    shown = " ".join(" ".join(lines).split())
    assert "budget not met" in shown
    assert "failed:" in shown and "12.0" in shown
    assert limit.split()[:6] == ["latency_ms", "2.00", "ms", "1.91", "ms", "[1.49,"] and "not met" in limit


def test_names_are_printed_letter_by_letter():
    report = example()
    report.name, report.warnings = "[bold]name[/bold]", ["[red]careful[/red]"]
    shown = printed(report)
    assert "[bold]name[/bold]" in shown and "[red]careful[/red]" in shown


def test_an_empty_report_prints_no_tables():
    report = example()
    for field in ("artifacts", "budget", "baseline"):
        setattr(report, field, [])
    shown = printed(report)
    assert "Artifacts" not in shown and "Budget" not in shown and "Teacher and student" in shown
