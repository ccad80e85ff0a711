"""The rows of the report that hold measured latencies alone: of this host's comparison, and of devices."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compress.report.figure import Figure, Part, Texts, bare

Measured = Annotated[Figure | None, bare("ms", "measured")]


class BaselineRow(Part):
    """One model of the host comparison, all measured alternately on this host; `latency` is the median."""

    name: str
    format: str = ""
    latency: Measured = None
    latency_p90: Measured = None
    size_bytes: int | None = None


class MeasuredRow(Part):
    """One artifact as it was measured on one device with `compress profile FILE --measure --out`, found by its sha256.

    `prediction_error_percent` and `in_interval` compare the artifact's `predicted_latency` with `latency_is` (the
    median, or the mean where nothing else was reported): +10 says that 10 % too much was predicted. Both are None
    where the prediction is for something else; `not_compared` then says for what.
    """

    file: str = Field("", description="the CSV file, as the recipe names it")
    line: int | None = None
    device: str
    is_host: bool = Field(False, description="a computer that measured on itself: no phone, whatever the target is")
    soc: str = ""
    os: str = ""
    unit: str = ""
    runtime: str = ""
    runtime_version: str = ""
    threads: int | None = None
    n: int | None = Field(None, description="timed runs behind the latencies")
    latency_p50_ms: Measured = None
    latency_p90_ms: Measured = None
    latency_p99_ms: Measured = None
    latency_mean_ms: Measured = None
    first_ms: Measured = None
    load_ms: Measured = None
    peak_memory_bytes: Annotated[Figure | None, bare("bytes", "measured")] = None
    latency_is: str = Field("", description="the figure that is compared: latency_p50_ms or latency_mean_ms")
    prediction_error_percent: float | None = None
    in_interval: bool | None = Field(None, description="whether it lies in the prediction's 90 % interval")
    not_compared: str = ""
    throttled: bool | None = Field(None, description="the device held back; None: nobody looked")
    throttled_why: str = ""
    governor: str = ""
    temperature_before_c: float | None = None
    temperature_after_c: float | None = None
    date: str = ""
    command: str = ""
    notes: Texts = Field(default_factory=list)

    @property
    def label(self) -> str:
        """What it was measured on, in words that cannot be taken for a phone where it is none."""
        return "a host" if self.is_host else self.device


class MeasurementFile(Part):
    """One CSV file of measurements that the report was made with."""

    path: str = Field(description="as the recipe names it")
    sha256: str
    rows: int
    matched: int = Field(description="rows of artifacts of this run")
