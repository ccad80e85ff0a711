"""Core ML where there is no Mac, and Qualcomm AI Hub by a stand-in for its client: what is asked, sent and read."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compress.errors import InputError, ToolError, ToolMissing, UnknownName
from compress.profile import apple
from compress.profile.ai_hub import measure_remotely
from compress.profile.apple import measure_package, refuse_report

# A profile as AI Hub's client hands it out: microseconds and bytes (github.com/quic/ai-hub-models, scorecard_job.py).
PROFILE = """{
    "execution_summary": {
        "estimated_inference_time": 1040, "all_inference_times": [1000, 1100, 1040, 1060, 1900],
        "first_load_time": 250000, "warm_load_time": 90000,
        "estimated_inference_peak_memory": 22200320, "inference_memory_peak_range": [20000, 22300000],
    },
    "execution_detail": [{"name": "a", "compute_unit": "NPU"}, {"name": "b", "compute_unit": "NPU"},
                         {"name": "c", "compute_unit": "CPU"}],
}"""
CLIENT = """
import os, pathlib
LOG = pathlib.Path(os.environ["HUB_LOG"])
class Device:
    name, os, attributes = "Some Phone", "15", ["os:android", "chipset:some-chip", "vendor:some"]
class Status:
    success, message = True, ""
class Job:
    job_id, url = "jabc", "https://hub.example/jobs/jabc"
    def wait(self): return Status
    def download_profile(self): return PROFILE
def get_devices(name="", **_): return [Device] if name in ("", Device.name) else []
def submit_profile_job(**asked):
    LOG.write_text(repr(asked))
    return Job()
PROFILE = """


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes the stand-in importable with a profile; gives the file that shows what was submitted."""

    def install(profile: str = PROFILE, more: str = "") -> Path:
        (tmp_path / "client").mkdir()
        (tmp_path / "client" / "qai_hub.py").write_text(CLIENT + profile + "\n" + more)
        monkeypatch.syspath_prepend(tmp_path / "client")
        monkeypatch.setenv("HUB_LOG", str(tmp_path / "submitted"))
        monkeypatch.delitem(sys.modules, "qai_hub", raising=False)
        return tmp_path / "submitted"

    yield install
    sys.modules.pop("qai_hub", None)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "net.tflite").write_text("weights")
    return tmp_path / "net.tflite"


def values(found: dict[str, Any]) -> dict[str, float | None]:
    return {name: number.value for name, number in found["figures"].items()}


def test_a_hosted_device_gives_percentiles_of_its_runs(hub: Callable[..., Path], net: Path) -> None:
    submitted, said = hub(), []
    found = measure_remotely(net, "Some Phone", "", "0123456789abcdef", said.append)
    figures = values(found)
    latencies = [figures[name] for name in ("latency_p50_ms", "latency_mean_ms", "latency_min_ms")]
    assert latencies == pytest.approx([1.06, 1.22, 1.0])
    assert (figures["load_ms"], figures["peak_memory_bytes"], figures["first_ms"]) == (250.0, 22200320.0, None)
    assert (found["unit"], found["soc"], found["os"], found["n"]) == ("npu", "some-chip", "android 15", 5)
    assert f"uploading {net} (7 bytes, sha256 0123456789ab)" in said[0] and "jabc" in said[1]
    assert f"'model': '{net}'" in submitted.read_text() and "'options': ''" in submitted.read_text()


def test_a_unit_is_asked_for(hub: Callable[..., Path], net: Path) -> None:
    submitted = hub()
    assert measure_remotely(net, "Some Phone", "gpu", "", print)["unit"] == "gpu"
    assert "'options': '--compute_unit gpu'" in submitted.read_text()


def test_a_profile_without_single_runs_has_no_percentiles(hub: Callable[..., Path], net: Path) -> None:
    hub('{"execution_summary": {"estimated_inference_time": 1040, "inference_memory_peak_range": [1, 2]}}')
    figures = measure_remotely(net, "Some Phone", "", "", print)["figures"]
    assert figures["latency_mean_ms"].value == 1.04 and "estimated_inference_time" in figures["latency_mean_ms"].source
    assert figures["latency_p50_ms"].value is None and "single runs" in figures["latency_p50_ms"].source
    assert figures["peak_memory_bytes"].value == 2.0 and figures["load_ms"].value is None


@pytest.mark.parametrize(("profile", "more", "error", "words"), [
    ("{}", "", ToolError, "cannot be read: KeyError"),
    (PROFILE, "Status.success, Status.message = False, 'no such op'", ToolError, "job jabc failed: no such op"),
    (PROFILE, "def submit_profile_job(**_): raise RuntimeError('no API token\\nrun configure')", ToolError,
     "AI Hub refuses: no API token$"),
    (PROFILE, "def get_devices(name='', **_): return [] if name else [Device]", UnknownName, "did you mean Some Phone"),
], ids=["profile", "job", "client", "device"])  # fmt: skip
def test_what_goes_wrong_there_is_one_line(
    hub: Callable[..., Path], net: Path, profile: str, more: str, error: type[Exception], words: str
) -> None:
    hub(profile, more)
    with pytest.raises(error, match=words):
        measure_remotely(net, "Some Phone", "", "", print)


def test_nothing_is_uploaded_that_it_does_not_take(hub: Callable[..., Path], tmp_path: Path) -> None:
    submitted = hub()
    (tmp_path / "net.pte").write_text("weights")
    with pytest.raises(InputError, match=r"AI Hub profiles .onnx and .tflite"):
        measure_remotely(tmp_path / "net.pte", "Some Phone", "", "", print)
    with pytest.raises(UnknownName, match="unit 'dsp'"):
        measure_remotely(tmp_path / "net.tflite", "Some Phone", "dsp", "", print)
    assert not submitted.exists()


def test_without_the_client_it_says_what_to_install(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.profile.ai_hub.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolMissing, match=r"pip install -e '\.\[ai-hub\]'"):
        measure_remotely(net, "Some Phone", "", "", print)


def test_core_ml_is_measured_on_a_mac_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apple.sys, "platform", "linux")
    with pytest.raises(ToolError, match="runs on macOS only"):
        measure_package(tmp_path / "net.mlpackage", "", 10, 2)
    with pytest.raises(UnknownName, match="unit 'ane'"):
        measure_package(tmp_path / "net.mlpackage", "ane", 10, 2)


def test_on_a_mac_the_first_prediction_is_told_from_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    async def benchmark(*given: Any) -> tuple[float, list[float]]:
        asked.append(given)
        return 120.0, [30.0, 9.0, *map(float, range(1, 11))]

    monkeypatch.setattr(apple.sys, "platform", "darwin")
    monkeypatch.setattr(apple, "_benchmark", benchmark)
    monkeypatch.setattr(apple.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(apple.importlib.metadata, "version", lambda name: "9.0")
    found = measure_package(tmp_path / "net.mlpackage", "npu", 10, 2)
    figures = values(found)
    assert (figures["latency_p50_ms"], figures["first_ms"], figures["load_ms"]) == (5.5, 30.0, 120.0)
    assert figures["peak_memory_bytes"] is None and asked == [(tmp_path / "net.mlpackage", "CPU_AND_NE", 10, 2)]
    assert "does not say which" in found["notes"]


def test_the_benchmark_is_called_as_coremltools_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed class, its two methods replaced: a renamed argument would fail here."""
    coremltools = pytest.importorskip("coremltools")
    import inspect

    from coremltools.models.ml_program.experimental import perf_utils

    seen: dict[str, Any] = {}

    def stand_in(name: str, samples: list[float]) -> Any:
        signature = inspect.signature(getattr(perf_utils.MLModelBenchmarker, name))

        async def method(*given: Any, **named: Any) -> Any:
            seen[name] = dict(signature.bind(*given, **named).arguments)
            return SimpleNamespace(samples=samples)

        return method

    monkeypatch.setattr(perf_utils.MLModelBenchmarker, "__init__", lambda self, model: None)
    monkeypatch.setattr(perf_utils.MLModelBenchmarker, "benchmark_load", stand_in("benchmark_load", [7.0]))
    monkeypatch.setattr(perf_utils.MLModelBenchmarker, "benchmark_predict", stand_in("benchmark_predict", [3.0, 2.0]))
    monkeypatch.setattr(coremltools.models, "MLModel", lambda path, compute_units: (path, compute_units))
    assert asyncio.run(apple._benchmark(Path("net.mlpackage"), "CPU_AND_NE", 1, 1)) == (7.0, [3.0, 2.0])
    assert seen["benchmark_predict"]["iterations"] == 2 and seen["benchmark_predict"]["warmup"] is False


def test_a_report_of_xcodes_is_not_guessed_at() -> None:
    assert "does not publish the format" in str(refuse_report(Path("net.mlperf")))
