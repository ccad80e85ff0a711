import pytest

from compress.report import Figure, words
from compress.report.words import interval, share_text, signed, status, value_text, verdict
from tests.report.sample import example


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (40_813_184, "MACs", "40.8 M"),
        (999, "MACs", "999"),
        (999_999, "MACs", "1.00 M"),
        (999.7, "ms", "1,000 ms"),
        (1_234.5, "ms", "1,234 ms"),
        (2.5e7, "ms", "2.50e+07 ms"),
        (272_474, "parameters", "272 k"),
        (1_089_896, "bytes", "1.09 MB"),
        (812, "bytes", "812 B"),
        (0.8841, "fraction", "88.41 %"),
        (-0.0072, "fraction", "−0.72 %"),
        (1.9, "ms", "1.90 ms"),
        (104.26, "ms", "104 ms"),
        (31.62, "dB", "31.6 dB"),
        (3.1e-06, "", "3.1e-06"),
        (0, "ms", "0 ms"),
        (None, "ms", "not known"),
    ],
)
def test_values_read_as_a_person_writes_them(value, unit, shown):
    assert value_text(value, unit) == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(0.3235, "32 %"), (0.0912, "9.1 %"), (0.0996, "10 %"), (1.2, "120 %"), (None, "–")]
)
def test_shares(share, shown):
    assert share_text(share) == shown


@pytest.mark.parametrize(("value", "shown"), [(-0.72, "−0.72"), (0.5, "+0.50"), (0.0, "0.00"), (-0.004, "−0.0040")])
def test_differences_carry_their_sign(value, shown):
    assert signed(value) == shown


def test_intervals_are_in_the_shown_unit():
    assert interval(Figure(value=0.9, unit="fraction", origin="predicted", interval=(0.85, 0.95))) == "[85.0, 95.0]"
    assert interval(Figure(value=1.0, unit="ms", origin="predicted", interval=(0.5, None))) == "[0.500, ?]"
    assert interval(Figure(value=1.0, unit="ms")) == ""


def test_the_origin_says_everything():
    shown = words.origin(Figure(value=1.5, unit="ms", origin="predicted", n=48, interval=(1.0, 2.0), source="roofline"))
    assert shown == "predicted, exactly 1.5 ms, n = 48, 90 % interval [1.00, 2.00] (roofline)"


def test_the_verdict_of_a_good_run():
    assert verdict(example()) == (
        "The student has 32 % of the teacher's MACs and 12 % of the teacher's size, is predicted 4.4 times as fast on "
        "pixel-4 cpu and reaches accuracy 88.41 %, 0.72 points below the teacher; every limit of the budget is met; "
        "6 of 8 artifacts checked and passed."
    )
    assert status(example()) == ("good", "within budget")


def test_the_verdict_hides_nothing():
    report = example()
    report.budget[0].met = False
    report.artifacts[1].passed = False
    report.student.latency = Figure(value=16.874, unit="ms", origin="predicted")
    said = verdict(report)
    assert "the budget is not met (latency_ms)" in said
    assert "the check of onnx w8a8 failed" in said
    assert "2.0 times slower" in said
    assert status(report) == ("bad", "budget not met")


def test_a_run_without_student_has_a_verdict():
    report = example()
    report.student = type(report.student)()
    report.artifacts, report.budget, report.exit_code = [], [], 1
    assert verdict(report) == "The run ended before a student stood."
    assert status(report) == ("bad", "a check failed")


def test_ops_that_stay_float_for_one_reason_are_one_line() -> None:
    lines = [f"NORM at in{i} (no integer kernel)" for i in range(5)]
    lines += [
        "MUL at a (no range for tensor a#1), 2 times",
        "MUL at b (no range for tensor b#7)",
        "odd one",
        "ADD at c (why)",
    ]
    assert words.grouped(lines) == [
        "NORM in 5 places (no integer kernel): in0, in1, in2 and 2 more",
        "MUL in 2 places (no range): a, 2 times, b",
        "odd one",
        "ADD at c (why)",
    ]
    assert words.grouped(["MUL at a (why), 2 times"]) == ["MUL at a (why), 2 times"] and words.grouped([]) == []
