"""Runs a recipe's steps in order, writes the run folder, and never does a thing twice.

A run folder holds `recipe.json` (as resolved), `steps/NN-verb/` (plan, weights, record), `artifacts/` and the report.
A step's key is the hash of all it depends on: code version, model, task, data, its own settings, the budget and target
where it looks at them, and the key of the step before. A step whose record carries the same key, with files that match
their hashes, is not run again; so a second run does nothing over, and a killed run goes on where it was.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from compress import rewrite
from compress.assemble import Records, assemble
from compress.checkpoint import Student, load_weights, rebuild, save_weights
from compress.console import Console
from compress.errors import CheckFailed, CompressError, Infeasible, RecipeError, RunFolderError, WeightsError
from compress.files import hash_of, read_json, refusal, sha256_of, write_json
from compress.graph.groups import WidthModel, residual_blocks
from compress.job import TEACHER, Job
from compress.profile.budget import CostModel
from compress.recipe import Recipe, make_recipe
from compress.report import write as write_report
from compress.report.schema import Report, load_report
from compress.steps import RUN, Outcome
from compress.steps.distill import check as check_distill
from compress.steps.measured import SETTING, add_measured, read_measured
from compress.steps.prune import make_plan
from compress.steps.rewrite import make_plan as plan_rewrite
from compress.steps.solver import use_sampler
from compress.tasks import Task

LOOKS_AT_TARGET = ("search", "prune", "profile", "quantize", "distill", TEACHER)
TRAINS = (TEACHER, "distill", "quantize")
RECORD = "record.json"
READ_BY_REPORT = {"profile": (SETTING, "also")}
"""Settings that no step's work depends on: only the report reads what they name, each time it is made."""


@dataclass
class RunResult:
    """Where a run lies, its report, and the command line's exit code for it."""

    folder: Path
    report: Report | None
    exit_code: int


def run(
    recipe: Recipe,
    out: Path,
    *,
    recipe_folder: Path,
    until: str | None = None,
    resume: bool = False,
    command: str = "",
    quiet: bool = False,
) -> RunResult:
    """Run a recipe (up to and including the last `until` step) in the folder `out`.

    Raises:
        CompressError: see `compress.errors`; what was finished before stays and is used next time.
    """
    if resume and not (out / "recipe.json").is_file():
        raise RunFolderError(f"--resume: there is no run in {out}; leave --resume out to start one")
    job = Job(recipe, recipe_folder.resolve(), out, Console(quiet))
    return _run_job(job, until, command)


def compress_objects(
    model: nn.Module,
    task: Task,
    *,
    target: str = "host",
    unit: str = "cpu",
    budget: Mapping[str, Any] | None = None,
    steps: Any = None,
    out: str | Path = "runs/compress",
    seed: int = 0,
    quiet: bool = False,
    **more: Any,
) -> RunResult:
    """The same pipeline for a model and a task that are already objects (a notebook)."""
    folder = Path(out)
    record = {
        "name": more.pop("name", "compress"),
        "teacher": {"entry": "object:model"},
        "task": {"entry": "object:task"},
        "target": target,
        "unit": unit,
        "budget": dict(budget or {}),
        "seed": seed,
        "steps": steps if steps is not None else DEFAULT_STEPS,
        **more,
    }
    recipe = make_recipe(record, "compress()")
    if recipe.train.devices > 1:
        raise RecipeError("train.devices: several processes need entries that each can load; use a recipe file")
    frozen = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def make() -> nn.Module:
        model.load_state_dict(frozen)
        return copy.deepcopy(model)

    job = Job(recipe, Path.cwd(), folder, Console(quiet), make, task, _identity(model, task))
    return _run_job(job, None, "compress(...)")


DEFAULT_STEPS: list[Any] = [
    {"prune": {}}, {"distill": {}}, {"quantize": {"qat_epochs": 2}}, {"export": {}}, {"verify": {}}, {"profile": {}},
]  # fmt: skip


def _identity(model: nn.Module, task: Task) -> str:
    """A hash of the model's weights and structure and of the task's first validation batch."""
    digest = hashlib.sha256(repr(model).encode() + type(task).__qualname__.encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    for tensor in next(iter(task.batches("validation"))).inputs:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_run(folder: Path) -> tuple[Recipe, Path]:
    """The recipe of an earlier run folder, as resolved, and the folder its paths start from.

    Raises:
        RunFolderError: there is no run in the folder.
    """
    if not (folder / "recipe.json").is_file():
        raise RunFolderError(f"{folder}: no run lies there (recipe.json is missing); give a recipe or a run folder")
    record = read_json(folder / "recipe.json")
    return make_recipe(record["recipe"], str(folder / "recipe.json")), Path(record["folder"])


def _run_job(job: Job, until: str | None, command: str) -> RunResult:
    last = _last_index(job, until)
    _ = job.threads
    job.target.unit(job.recipe.unit)
    for other in job.other_targets:
        job.target_named(other.target).unit(other.unit)
    check_distill(job)
    if "profile" in job.verbs[: last + 1]:
        read_measured(job)  # better refused now than after an hour of training
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with _locked(job):
        write_json(job.folder / "recipe.json", {"recipe": job.recipe.to_dict(), "folder": str(job.recipe_folder)})
        runner = _Runner(job)
        try:
            exit_code = runner.steps(last)
        except Infeasible as error:
            write_json(job.folder / "infeasible.json", {"limit": error.limit, "closest": error.closest})
            raise Infeasible(
                f"{error} (closest plan: {job.folder / 'infeasible.json'})", error.closest, error.limit
            ) from error
        if until is not None:
            return RunResult(job.folder, None, exit_code)
        known = _known_report(job, runner.records)
        report = known or assemble(job, runner.records, command, started)
        if add_measured(report, job) or known is None:
            write_report(report, job.folder)
        return RunResult(job.folder, report, int(report.exit_code or 0))


def _known_report(job: Job, records: Records) -> Report | None:
    """The run's report from before, where it still says what one made now would say."""
    if not all(record["reused"] for record in records) or not (job.folder / "report.json").is_file():
        return None
    report = load_report(job.folder)
    predicted = [(row.target, row.unit, row.limit_ms) for row in report.also]
    return report if predicted == [(o.target, o.unit, o.latency_ms) for o in job.other_targets] else None


def _last_index(job: Job, until: str | None) -> int:
    if until is None or until == TEACHER:
        return len(job.verbs) - 1 if until is None else 0
    if until not in job.verbs:
        raise RecipeError(f"recipe '{job.recipe.name}' has no {until} step; its steps are {', '.join(job.verbs[1:])}")
    return len(job.verbs) - 1 - list(reversed(job.verbs)).index(until)


@contextmanager
def _locked(job: Job) -> Iterator[None]:
    """The run folder, made if need be, held by this process alone and belonging to this recipe."""
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        lock: IO[str] = open(job.folder / ".lock", "a")  # noqa: SIM115
    except OSError as error:
        raise refusal(error, job.folder) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(f"{job.folder}: another process is running there; wait, or choose --out") from error
        _check_owner(job)
        yield


def _check_owner(job: Job) -> None:
    path = job.folder / "recipe.json"
    if not path.is_file():
        foreign = [p.name for p in job.folder.iterdir() if p.name != ".lock"]
        if foreign:
            raise RunFolderError(f"{job.folder}: holds other files ({', '.join(foreign[:3])}); choose an empty --out")
        return
    if not list(job.folder.glob(f"steps/*/{RECORD}")):
        return  # nothing was finished there: a first try that failed must not stand in the way of the second
    earlier = read_json(path).get("recipe", {})
    for key in ("name", "teacher", "task"):
        mine = job.recipe.to_dict()[key]
        theirs = earlier.get(key)
        if key == "teacher":
            mine, theirs = mine.get("entry"), (theirs or {}).get("entry")
        if mine != theirs:
            raise RunFolderError(
                f"{job.folder}: holds a run of another recipe ({key}: {theirs}, not {mine}); choose another --out"
            )


class _Runner:
    """Goes through the steps, running those whose key changed."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.records: list[dict[str, Any]] = []
        job.extra_of = self._extra_of
        self.student: Student | None = None

    def steps(self, last: int) -> int:
        """Run the steps 0..last and return the highest exit code."""
        key = self.job.base_key
        for index in range(last + 1):
            made = self.records[-1]["files"] if self.records else {}
            key = hash_of([key, made, self.job.verbs[index], index, self._depends_on(index), self._surroundings(index)])
            record = self._finished(index, key)
            if record is None:
                record = self._run(index, key)
            else:
                self.job.console.say(
                    f"[{index}] {self.job.verbs[index]}: already done ({record['outcome']['summary']})"
                )
                if record["plans"] is not None:
                    self.student = None  # a damaged step before may have been made again: its student is not this one's
            self.records.append(record)
            if "sampler" in record["outcome"]["extra"]:
                use_sampler(self.job, record["outcome"]["extra"]["sampler"])
        return max(record["outcome"]["exit_code"] for record in self.records)

    def _extra_of(self, verb: str) -> dict[str, Any]:
        return next(r["outcome"]["extra"] for r in reversed(self.records) if r["verb"] == verb)

    def _settings(self, index: int) -> dict[str, Any]:
        if index == 0:
            train = self.job.recipe.teacher.train
            return train.model_dump(mode="json") if train else {}
        return self.job.recipe.steps[index - 1].settings.model_dump(mode="json")

    def _depends_on(self, index: int) -> dict[str, Any]:
        """The settings that a step's work depends on."""
        read_later = READ_BY_REPORT.get(self.job.verbs[index], ())
        return {name: value for name, value in self._settings(index).items() if name not in read_later}

    def _surroundings(self, index: int) -> dict[str, Any]:
        """What a step looks at beside its settings: the target where it predicts, the budget where it decides."""
        verb, recipe = self.job.verbs[index], self.job.recipe
        parts: dict[str, Any] = {}
        if verb in LOOKS_AT_TARGET:
            parts = {"target": self.job.target.model_dump(mode="json"), "unit": recipe.unit, "scheme": recipe.scheme}
            parts["latency_model"] = self.job.latency_model.name
        if verb in ("search", "prune"):
            parts["budget"] = recipe.budget.model_dump(mode="json")
            parts["formats"] = list(self.job.cost_model().formats)
        if verb == "search":
            parts["met_later"] = [s.verb for s in recipe.steps[index:]].count("prune")
            settings = recipe.steps[index - 1].settings
            if settings.method != "trials" or settings.recovery_steps:  # candidates learn as the student will
                lessons = (s.settings.model_dump(mode="json") for s in recipe.steps[index:] if s.verb == "distill")
                parts["taught_by"] = next(lessons, None)
        return parts

    def _finished(self, index: int, key: str) -> dict[str, Any] | None:
        """The record of a finished step with this key, unless a file of it is damaged."""
        folder = self.job.step_folder(index)
        if not (folder / RECORD).is_file():
            return None
        try:
            record: dict[str, Any] = read_json(folder / RECORD)
        except RunFolderError as error:
            self.job.console.warn(f"{error}; the step is run again")
            return None
        if record.get("key") != key or record["outcome"].get("failed"):
            return None
        for name, digest in record["files"].items():
            path = self.job.folder / name
            if not path.exists() or sha256_of(path) != digest:
                self.job.console.warn(f"{path} is damaged or missing; the step {record['verb']} is run again")
                return None
        return {**record, "reused": True}

    def _run(self, index: int, key: str) -> dict[str, Any]:
        job, verb = self.job, self.job.verbs[index]
        folder = job.step_folder(index)
        self._prepare(folder, key)
        job.console.say(f"[{index}] {verb}")
        trains = verb in TRAINS and job.recipe.train.devices > 1
        if trains and not _is_worker():
            record = self._run_in_processes(index, folder)
        else:
            record = self._run_here(index, key, folder)
        for warning in record["outcome"]["warnings"][:5]:
            job.console.warn(warning)
        job.console.say(f"    {record['outcome']['summary']} ({record['seconds']:.1f} s)")
        return record

    def _prepare(self, folder: Path, key: str) -> None:
        """A step folder for this key: what another key left in it goes, what a killed run of this key left stays."""
        marker = folder / "key"
        if folder.is_dir() and (not marker.is_file() or marker.read_text() != key):
            shutil.rmtree(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            marker.write_text(key)
            (folder / RECORD).unlink(missing_ok=True)
        except OSError as error:
            raise refusal(error, folder) from error

    def _run_here(self, index: int, key: str, folder: Path) -> dict[str, Any]:
        job, verb = self.job, self.job.verbs[index]
        start = time.monotonic()
        job.seed(index)
        student = self._student(index)
        settings = job.recipe.steps[index - 1].settings if index else None
        outcome = RUN[verb](job, index, settings, folder, student)  # type: ignore[arg-type]
        if _is_worker() and not job.fabric.is_global_zero:
            return {"verb": verb, "outcome": outcome.to_dict(), "seconds": 0.0}
        files = self._save(index, folder, outcome)
        record = {
            "verb": verb,
            "index": index,
            "key": key,
            "seconds": time.monotonic() - start,
            "settings": self._settings(index),
            "outcome": outcome.to_dict(),
            "plans": outcome.student.plans if outcome.student is not None else None,
            "files": files,
            "reused": False,
        }
        write_json(folder / RECORD, _finite(record))
        for leftover in folder.glob("step-*.pt"):
            leftover.unlink()
        return record

    def _save(self, index: int, folder: Path, outcome: Outcome) -> dict[str, str]:
        files: dict[str, str] = {}
        if outcome.plan is not None:
            write_json(folder / "plan.json", _finite(outcome.plan))
        if outcome.student is not None:
            self.student = outcome.student
            save_weights(folder / "weights.safetensors", outcome.student.weights())
            path = folder / "weights.safetensors"
            files[str(path.relative_to(self.job.folder))] = sha256_of(path)
        files |= {str(path.relative_to(self.job.folder)): sha256_of(path) for path in outcome.files}
        for artifact in outcome.extra.get("artifacts", []):
            files[f"artifacts/{artifact['path']}"] = artifact["sha256"]
        return files

    def _student(self, index: int) -> Student | None:
        """The student as the step before left it, rebuilt from disk where this process has not made it."""
        if index == 0:
            return None
        if self.student is None:
            record = next((r for r in reversed(self.records) if r.get("plans") is not None), None)
            if record is None:
                raise CheckFailed("no earlier step left a student")  # a bug, not a user's mistake
            path = self.job.step_folder(record["index"]) / "weights.safetensors"
            self.student = rebuild(self.job.base, record["plans"], load_weights(path), self.job.example_inputs)
        return self.student

    def _run_in_processes(self, index: int, folder: Path) -> dict[str, Any]:
        """Run a training step in `train.devices` processes; the first writes the step folder."""
        job, devices = self.job, self.job.recipe.train.devices
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}",
            "-m", "compress.worker", str(job.folder), str(index),
        ]  # fmt: skip
        threads = max(1, job.threads // devices)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with tempfile.TemporaryFile("w+") as log:
            done = subprocess.run(command, env=environment, stderr=log, stdout=sys.stderr, check=False)
            log.seek(0)
            said = log.read()
        if not (folder / RECORD).is_file():
            lines = [line for line in said.splitlines() if line.startswith("error:")]
            raise CheckFailed(
                f"{job.verbs[index]} failed in its processes (exit {done.returncode}): {(lines or [said[-300:]])[0]}"
            )
        record: dict[str, Any] = read_json(folder / RECORD)
        self.student = None  # rebuilt from what the first process wrote
        return record


def run_worker(folder: Path, index: int) -> None:
    """One of several processes that share the training of step `index` of the run in `folder`."""
    recipe, recipe_folder = load_run(folder)
    job = Job(recipe, recipe_folder, folder, Console(quiet=os.environ.get("RANK", "0") != "0"))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    job.__dict__["threads"] = os.cpu_count() or 1 if not recipe.train.threads else recipe.train.threads
    job.fabric.launch()
    runner = _Runner(job)
    key = job.base_key
    for i in range(index):
        runner.records.append({**read_json(job.step_folder(i) / RECORD)})
    key = (job.step_folder(index) / "key").read_text()
    runner._run_here(index, key, job.step_folder(index))
    job.fabric.barrier()


def _is_worker() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and "LOCAL_RANK" in os.environ


def _finite(value: Any) -> Any:
    """JSON data without NaN and infinity (they become null, which JSON has)."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


def dry_run(recipe: Recipe, recipe_folder: Path) -> dict[str, Any]:
    """What a run would do and what it would cost on the target; trains and writes nothing.

    A `prune` step is planned on the teacher's present weights; where an earlier step would change the model first,
    or the teacher is yet to be trained, that is said in its note.
    """
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(recipe, recipe_folder.resolve(), Path(scratch), Console(quiet=True))
        _ = job.threads
        job.target.unit(recipe.unit)
        check_distill(job)
        read_measured(job)
        job.__dict__["traced_teacher"] = job.untrained_teacher()
        base, cost = job.base, job.teacher_cost
        plan: dict[str, Any] = {
            "name": recipe.name,
            "target": job.target.name,
            "unit": recipe.unit,
            "teacher": _figures(job.cost_model("float32"), cost.ops) | {"params": cost.params},
            "limits": dict(job.limits.values),
            "steps": [],
        }
        for index in range(1, len(job.verbs)):
            row, base = _preview(job, index, base)
            plan["steps"].append(row)
    return _finite(plan)  # type: ignore[no-any-return]


def _figures(costing: CostModel, ops: Any) -> dict[str, Any]:
    figures = costing.figures(ops)
    return {"macs": figures["macs"], "size_bytes": figures["size_bytes"], "latency": costing.latency_of(ops).to_dict()}


def _preview(job: Job, index: int, base: Any) -> tuple[dict[str, Any], Any]:
    """What a step would do to `base`, and what the next step would then begin with, as far as that is known."""
    step = job.recipe.steps[index - 1]
    row: dict[str, Any] = {"verb": step.verb, "settings": step.settings.model_dump(mode="json")}
    if step.verb == "rewrite":
        rewriting = plan_rewrite(job, base, step.settings)
        row |= {"predicted": {"before": dict(rewriting.before), "after": dict(rewriting.after)}}
        row["plan"] = rewriting.table()
        base = rewrite.apply(base, rewriting, job.example_inputs)
    elif step.verb == "prune":
        plan = make_plan(job, base, step.settings.model_copy(update={"importance": "magnitude"}))
        row |= {"predicted": {"before": dict(plan.before), "after": dict(plan.after)}, "plan": plan.table()}
        row["note"] = "planned on the teacher's present weights by magnitude; the run plans again"
    elif step.verb == "search":
        widths = WidthModel(base, job.example_inputs)
        blocks = residual_blocks(base, job.example_inputs)
        row["note"] = f"{len(widths.free)} free channel groups, {len(blocks)} removable blocks"
    return row, base


__all__ = [
    "CompressError", "RunResult", "WeightsError", "compress_objects", "dry_run", "load_run", "run", "run_worker",
]  # fmt: skip
