"""One model through every format and scheme: what each file computes, against what it should."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from compress import export, quantize
from compress.graph.cost import cost_of
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import export_static, trace
from compress.runtimes.arm64.root import Root
from compress.tasks import Task
from compress.verify import compare
from examples.parity.rows import (
    Arrays,
    Bench,
    Replay,
    add_agreements,
    add_emulated,
    add_latencies,
    quality_of,
    row_of,
    run_all,
    words,
)

SCHEMES = ("float32", "w8a8")
FORMATS = tuple(export.EXPORTERS)

SHEET = "samples.png"


@dataclass(frozen=True)
class Settings:
    """What is asked of each model."""

    formats: tuple[str, ...] = FORMATS
    schemes: tuple[str, ...] = SCHEMES
    samples: int = 8
    calibration_batches: int = 4
    rounds: int = 20
    root: Root | None = None  # the emulated system, where the files are to run there too
    emulated_samples: int = 2


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
            rows.append(row_of(bench, format, scheme, program))
            print(f"  {name} {format} {scheme}: {words(rows[-1])}", file=sys.stderr, flush=True)
    add_agreements(rows, bench.made)
    if settings.root is not None:
        add_emulated(rows, bench, settings.root, settings.emulated_samples)
    add_latencies(rows, folder, samples[0], settings.rounds)
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
        "reference_quality": {scheme: quality_of(task, outputs[scheme]) for scheme in outputs},
        "planned_float_ops": _float_ops(plan),
        "rows": rows,
        "sheet": _sheet(task, outputs, bench.made, folder / SHEET),
        "seconds": time.perf_counter() - start,
    }


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
