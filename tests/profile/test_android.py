"""Measuring on a phone: the programs' real outputs, rounds, cooling, throttling, crashes, and cleaning up."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from compress.errors import ToolError
from compress.profile.android.executorch import ExecutorchTool
from compress.profile.android.litert import LitertTool
from compress.profile.android.onnxruntime import OnnxruntimeTool
from compress.profile.android.run import Bench, Effort, Measured, bench, find_program, stamp
from compress.profile.android.state import State, state_of, throttling
from compress.profile.android.tool import Ask, Tool
from compress.profile.rows import FIGURES
from compress.runtimes.adb import connect
from tests import phone_outputs as real
from tests.fake_phone import FakePhone

ASK = Ask("/p/tool", "/p/net", threads=2, runs=8, warm_up=2)
QUICK = Effort(runs=50, warm_up=5, rounds=3, threads=1, cool_s=0.0)


def measure(phone: FakePhone, tool: Tool | None = None, effort: Effort = QUICK, name: str = "net.bin") -> Measured:
    """What comes of measuring a file on the fake phone."""
    tool = tool or LitertTool()
    model = phone.tools.parent / name
    model.write_text("weights")
    with bench(connect()) as place:
        return place.measure(model, tool, find_program(tool, phone.tools), "cpu", effort)


def test_benchmark_model_of_2020_has_a_mean_and_no_median() -> None:
    report = LitertTool().read(real.LITERT_2020, ASK)
    assert report.n == 50
    assert report.figures == pytest.approx(
        {"latency_mean_ms": 33.2094, "latency_min_ms": 32.641, "first_ms": 49.06, "load_ms": 0.855}
    )
    assert "no median" in report.why["latency_p50_ms"] and set(report.why) | set(report.figures) == set(FIGURES)


def test_benchmark_model_since_2024_has_its_percentiles() -> None:
    report = LitertTool().read(real.litert(66_800, peak_mb=18.5), ASK)
    assert (report.n, report.figures["latency_p50_ms"], report.figures["latency_p95_ms"]) == (50, 66.8, 66.83)
    assert report.figures["peak_memory_bytes"] == 18.5 * 2**20
    assert "p90 is not in it" in report.why["latency_p90_ms"] and "latency_p99_ms" in report.why


def test_benchmark_model_whose_runs_all_took_the_same() -> None:
    line = "count=50 first=66800 curr=66804 min=66790 max=66850 avg=66802.5 std=39 p5=66792 median=66800 p95=66830"
    text = real.litert(66_800).replace(line, "count=50 curr=14(all same) p5=14 median=14 p95=14")
    figures = LitertTool().read(text, ASK).figures
    assert [figures[name] for name in ("latency_p50_ms", "latency_mean_ms", "latency_min_ms")] == [0.014] * 3


def test_benchmark_model_of_the_compiled_model() -> None:
    report = LitertTool().read(real.LITERT_COMPILED, ASK)
    assert report.n == 10
    assert report.figures == pytest.approx(
        {"latency_mean_ms": 7430.2, "latency_min_ms": 7416.4, "first_ms": 7441.04, "load_ms": 23744.73}
    )


def test_executor_runner_tells_every_run_and_the_warm_up_is_left_out() -> None:
    report = ExecutorchTool().read(real.executorch([90.0, 50.0, *map(float, range(1, 9))]), ASK)
    assert report.times_ms == tuple(map(float, range(1, 9))) and report.n == 8
    assert (report.figures["first_ms"], report.figures["load_ms"]) == (90.0, 12.345678)
    assert (report.figures["latency_p50_ms"], report.figures["latency_min_ms"]) == (4.5, 1.0)
    assert report.why == {"peak_memory_bytes": "executor_runner does not report memory"}


def test_a_log_that_lost_its_first_lines_keeps_the_warm_up_out_and_makes_no_first_run_up() -> None:
    """The log holds so many lines: of 2 + 8 runs the first three are gone, so 7 of the timed ones are left."""
    lines = real.executorch([90.0, 50.0, *map(float, range(1, 9))]).splitlines()
    rest = "\n".join(lines[next(i for i, line in enumerate(lines) if line.startswith("Iteration 4 ")) :])
    report = ExecutorchTool().read(rest, ASK)
    assert report.times_ms == tuple(map(float, range(2, 9))) and report.n == 7
    assert not {"first_ms", "load_ms"} & set(report.figures)
    assert "lost its first lines" in report.why["first_ms"] and "lost its first lines" in report.why["load_ms"]


def test_executor_runner_before_2026_gives_only_a_mean() -> None:
    report = ExecutorchTool().read(real.EXECUTORCH_2025, ASK)
    assert report.figures == pytest.approx({"latency_mean_ms": 109.6626}) and report.n == 10
    assert "only the sum" in report.why["latency_p50_ms"] and "April 2026" in report.why["load_ms"]


def test_onnxruntime_perf_test() -> None:
    figures = OnnxruntimeTool().read(real.onnxruntime(20.0), ASK).figures
    assert set(figures) == set(FIGURES)
    names = ("latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "load_ms", "first_ms", "peak_memory_bytes")
    assert [figures[name] for name in names] == pytest.approx([20.0, 24.0, 30.0, 12.3, 7.0, 158171136])


def test_onnxruntime_perf_test_of_2025_and_of_2023_call_the_mean_differently() -> None:
    figures = OnnxruntimeTool().read(real.ONNXRUNTIME_2025, ASK).figures
    assert figures == pytest.approx({
        "latency_p50_ms": 336.476, "latency_p90_ms": 346.82, "latency_p95_ms": 346.82, "latency_p99_ms": 346.82,
        "latency_mean_ms": 339.38112, "latency_min_ms": 333.323, "first_ms": 343, "load_ms": 227.282,
        "peak_memory_bytes": 241426432,
    })  # fmt: skip
    of_2023 = real.ONNXRUNTIME_2025.replace("time cost total:", "time cost:")
    assert OnnxruntimeTool().read(of_2023, ASK).figures == figures


def test_onnxruntime_perf_test_of_2020_and_a_first_inference_below_a_millisecond() -> None:
    old = OnnxruntimeTool().read(real.ONNXRUNTIME_2020, ASK)
    assert (old.n, old.figures["latency_mean_ms"]) == (10, 144.871) and "latency_p50_ms" in old.why
    quick = real.onnxruntime(0.5).replace("First inference time cost: 7 ms", "First inference time cost: 0 ms")
    assert "whole ms" in OnnxruntimeTool().read(quick, ASK).why["first_ms"]


@pytest.mark.parametrize("tool", [LitertTool(), ExecutorchTool(), OnnxruntimeTool()], ids=lambda tool: tool.program)
@pytest.mark.parametrize(
    "text", ["", "Killed \n", "count=3 first=x\n\x00\x01garbage", "Inference timings in us: Init: 1"]
)
def test_garbage_is_no_measurement(tool: Tool, text: str) -> None:
    with pytest.raises(ToolError, match=f"{tool.program} printed no times"):
        tool.read(text, ASK)


def test_command_lines_ask_for_threads_runs_and_warm_up() -> None:
    assert LitertTool().command(ASK) == [
        "/p/tool",
        "--graph=/p/net",
        "--num_threads=2",
        "--num_runs=8",
        "--warmup_runs=2",
    ]
    assert ExecutorchTool().command(ASK)[1:] == ["--model_path=/p/net", "--num_executions=10", "--cpu_threads=2"]
    assert OnnxruntimeTool().command(ASK) == ["/p/tool", "-I", "-s", "-m", "times", "-r", "8", "-x", "2", "-y", "1",
                                              "-e", "cpu", "/p/net"]  # fmt: skip


def test_a_phone_shows_its_state(phone: FakePhone) -> None:
    state = state_of(connect())
    assert (state.governor, state.status, state.battery_percent, state.charging) == ("schedutil", 0, 84, True)
    assert state.caps_khz == {0: 1_804_800, 4: 2_841_600, 7: 2_841_600} and (state.clocks_khz or {})[4] == 300_000
    assert (state.temperature_c, state.sensor) == (24.7, "LRB"), "as measured now, not the 44.7 that was cached"
    assert "USB" not in (state.temperatures_c or {}), "0 °C is a sensor that is not there"


def test_a_phone_that_shows_nothing_is_not_made_up(phone: FakePhone) -> None:
    for name in ("thermalservice", "battery"):
        (phone.root / name).unlink()
    for cpu in (0, 4, 7):
        for path in phone.cap_path(cpu).parent.iterdir():
            path.unlink()
    state = state_of(connect())
    assert state == State(caps_khz={}, clocks_khz={}, temperatures_c={})


def test_without_a_surface_sensor_the_battery_counts_then_the_cpu(phone: FakePhone) -> None:
    (phone.root / "thermalservice").unlink()
    assert (state_of(connect()).temperature_c, state_of(connect()).sensor) == (32.6, "battery")
    (phone.root / "battery").unlink()
    for zone, (kind, value) in enumerate([("cpu-0-0-usr", "41200"), ("cpu-0-1-usr", "43800"), ("pm8150_tz", "51000")]):
        folder = phone.root / f"sys/class/thermal/thermal_zone{zone}"
        folder.mkdir(parents=True)
        (folder / "type").write_text(kind + "\n")
        (folder / "temp").write_text(value + "\n")
    assert (state_of(connect()).temperature_c, state_of(connect()).sensor) == (43.8, "cpu-0-1-usr")


def test_three_rounds_give_their_median_and_leave_nothing_behind(phone: FakePhone) -> None:
    phone.write(output_1=real.litert(5100), output_2=real.litert(5000), output_3=real.litert(5300),
                output_4=real.litert(9000, peak_mb=31.0))  # fmt: skip
    measured = measure(phone, name="it's a net.tflite")
    assert measured.figure("latency_p50_ms") == (5.1, "median of 3 rounds") and measured.n == 150
    assert measured.figure("latency_p99_ms")[0] is None and "p99" in measured.figure("latency_p99_ms")[1]
    assert measured.figure("first_ms") == (15.3, "of the first round")
    assert measured.figure("peak_memory_bytes")[0] == 31 * 2**20, "of a run of its own"
    assert "--report_peak_memory_footprint=true" in phone.arguments(4) and len(phone.arguments(1)) == 4
    assert phone.arguments()[0].endswith("/it's a net.tflite")
    assert (measured.throttled(), measured.notes, phone.left()) == ([], [], [])
    assert (phone.root / "folder").read_text().strip().startswith(str(phone.root / "data/local/tmp/compress-"))


def test_a_program_that_writes_to_the_log_is_read_from_there(phone: FakePhone) -> None:
    phone.write(
        output="OutputX 0: tensor(sizes=[1, 4], [0.1, 0.2, 0.3, 0.4])\n", log=real.executorch([9.0] * 5 + [2.0] * 50)
    )
    measured = measure(phone, ExecutorchTool())
    assert measured.figure("latency_p50_ms")[0] == 2.0 and measured.figure("load_ms")[0] == 12.345678
    assert measured.figure("peak_memory_bytes") == (None, "executor_runner does not report memory")


def test_libraries_beside_the_program_go_along(phone: FakePhone) -> None:
    (phone.tools / "libonnxruntime.so").write_text("code")
    phone.write(
        output=real.onnxruntime(4.0), event_1='echo "$LD_LIBRARY_PATH" > "$FAKE_PHONE/seen"; ls > "$FAKE_PHONE/there"\n'
    )
    measure(phone, OnnxruntimeTool(), Effort(rounds=1))
    assert (phone.root / "seen").read_text() == (phone.root / "folder").read_text()
    assert (phone.root / "there").read_text().split() == ["libonnxruntime.so", "net.bin", "onnxruntime_perf_test"]


def test_files_that_the_models_file_names_go_along_to_their_places(phone: FakePhone) -> None:
    root = phone.tools.parent
    (root / "weights").mkdir()
    for name in ("net.onnx", "net.data", "weights/more.bin"):
        (root / name).write_text(name)
    phone.write(output=real.onnxruntime(4.0), event_1='cat *.data weights/* > "$FAKE_PHONE/seen"\n')
    with bench(connect()) as place:
        program, beside = phone.tools / "onnxruntime_perf_test", [root / "net.data", root / "weights/more.bin"]
        place.measure(root / "net.onnx", OnnxruntimeTool(), program, "cpu", Effort(rounds=1, cool_s=0.0), beside)
        assert (phone.root / "seen").read_text() == "net.dataweights/more.bin"
        assert not list((phone.root / "data/local/tmp").rglob("*.data"))
    assert phone.left() == []


def test_rising_status_dropping_clocks_and_drifting_times_are_throttling(phone: FakePhone) -> None:
    cap = phone.cap_path(4)
    phone.write(
        output_1=real.litert(5000), output_2=real.litert(5200), output_3=real.litert(7000),
        output=real.litert(7000, 20.0),
        hot=real.thermal(2, 46.5),
        event_2='cp "$FAKE_PHONE/hot" "$FAKE_PHONE/thermalservice"\n', event_3=f"echo 1209600 > '{cap}'\n",
    )  # fmt: skip
    measured = measure(phone)
    assert measured.throttled() == [
        "thermal status 2 (moderate) (it was 0 (none) at the start)",
        "the clock of cpu 4 was capped from 2.84 to 1.21 GHz",
        "round 3 was 40% slower than round 1",
    ]
    assert "still 46.5 °C after 0 s of cooling down, 24.7 °C before anything ran" in measured.notes
    assert [state.temperature_c for state in measured.states] == [24.7, 24.7, 46.5, 46.5]


def test_a_phone_that_an_earlier_file_left_capped_is_still_throttled(phone: FakePhone) -> None:
    """Its clocks are down before and after the second file, whose rounds are all alike: only the rest shows it."""
    phone.write(output=real.litert(5000, 20.0), event_3=f"echo 1209600 > '{phone.cap_path(4)}'\n")
    (phone.tools.parent / "net.bin").write_text("weights")
    with bench(connect()) as place:
        measured = [
            place.measure(phone.tools.parent / "net.bin", LitertTool(), phone.tools / "benchmark_model", "cpu", QUICK)
            for _ in range(2)
        ]
    sign = "the clock of cpu 4 was capped from 2.84 to 1.21 GHz"
    assert [each.throttled() for each in measured] == [[sign], [sign]]
    assert [(each.states[0].caps_khz or {})[4] for each in measured] == [2_841_600, 1_209_600]


def test_a_phone_without_a_temperature_rests_for_the_whole_pause(
    phone: FakePhone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("thermalservice", "battery"):
        (phone.root / name).unlink()
    pauses: list[float] = []
    clock = SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic)
    monkeypatch.setattr("compress.profile.android.run.time", clock)
    phone.write(output=real.litert(5000, 20.0))
    measure(phone, effort=Effort(rounds=3, cool_s=40.0))
    assert pauses == [40.0, 40.0], "between the rounds, not before anything ran"


@pytest.mark.parametrize(("states", "rounds", "times", "signs"), [
    ([State(status=0), State(status=0)], [5.0, 5.4], [], 0),
    ([State(status=0), State(status=0)], [5.0, 5.6], [], 1),
    ([State(), State()], [5.0], [[1.0] * 10 + [1.2] * 10], 1),
    ([State(), State()], [5.0], [[1.0] * 4 + [1.2] * 4], 0),
    ([State(status=1), State(status=1)], [5.0], [], 1),
    ([State(caps_khz={0: 2_000_000}), State(caps_khz={0: 1_990_000})], [5.0], [], 0),
    ([State(caps_khz={0: 2_000_000}), State(caps_khz={})], [5.0], [], 0),
], ids=["8 % is noise", "12 % is drift", "drift in a round", "few", "hot already", "a step", "unseen"])  # fmt: skip
def test_what_counts_as_throttling(
    states: list[State], rounds: list[float], times: list[list[float]], signs: int
) -> None:
    assert len(throttling(states, rounds, times)) == signs


def test_a_hot_phone_is_waited_for(phone: FakePhone) -> None:
    """It is at 40 °C after round 1, and back after two looks; the next file finds it cool without a wait."""
    cooling = """
n=$(($(cat "$FAKE_PHONE/looks" 2>/dev/null || echo 0) + 1)); echo $n > "$FAKE_PHONE/looks"
[ "$1" = thermalservice ] && [ "$(cat "$FAKE_PHONE/round")" = 1 ] && [ $n -lt 9 ] && cat "$FAKE_PHONE/hot" && exit
cat "$FAKE_PHONE/$1"
"""
    (phone.root / "bin/dumpsys").write_text(f"#!/bin/sh{cooling}")
    phone.write(hot=real.thermal(0, 40.0), output=real.litert(5000, 20.0))
    measured = measure(phone, effort=Effort(rounds=2, cool_s=30.0))
    assert [state.temperature_c for state in measured.states] == [24.7, 40.0, 24.7]
    assert measured.notes == [] and int((phone.root / "looks").read_text()) > 9


def test_a_crash_in_the_first_round_is_an_error_and_cleans_up(phone: FakePhone) -> None:
    phone.write(event_1="echo 'Illegal instruction'; kill -ILL $$\n")
    with pytest.raises(
        ToolError, match=r"benchmark_model on the phone \w+ crashed with SIGILL \(it was built for a CPU"
    ):
        measure(phone)
    assert phone.left() == []


@pytest.mark.parametrize(("event", "words"), [
    ("kill -SEGV $$\n", "crashed with SIGSEGV"),
    ("echo 'CANNOT LINK EXECUTABLE: no libOpenCL.so'; exit 1\n", "ended with 1: CANNOT LINK EXECUTABLE"),
    ("echo nonsense; exit 0\n", "printed no times"),
], ids=["segfault", "library", "garbage"])  # fmt: skip
def test_what_was_measured_before_a_failure_is_kept(phone: FakePhone, event: str, words: str) -> None:
    phone.write(output=real.litert(5000), event_3=event)
    measured = measure(phone)
    assert measured.n == 100 and measured.figure("latency_p50_ms")[0] == 5.0
    assert (
        len(measured.notes) == 1 and measured.notes[0].startswith("round 3 of 3 failed") and words in measured.notes[0]
    )
    assert phone.left() == []


def test_a_program_that_takes_too_long_is_ended_on_the_phone(phone: FakePhone) -> None:
    """The phone goes on with what adb no longer waits for; it would slow down every file that comes after."""
    beat = phone.root / "beat"
    phone.write(event_1="exec sh -c 'while :; do date +%s%N > \"$FAKE_PHONE/beat\"; sleep 0.1; done'\n")
    effort = Effort(rounds=1, cool_s=0.0, limit_s=5.0)
    with bench(connect()) as place:
        with pytest.raises(ToolError, match="did not answer within 5 s"):
            place.measure(Path(__file__), LitertTool(), phone.tools / "benchmark_model", "cpu", effort)
        time.sleep(0.3)  # a beat that was under way
        last = beat.read_text()
        time.sleep(0.5)
        assert beat.read_text() == last, "it still beats"


def test_an_interruption_ends_the_program_and_cleans_up(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    monkeypatch.setattr(Bench, "stop", lambda self: stopped.append(self.folder))
    with pytest.raises(KeyboardInterrupt), bench(connect()) as place:
        raise KeyboardInterrupt
    assert stopped == [place.folder] and phone.left() == []


def test_only_a_program_that_still_runs_is_ended(phone: FakePhone) -> None:
    """Once it has ended, another process may have its number."""
    phone.write(output=real.litert(5000))
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        with bench(connect()) as place:
            place.measure(Path(__file__), LitertTool(), phone.tools / "benchmark_model", "cpu", QUICK)
            assert not [file for file in (phone.root / "data/local/tmp").rglob(".*") if file.is_file()]
            place.stop()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_phone_lost_in_the_middle_keeps_its_rounds(phone: FakePhone) -> None:
    phone.write(output=real.litert(5000), event_2=': > "$FAKE_PHONE/lost"\n')
    measured = measure(phone)
    assert measured.n == 50 and "not there any more" in measured.notes[0]


def test_a_program_for_another_cpu_is_named(phone: FakePhone) -> None:
    (phone.tools / "benchmark_model").write_bytes(b"\x7fELF" + bytes(60))
    with pytest.raises(ToolError, match=r"cannot be run there \(12[67]; is it a program for this phone's CPU\?\)"):
        measure(phone)


def test_memory_that_cannot_be_watched_costs_only_that_figure(phone: FakePhone) -> None:
    phone.write(output=real.litert(5000), event_4="kill -KILL $$\n")
    measured = measure(phone)
    assert measured.n == 150 and measured.figure("peak_memory_bytes")[0] is None
    assert "SIGKILL (the phone ended it, mostly because memory ran out)" in measured.notes[0]


def test_a_missing_program_says_where_to_get_it(tmp_path: Path) -> None:
    for tool in (LitertTool(), ExecutorchTool(), OnnxruntimeTool()):
        with pytest.raises(ToolError, match=f"there is no {tool.program}") as found:
            find_program(tool, tmp_path)
        assert tool.where in str(found.value)
    (tmp_path / "android_aarch64_benchmark_model").write_text("code")
    assert find_program(LitertTool(), tmp_path).name == "android_aarch64_benchmark_model"


def test_two_builds_of_a_program_are_told_apart(tmp_path: Path) -> None:
    stamps = []
    for text in ("one", "two"):
        (tmp_path / "benchmark_model").write_text(text)
        stamps.append(stamp(tmp_path / "benchmark_model"))
    assert stamps[0] != stamps[1] and all("not printed by benchmark_model" in each for each in stamps)
