"""One model through every format and scheme: what each file computes, against what it should."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from compress import export, quantize, runtimes
from compress.errors import CompressError, ToolError
from compress.graph.cost import cost_of
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import export_static, trace
from compress.profile.measure import measure_alternately
from compress.tasks import Task
from compress.types import Artifact, Number
from compress.verify import THRESHOLDS, compare
from compress.verify import explain as look_inside
from compress.verify.gate import describe
from compress.verify.structure import check

SCHEMES = ("float32", "w8a8")
FORMATS = tuple(export.EXPORTERS)

# An int8 file may lie this much further from the float model than the fake-quantized program it was made from.
ALLOWED_LOSS_DB = 1.0

SHEET = "samples.png"

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Settings:
    """What is asked of each model."""

    formats: tuple[str, ...] = FORMATS
    schemes: tuple[str, ...] = SCHEMES
    samples: int = 8
    calibration_batches: int = 4
    rounds: int = 20


@dataclass(frozen=True)
class Bench:
    """What the files of one model are held against; `made` collects what each computed, by format and scheme."""

    models: dict[str, fx.GraphModule]
    folder: Path
    samples: Sequence[Arrays]
    outputs: dict[str, np.ndarray]
    task: Task
    made: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)


class Replay:
    """A model as a function whose answers are known: hands out the rows of `outputs` in the order of the samples."""

    def __init__(self, outputs: np.ndarray) -> None:
        self.outputs, self.given = torch.from_numpy(outputs), 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The next rows, one for each input sample."""
        first, self.given = self.given, self.given + len(inputs[0])
        return self.outputs[first : self.given]


def measure_model(name: str, folder: Path, settings: Settings) -> dict[str, Any]:
    """The record of one model: what it is, and a row for each format and scheme; its files go into `folder`."""
    start = time.perf_counter()
    module = importlib.import_module(f"examples.parity.{name}")
    model, task = module.teacher(), module.task()
    models, plan = lower(model, task, settings)
    samples = held_samples(task, settings.samples)
    outputs = {scheme: run_all(torch_runner(models[scheme]), samples) for scheme in models}
    task.batch_size = 1  # judge sample by sample: every answer is then that of batch size 1
    task.with_teacher(predictor(models["float32"]))
    bench = Bench(models, folder, samples, outputs, task)
    rows = []
    for scheme in settings.schemes:
        program = export_static(models[scheme], task.example_inputs())
        for format in settings.formats:
            rows.append(_row(bench, format, scheme, program))
            print(f"  {name} {format} {scheme}: {_words(rows[-1])}", file=sys.stderr, flush=True)
    _agreements(rows, bench.made)
    _latencies(rows, folder, samples[0], settings)
    reference = compare(outputs["float32"], outputs["w8a8"]) if "w8a8" in outputs else None
    cost = cost_of(models["float32"], task.example_inputs())
    return {
        "model": name,
        "title": module.TITLE,
        "source": module.SOURCE,
        "params": cost.params,
        "macs": cost.macs,
        "input_shapes": [list(x.shape) for x in task.example_inputs()],
        "samples": len(samples),
        "quality_name": task.quality_name,
        "reference_sqnr_db": None if reference is None else reference.sqnr_db,
        "reference_quality": {scheme: _quality(task, outputs[scheme]) for scheme in outputs},
        "planned_float_ops": _float_ops(plan),
        "rows": rows,
        "sheet": _sheet(task, outputs, bench.made, folder / SHEET),
        "seconds": time.perf_counter() - start,
    }


def _words(row: dict[str, Any]) -> str:
    """A row in a line, for whoever waits."""
    distances = [f"{row[key]:.1f} dB" for key in ("sqnr_float_db", "sqnr_reference_db") if key in row]
    return "; ".join([row["verdict"], *distances, *([row["reason"]] if row["reason"] else [])])


def lower(model: nn.Module, task: Task, settings: Settings) -> tuple[dict[str, fx.GraphModule], Any]:
    """The traced model and its w8a8 form after post-training quantization, by scheme; and the plan (or None)."""
    traced = trace(model, task.example_inputs())
    models = {"float32": traced}
    if "w8a8" not in settings.schemes:
        return models, None
    folded = fold_batch_norms(traced)
    plan = quantize.plan(folded, "w8a8", calibration_inputs(task, settings.calibration_batches))
    return {**models, "w8a8": quantize.apply(folded, plan)}, plan


def calibration_inputs(task: Task, count: int) -> list[tuple[Tensor, ...]]:
    """The first training batches, not augmented."""
    found = []
    for batch in task.batches("train"):
        found.append(batch.inputs)
        if len(found) == count:
            break
    return found


def held_samples(task: Task, count: int) -> list[Arrays]:
    """The first test samples as batch-1 arrays."""
    found: list[Arrays] = []
    for batch in task.batches("test"):
        for i in range(len(batch)):
            found.append(tuple(x[i : i + 1].contiguous().numpy() for x in batch.inputs))
    return found[:count]


def predictor(model: nn.Module) -> Callable[..., Tensor]:
    """The model as a function of tensors, without gradients."""

    def predict(*inputs: Tensor) -> Tensor:
        with torch.no_grad():
            output: Tensor = model(*inputs)
        return output

    return predict


def torch_runner(model: nn.Module) -> Callable[..., list[np.ndarray]]:
    """The model as a function of arrays."""
    predict = predictor(model.eval())
    return lambda *arrays: [predict(*(torch.from_numpy(a) for a in arrays)).numpy()]


def run_all(run: Callable[..., list[np.ndarray]], samples: Sequence[Arrays]) -> np.ndarray:
    """The first output for every sample, one behind the other."""
    return np.concatenate([run(*sample)[0] for sample in samples])


def _row(bench: Bench, format: str, scheme: str, program: Any) -> dict[str, Any]:
    """Writes one file, runs it, and says how far it is from what it should be; `bench.made` gets what it computed."""
    row: dict[str, Any] = {"format": format, "scheme": scheme, "verdict": "refused", "reason": ""}
    try:
        artifact = export.export(program, format, scheme, bench.folder, scheme)
        row |= {"path": artifact.path, "size_bytes": artifact.size_bytes, "delegate": artifact.delegate}
        row |= {"float_ops": list(artifact.float_ops), "notes": list(artifact.notes), "verdict": "failed"}
        row |= _run(bench, artifact, program)
    except CompressError as error:
        row["reason"] = str(error)
    except Exception as error:  # whatever a runtime throws is a finding, not the end of the table
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        row |= {"verdict": "failed", "reason": f"{type(error).__name__}: {reason}"}
    if row["verdict"] == "wrong" and "ran_on" in row:
        path = bench.folder / row["path"]
        row["bisect"] = str(look_inside(bench.models[scheme], path, format, scheme, bench.samples[0]))
    return row


def _run(bench: Bench, artifact: Artifact, program: Any) -> dict[str, Any]:
    """What a file computes in its runtime (a Core ML package away from a Mac: in the reference evaluator), judged."""
    path = bench.folder / artifact.path
    wrong = [str(f) for f in check(path, artifact, program) if not f.passed] if artifact.format == "coreml" else []
    try:
        session = runtimes.load_to_check(path, artifact.format)
    except ToolError as refusal:
        return {"verdict": "wrong" if wrong else "not run", "reason": "; ".join([*wrong, str(refusal)])}
    found = run_all(session.run, bench.samples)
    row = {"ran_on": describe(session), **_judge(artifact.scheme, found, bench.outputs)}
    session.close()
    row["quality"] = _quality(bench.task, found)
    bench.made[artifact.format, artifact.scheme] = found
    return {**row, "verdict": "wrong", "reason": "; ".join([*wrong, row["reason"]])} if wrong else row


def _judge(scheme: str, found: np.ndarray, outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """The distances of what a file computed, and the verdict on them."""
    against_float, against_own = compare(outputs["float32"], found), compare(outputs[scheme], found)
    record: dict[str, Any] = {
        "sqnr_float_db": against_float.sqnr_db,
        "sqnr_reference_db": against_own.sqnr_db,
        "max_error": against_own.max_error,
        "max_relative_error": against_own.max_relative_error,
        "finite": against_own.finite,
    }
    if not against_own.finite:
        return {**record, "verdict": "wrong", "reason": "it gives NaN or infinite numbers"}
    if scheme == "float32":
        limit = THRESHOLDS["float32"].max_relative_error or 0.0
        wrong = against_own.max_relative_error > limit
        reason = f"its largest error is {against_own.max_relative_error:.2g} of the range, the limit {limit:.0e}"
    else:
        lost = compare(outputs["float32"], outputs[scheme]).sqnr_db - against_float.sqnr_db
        wrong = lost > ALLOWED_LOSS_DB
        reason = f"it is {lost:.1f} dB further from float than its reference, the limit {ALLOWED_LOSS_DB:g} dB"
    return {**record, "verdict": "wrong" if wrong else "pass", "reason": reason if wrong else ""}


def _agreements(rows: list[dict[str, Any]], made: dict[tuple[str, str], np.ndarray]) -> None:
    """Puts into each row its SQNR against every other runtime's output at the same scheme."""
    by_place = {(row["format"], row["scheme"]): row for row in rows}
    for first, second in combinations(made, 2):
        if first[1] != second[1] or not (np.isfinite(made[first]).all() and np.isfinite(made[second]).all()):
            continue
        found = compare(made[first], made[second]).sqnr_db
        by_place[first].setdefault("agreement_db", {})[second[0]] = found
        by_place[second].setdefault("agreement_db", {})[first[0]] = found


def _latencies(rows: list[dict[str, Any]], folder: Path, sample: Arrays, settings: Settings) -> None:
    """Puts into each row its median latency, float and int8 of one runtime measured in turns."""
    for format in settings.formats:
        own = [row for row in rows if row["format"] == format and "ran_on" in row and "sqnr_float_db" in row]
        if not own or not is_real(format):
            continue
        sessions = {row["scheme"]: runtimes.load(folder / row["path"], format) for row in own}
        load = os.getloadavg()[0]
        taken = measure_alternately(sessions, sample, rounds=settings.rounds, warm_up=3, max_seconds=20)
        for row in own:
            row["latency"] = taken[row["scheme"]].latency.to_dict()
            row["load_average"] = load
            sessions[row["scheme"]].close()


def is_real(format: str) -> bool:
    """Whether what runs a format here is what a user's machine would run: a time of a stand-in says nothing."""
    return format != "coreml" or sys.platform == "darwin"


def _quality(task: Task, outputs: np.ndarray) -> dict[str, Any]:
    """The task's quality of known outputs."""
    number: Number = task.quality(Replay(outputs), "test", len(outputs))
    return number.to_dict()


def _float_ops(plan: Any) -> list[str]:
    """The ops that the plan itself leaves in float, those of one reason in one line."""
    if plan is None:
        return []
    by_reason: dict[str, list[str]] = {}
    for node, reason in plan.float_ops.items():
        by_reason.setdefault(reason, []).append(node)
    return [f"{reason}: {', '.join(nodes)}" for reason, nodes in by_reason.items()]


def _sheet(task: Task, outputs: dict[str, np.ndarray], made: dict[Any, np.ndarray], file: Path, count: int = 3) -> str:
    """Writes samples side by side and returns what the columns show; "" where outputs are no pictures."""
    from PIL import Image

    models = {f"torch {scheme}": Replay(found) for scheme, found in outputs.items()}
    models |= {f"{format} {scheme}": Replay(found) for (format, scheme), found in made.items() if scheme == "w8a8"}
    samples = task.samples(models, min(count, len(outputs["float32"])))
    pictures = [[s.image, *(o for o in s.outputs.values() if isinstance(o, Tensor))] for s in samples]
    if not pictures or len(pictures[0]) < 2:
        return ""
    height = max(picture.shape[1] for row in pictures for picture in row)
    lines = [torch.cat([_scaled(picture, height) for picture in row], 2) for row in pictures]
    pixels = (torch.cat(lines, 1).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    Image.fromarray(pixels.numpy()).save(file)
    return f"input, {', '.join(models)}"


def _scaled(picture_CHW: Tensor, height: int) -> Tensor:
    """A picture at another height, its pixels repeated."""
    width = round(picture_CHW.shape[2] * height / picture_CHW.shape[1])
    return nn.functional.interpolate(picture_CHW[None], (height, width), mode="nearest")[0]
