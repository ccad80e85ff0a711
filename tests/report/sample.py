"""A whole made-up report, the same on every call: 3 trainings, 40 candidates, 30 layers, 8 artifacts, 12 samples."""

from __future__ import annotations

import math

import numpy as np

from compress.report.measured import BaselineRow, MeasuredRow, MeasurementFile
from compress.report.png import data_uri
from compress.report.schema import (
    ArtifactRow,
    BudgetRow,
    Environment,
    Figure,
    Figures,
    LayerRow,
    Pareto,
    ParetoPoint,
    ReferenceRow,
    Report,
    SampleRow,
    StepRow,
)
from compress.types import Number

ROOFLINE = "roofline fitted to published rows"
HOST = "median of 200 runs: 1 thread on this host"


def predicted(ms: float, spread: float = 0.22) -> Figure:
    return Figure.of(Number(ms, "ms", "predicted", 48, (ms * (1 - spread), ms * (1 + spread)), ROOFLINE))


def measured(value: float, unit: str, n: int, source: str = "") -> Figure:
    return Figure(value=value, unit=unit, origin="measured", n=n, source=source)


def figures(quality: float, params: int, macs: int, size: int, ms: float, scheme: str) -> Figures:
    return Figures(
        quality=measured(quality, "fraction", 10_000, "accuracy, test split"),
        params=params,
        macs=macs,
        size_bytes=size,
        peak_activation_bytes=393_216 if scheme == "float32" else 163_840,
        latency=predicted(ms),
        more_qualities={"top-5 accuracy": measured(0.9 + quality / 10, "fraction", 10_000, "test split")},
        unknown_ops={"aten.cumsum.default": 1},
        scheme=scheme,
    )


def example() -> Report:
    teacher = figures(0.8913, 272_474, 40_813_184, 1_089_896, 8.437, "float32")
    student = figures(0.8841, 91_310, 13_204_096, 128_512, 1.913, "w8a8")
    return Report(
        name="cifar10-resnet20",
        command="compress run examples/cifar10/recipe.yaml --out runs/cifar10 --seed 0",
        recipe=recipe(),
        target={
            "name": "pixel-4",
            "unit": "cpu",
            "title": "Google Pixel 4",
            "soc": "Qualcomm Snapdragon 855",
            "sources": {"soc": "device column of a published table", "cpu.channel_multiple": "8 channels per tile"},
        },
        quality_name="accuracy",
        environment=Environment(
            python="3.11.9",
            platform="Linux-6.1-x86_64",
            cpu="Example CPU at 2.90 GHz",
            cores=2,
            versions={"torch": "2.13.0", "onnxruntime": "1.32.0", "executorch": "1.5.0", "coremltools": "9.0"},
            threads=1,
            seed=0,
            started="2026-05-04T09:12:01+0000",
            finished="2026-05-04T09:44:37+0000",
        ),
        teacher=teacher,
        student=student,
        references=references(),
        artifacts=artifacts(),
        budget=budget(teacher, student),
        steps=steps(),
        pareto=pareto(),
        layers=layers(30),
        baseline=baseline(),
        measurements=[MeasurementFile(path="mine.csv", sha256="ab" * 32, rows=5, matched=4)],
        samples=samples(),
        warnings=["stages.2.1.conv2: 4 channels more than asked were kept, because the target wants multiples of 8"],
        exit_code=0,
    )


def references() -> list[ReferenceRow]:
    """Two others: one whose cost is known, one that is next to nothing."""
    wrong = Figure(value=0.41, unit="", origin="measured", n=10_000, interval=(0.39, 0.43))
    return [
        ReferenceRow(
            name="published small one",
            quality=Figure(value=0.871, unit="fraction", origin="measured", n=10_000),
            macs=Figure(value=12_400_000, unit="MACs", origin="counted"),
            more_qualities={"calibration error": wrong},
        ),
        ReferenceRow(name="the most frequent class", quality=Figure(value=0.1, unit="fraction", origin="measured")),
    ]


def recipe() -> dict[str, object]:
    return {
        "name": "cifar10-resnet20",
        "teacher": {"entry": "examples/cifar10/task.py:teacher", "weights": "resnet20.safetensors"},
        "target": "pixel-4",
        "budget": {"latency_ms": 2.0, "size_bytes": 200_000, "macs_ratio": 0.3333, "max_quality_drop": 0.01},
        "steps": [{"prune": {"importance": "taylor", "ratio": "auto"}}, {"distill": {"epochs": 30}}],
    }


def budget(teacher: Figures, student: Figures) -> list[BudgetRow]:
    assert student.macs and teacher.macs and student.macs.value and teacher.macs.value
    share = Figure(value=student.macs.value / teacher.macs.value, unit="of the teacher's")
    drop = measured(0.8913 - 0.8841, "fraction", 10_000)
    return [
        BudgetRow(limit="latency_ms", value=2.0, actual=student.latency, met=True, note="predicted on pixel-4 cpu"),
        BudgetRow(limit="size_bytes", value=200_000, actual=student.size_bytes, met=True),
        BudgetRow(limit="macs_ratio", value=0.3333, actual=share, met=True),
        BudgetRow(limit="max_quality_drop", value=0.01, actual=drop, met=True),
    ]


def artifacts() -> list[ArtifactRow]:
    runtimes = {"onnx": "onnxruntime 1.32", "litert": "LiteRT 2.3", "executorch": "ExecuTorch 1.5", "coreml": ""}
    delegates = {"onnx": "CPU", "litert": "XNNPACK", "executorch": "XNNPACK", "coreml": "iOS 17"}
    ends = {"onnx": "onnx", "litert": "tflite", "executorch": "pte", "coreml": "mlpackage"}
    rows = []
    for place, (name, runtime) in enumerate(runtimes.items()):
        for scheme, size, ms, error, sqnr in (
            ("float32", 371_000, 0.612, 3.1e-6, math.inf if name == "onnx" else 112.4),
            ("w8a8", 112_000, 0.287, 0.4127, 31.62),
        ):
            ran = bool(runtime)
            host = ms * (1 + 0.13 * place)
            row = ArtifactRow(
                format=name,
                path=f"artifacts/student-{scheme}.{ends[name]}",
                scheme=scheme,
                size_bytes=size + 5_504 * place,
                sha256=f"{place}{len(scheme)}" * 32,
                ran_on=runtime,
                passed=True if ran else None,
                reason="" if ran else "Core ML runs on macOS only; its program was checked structurally",
                delegate=delegates[name],
                float_ops=["softmax at head: no integer kernel"] if (name, scheme) == ("litert", "w8a8") else [],
                notes=["per-channel weights"] if scheme == "w8a8" else [],
                predicted_latency=predicted(1.913 if scheme == "w8a8" else 3.204) if name != "coreml" else None,
            )
            if ran:
                row.max_error = measured(error * (1 + place), "", 64, "against the torch model")
                row.sqnr_db = Figure.model_validate(Number(sqnr - place, "dB", "measured", 64, source="held samples"))
                row.quality = measured(0.8853 - 0.0012 * (scheme == "w8a8") - 0.0001 * place, "fraction", 10_000)
                row.latency = measured(host, "ms", 200, HOST)
                row.latency_p90 = measured(1.11 * host, "ms", 200, HOST)
                row.load_ms = measured(4.2 + place, "ms", 1, "one load")
                row.peak_memory_bytes = measured(18_300_000 + 1e6 * place, "bytes", 1, "a fresh process")
            row.measured = on_devices(name, scheme)
            rows.append(row)
    return rows


def on_devices(format: str, scheme: str) -> list[MeasuredRow]:
    """A phone that agrees, the same one held back, a host, and a phone that says its mean alone."""
    if (format, scheme) == ("litert", "w8a8"):
        return [device_row(2.103), device_row(3.207, line=3, throttled=True, throttled_why="round 3 was 28% slower")]
    if (format, scheme) == ("onnx", "float32"):
        return [
            device_row(0.612, line=4, device="this machine", soc="Example CPU", is_host=True, runtime="onnxruntime")
        ]
    if (format, scheme) == ("executorch", "float32"):
        return [device_row(3.6, line=5, device="acme B 2", latency_is="latency_mean_ms", throttled=None)]
    return []


def device_row(ms: float, line: int = 2, **changes: object) -> MeasuredRow:
    """A row of mine.csv; the prediction it is held against is 1.913 ms, within 1.49 and 2.33."""
    by_mean = changes.get("latency_is") == "latency_mean_ms"
    figures = {"latency_p50_ms": 1.0, "latency_p90_ms": 1.2, "latency_p99_ms": 1.5, "latency_mean_ms": 1.05}
    predicted = 3.204 if by_mean else 1.913
    source = f"on acme A 1; mine.csv, line {line}"
    record = {
        "file": "mine.csv", "line": line, "device": "acme A 1", "soc": "QTI SM0000", "os": "Android 15", "unit": "cpu",
        "runtime": "LiteRT", "runtime_version": "2.17.0", "threads": 1, "n": 150, "throttled": False,
        "governor": "schedutil", "temperature_before_c": 24.7, "temperature_after_c": 26.1, "date": "2026-05-04",
        "command": "compress profile student.tflite --measure --device adb --out mine.csv",
        "latency_is": "latency_p50_ms", "first_ms": 4 * ms, "load_ms": 9.5, "peak_memory_bytes": 9_000_000,
        **{name: measured(share * ms, "ms", 150, source) for name, share in figures.items()},
    }  # fmt: skip
    if by_mean:
        record["latency_p50_ms"] = Figure(unit="ms", origin="measured", source="it prints the mean alone")
    if changes.get("is_host"):
        record["not_compared"] = "measured on a host, predicted for pixel-4 cpu"
    else:
        record["prediction_error_percent"] = 100 * (predicted / ms - 1)
        record["in_interval"] = 0.78 * predicted <= ms <= 1.22 * predicted
    return MeasuredRow.model_validate(record | changes)


def steps() -> list[StepRow]:
    path = [  # quality, params, macs, artifact bytes, predicted ms: before the first step and after each
        ("search", 0.8913, 272_474, 40_813_184, 1_131_000, 8.437),
        ("prune", 0.6120, 201_300, 27_402_112, 842_000, 6.020),
        ("distill", 0.4410, 91_310, 13_204_096, 398_000, 3.204),
        ("quantize", 0.8871, 91_310, 13_204_096, 398_000, 3.204),
        ("", 0.8859, 91_310, 13_204_096, 121_000, 1.913),
    ]
    rows = [
        StepRow(index=0, verb="teacher", title="teacher", key="a1", seconds=0.4, reused=True, summary="weights given")
    ]
    for index in range(4):
        verb = path[index][0]
        rows.append(
            StepRow(
                index=index + 1,
                verb=verb,
                title=verb,
                key=f"{index + 7:x}" * 12,
                seconds=[211.4, 38.2, 1320.9, 246.0][index],
                settings={"epochs": [0, 6, 30, 8][index], "importance": "taylor", "max_ratio": 0.8},
                summary=["blocks stages.1.2 removed", "416 of 1,040 channels in 12 groups", "", "per channel"][index],
                before=step_figures(path[index]),
                after=step_figures(path[index + 1]),
                history=history([0, 6, 30, 8][index]),
                plan=[{"layer": f"stages.{i}.0.conv1", "before": 16 << i, "after": 8 << i} for i in range(3)]
                if verb == "prune"
                else [],
                warnings=["one group could not be narrowed"] if verb == "prune" else [],
            )
        )
    for index, verb in enumerate(("export", "verify", "profile")):
        rows.append(StepRow(index=5 + index, verb=verb, seconds=31.0 + index, summary="8 files" if index == 0 else ""))
    return rows


def step_figures(row: tuple[str, float, int, int, int, float]) -> dict[str, Figure]:
    _, quality, params, macs, size, ms = row
    return {
        "quality": measured(quality, "fraction", 5_000, "accuracy, validation split"),
        "params": Figure(value=params, unit="parameters"),
        "macs": Figure(value=macs, unit="MACs"),
        "size": Figure(value=size, unit="bytes", origin="predicted", source="one artifact"),
        "predicted_latency": predicted(ms),
    }


def history(epochs: int) -> list[dict[str, float]]:
    rows = []
    for epoch in range(epochs):
        done = (epoch + 1) / epochs
        row = {
            "epoch": epoch,
            "student/kd": 2.1 * math.exp(-2.4 * done) + 0.31,
            "student/hint": 0.9 * math.exp(-1.9 * done),
        }
        if epoch % 2 or epoch + 1 == epochs:
            row["quality"] = 0.8871 - 0.41 * math.exp(-3.6 * done)
        row["learning_rate"] = 0.05 * (1 + math.cos(math.pi * done)) / 2
        rows.append(row)
    return rows


def pareto() -> Pareto:
    random = np.random.default_rng(3)
    costs = np.sort(random.uniform(2.1, 8.4, 40))
    qualities = 0.9 - 0.9 / costs**1.4 - random.gamma(1.0, 0.045, 40)
    best, points = -1.0, []
    for number, (ms, quality) in enumerate(zip(costs.tolist(), qualities.tolist(), strict=True)):
        front, best = quality > best, max(best, quality)
        points.append(
            ParetoPoint(
                number=number,
                quality=quality,
                latency_ms=predicted(ms),
                macs=int(ms * 4.8e6),
                params=int(ms * 32_000),
                on_front=front,
                label=", ".join(f"stages.{i}={int(w)}" for i, w in enumerate(random.integers(1, 9, 3) * 8)),
            )
        )
    chosen = max((p for p in points if p.on_front), key=lambda p: p.number)
    chosen.chosen = True
    return Pareto(points=points, chosen=chosen.number, quality_name="accuracy", study="steps/01-search/study.db")


def layers(count: int) -> list[LayerRow]:
    rows = []
    for i in range(count):
        wide = 16 << min(2, 3 * i // count)
        before, kept = wide * 36_864 * (1 + i % 3), (0.75, 0.5, 0.25, None)[(i * 7) % 10 % 4]
        after = None if kept is None else int(before * kept * kept)
        rows.append(
            LayerRow(
                name=f"conv2d_{i}",
                where=f"stages.{3 * i // count}.{i % 3}.conv{1 + i % 2}",
                kind="conv" if i + 1 < count else "linear",
                macs_before=before,
                macs_after=after,
                channels_before=wide,
                channels_after=None if kept is None else int(wide * kept),
                latency_before_ms=round(before / 5.1e6, 5),
                latency_after_ms=None if after is None else round(after / 7.3e6 + 0.004, 5),
                bound=("compute", "memory", "overhead")[i % 3],
            )
        )
    return rows


def baseline() -> list[BaselineRow]:
    names = {"teacher float32": 1.412, "teacher w8a8": 0.731, "student float32": 0.612, "student w8a8": 0.287}
    return [
        BaselineRow(
            name=name,
            format="onnx",
            latency=measured(ms, "ms", 200, HOST),
            latency_p90=measured(1.08 * ms, "ms", 200, HOST),
            size_bytes=int(ms * 400_000),
        )
        for name, ms in names.items()
    ]


def samples(pictures: bool = False) -> list[SampleRow]:
    rows = []
    grid = np.linspace(0, 1, 32)
    for i in range(12):
        waves = np.stack([np.sin(6 * grid[:, None] * (i + 1) / 3 + c + grid[None, :] * i) for c in range(3)], -1)
        uri = data_uri(((waves + 1) * 127).astype(np.uint8))
        truth, wrong = ("cat", "truck", "ship")[i % 3], i % 5 == 4
        outputs = {
            "teacher": f"{truth} 0.97",
            "student": f"{'dog' if wrong else truth} 0.{91 - i}",
            "onnx w8a8": f"{truth} 0.90",
        }
        if pictures:
            outputs |= {"picture of teacher": uri, "picture of student": uri}
        rows.append(SampleRow(image=uri, target=truth, outputs=outputs))
    return rows
