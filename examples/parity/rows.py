"""One file of the parity table: written, run in its runtime, judged, held against the other runtimes, timed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from compress import export, runtimes
from compress.errors import CompressError, ToolError
from compress.profile.measure import measure_alternately
from compress.runtimes.arm64.emulate import run_artifact
from compress.runtimes.arm64.root import FORMATS as EMULATED
from compress.runtimes.arm64.root import Root
from compress.tasks import Task
from compress.types import Artifact, Number
from compress.verify import THRESHOLDS, compare
from compress.verify import explain as look_inside
from compress.verify.gate import describe
from compress.verify.structure import check

# An int8 file may lie this much further from the float model than the fake-quantized program it was made from.
ALLOWED_LOSS_DB = 1.0

Arrays = tuple[np.ndarray, ...]


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


def row_of(bench: Bench, format: str, scheme: str, program: Any) -> dict[str, Any]:
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
    row["quality"] = quality_of(bench.task, found)
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


def add_agreements(rows: list[dict[str, Any]], made: dict[tuple[str, str], np.ndarray]) -> None:
    """Puts into each row its SQNR against every other runtime's output at the same scheme."""
    by_place = {(row["format"], row["scheme"]): row for row in rows}
    for first, second in combinations(made, 2):
        if first[1] != second[1] or not (np.isfinite(made[first]).all() and np.isfinite(made[second]).all()):
            continue
        found = compare(made[first], made[second]).sqnr_db
        by_place[first].setdefault("agreement_db", {})[second[0]] = found
        by_place[second].setdefault("agreement_db", {})[first[0]] = found


def add_latencies(rows: list[dict[str, Any]], folder: Path, sample: Arrays, rounds: int) -> None:
    """Puts into each row its median latency, float and int8 of one runtime measured in turns."""
    for format in dict.fromkeys(row["format"] for row in rows):
        own = [row for row in rows if row["format"] == format and "ran_on" in row and "sqnr_float_db" in row]
        if not own or not is_real(format):
            continue
        sessions = {row["scheme"]: runtimes.load(folder / row["path"], format) for row in own}
        load = os.getloadavg()[0]
        taken = measure_alternately(sessions, sample, rounds=rounds, warm_up=3, max_seconds=20)
        for row in own:
            row["latency"] = taken[row["scheme"]].latency.to_dict()
            row["load_average"] = load
            sessions[row["scheme"]].close()


def add_emulated(rows: list[dict[str, Any]], bench: Bench, root: Root, count: int) -> None:
    """Puts into each row what its file computes on emulated ARM for the first samples, judged as here."""
    outputs = {scheme: found[:count] for scheme, found in bench.outputs.items()}
    for row in rows:
        place = (row["format"], row["scheme"])
        if row["format"] not in EMULATED or place not in bench.made:
            continue
        try:
            run = run_artifact(root, bench.folder / row["path"], row["format"], bench.samples[:count])
        except CompressError as error:
            row["arm64"] = {"verdict": "failed", "reason": str(error)}
            continue
        found = np.concatenate([answer[0] for answer in run.outputs])
        here = compare(bench.made[place][:count], found)
        row["arm64"] = {"ran_on": run.ran_on, "samples": count, **_judge(row["scheme"], found, outputs)}
        row["arm64"] |= {"sqnr_host_db": here.sqnr_db, "max_error_host": here.max_error}
        print(f"  arm64 {' '.join(place)}: {words(row['arm64'])}", file=sys.stderr, flush=True)


def is_real(format: str) -> bool:
    """Whether what runs a format here is what a user's machine would run: a time of a stand-in says nothing."""
    return format != "coreml" or sys.platform == "darwin"


def quality_of(task: Task, outputs: np.ndarray) -> dict[str, Any]:
    """The task's quality of known outputs."""
    number: Number = task.quality(Replay(outputs), "test", len(outputs))
    return number.to_dict()


def words(row: dict[str, Any]) -> str:
    """A row in a line, for whoever waits."""
    distances = [f"{row[key]:.1f} dB" for key in ("sqnr_float_db", "sqnr_reference_db") if key in row]
    return "; ".join([row["verdict"], *distances, *([row["reason"]] if row["reason"] else [])])


def run_all(run: Callable[..., list[np.ndarray]], samples: Sequence[Arrays]) -> np.ndarray:
    """The first output for every sample, one behind the other."""
    return np.concatenate([run(*sample)[0] for sample in samples])
