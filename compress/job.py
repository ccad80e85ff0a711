"""One job while it runs: the recipe with the model, task, target and cost model it names, each made on first use."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.checkpoint import fit_weights, load_weights, rebuild
from compress.console import Console
from compress.entry import load_entry, locate_file, source_hash
from compress.errors import CompressError, DataError, InputError, ModelError
from compress.files import hash_of, sha256_of
from compress.graph.cost import cost_of
from compress.graph.trace import trace
from compress.profile.budget import CostModel, Limits
from compress.profile.latency import load_latency_model
from compress.recipe import FORMATS, OtherTarget, Recipe
from compress.targets import Target, load_target
from compress.tasks import Batch, Task
from compress.train import DeviceSettings, make_fabric, usable_precision
from compress.types import LatencyModel, ModelCost, Number, Scheme
from compress.version import __version__

TEACHER = "teacher"


@dataclass
class Job:
    """A recipe and everything it names. `make_model` and `task_object` replace the entries in the Python door."""

    recipe: Recipe
    recipe_folder: Path
    folder: Path
    console: Console
    make_model: Callable[[], nn.Module] | None = None
    task_object: Task | None = None
    identity: str = ""
    extra_of: Callable[[str], dict[str, Any]] = field(default=lambda verb: {})
    """The record that the last step of a verb left; the pipeline sets it."""

    def seed(self, step: int) -> None:
        """Put torch's random state where step `step` of this recipe always starts."""
        torch.manual_seed((self.recipe.seed * 1_000_003 + step * 7_919) % (2**62))

    @cached_property
    def threads(self) -> int:
        """CPU threads of this process; fixed, because results depend on it bit by bit."""
        threads = self.recipe.train.threads or os.cpu_count() or 1
        torch.set_num_threads(threads)
        return threads

    @cached_property
    def target(self) -> Target:
        """The device the recipe names."""
        return self.target_named(self.recipe.target)

    @property
    def other_targets(self) -> tuple[OtherTarget, ...]:
        """Further devices that the profile step names."""
        found = [step.settings.also for step in self.recipe.steps if step.verb == "profile"]
        return tuple(other for several in found for other in several)

    def target_named(self, name: str) -> Target:
        """A device by its name, or by a file beside the recipe."""
        local = self.recipe_folder / name
        return load_target(local if name.endswith((".yaml", ".yml")) and local.is_file() else name)

    @cached_property
    def latency_model(self) -> LatencyModel:
        """What predicts latency on the target's unit."""
        return load_latency_model(self.target, self.recipe.unit)

    def cost_model(self, scheme: Scheme | None = None, other: OtherTarget | None = None) -> CostModel:
        """The cost model at a scheme, by default the one the student ends in, on the recipe's device or another."""
        if other is not None:
            model = load_latency_model(self.target_named(other.target), other.unit)
            return CostModel(model, scheme or self.recipe.scheme)
        formats = next((step.settings.formats for step in self.recipe.steps if step.verb == "export"), FORMATS)
        return CostModel(self.latency_model, scheme or self.recipe.scheme, tuple(formats))

    @cached_property
    def task(self) -> Task:
        """The task the recipe names, checked for its shape."""
        if self.task_object is not None:
            return self.task_object
        made = load_entry(self.recipe.task.entry, self.recipe_folder)
        if callable(made) and not isinstance(made, Task):
            made = _call(made, self.recipe.data, self.recipe.task.entry)
        if not isinstance(made, Task):
            raise InputError(
                f"task.entry {self.recipe.task.entry}: gave a {type(made).__name__}; it must return a compress.Task"
            )
        return made

    @cached_property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """The task's example inputs, batch size 1."""
        inputs = self.task.example_inputs()
        if not inputs or any(x.shape[0] != 1 for x in inputs):
            raise DataError("the task's example_inputs() must give one tensor per model input with batch size 1")
        return inputs

    def new_model(self) -> nn.Module:
        """A fresh model from the teacher's constructor, its random weights fixed by the recipe's seed."""
        self.seed(0)
        if self.make_model is not None:
            return self.make_model()
        return self._construct("teacher", self.recipe.teacher.entry, self.recipe.teacher.arguments)

    def _construct(self, key: str, entry: str, arguments: dict[str, Any]) -> nn.Module:
        made = load_entry(entry, self.recipe_folder)
        model = made if isinstance(made, nn.Module) else _call(made, arguments, entry, f"{key}.arguments")
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise ModelError(f"{key}.entry {entry}: gave a {kind}; it must return a torch module")
        return model

    def untrained_teacher(self) -> fx.GraphModule:
        """The traced model with the weights of the constructor, or of `teacher.weights` where the recipe has it."""
        model = self.new_model()
        if self.recipe.teacher.weights:
            path = locate_file(self.recipe.teacher.weights, self.recipe_folder)
            fit_weights(model, load_weights(path, self.recipe.teacher.key), str(path))
        self._check_forward(model)
        return trace(model, self.example_inputs)

    def new_student(self) -> fx.GraphModule | None:
        """The network that `student.entry` names, traced, its random weights fixed by the seed; None without one."""
        if self.recipe.student is None:
            return None
        self.seed(0)
        model = self._construct("student", self.recipe.student.entry, self.recipe.student.arguments)
        self._check_forward(model)
        with torch.no_grad():
            shapes = [tuple(m(*self.example_inputs).shape) for m in (model, self.traced_teacher)]
        if shapes[0] != shapes[1]:
            raise ModelError(f"student.entry: its output has shape {shapes[0]}, the teacher's {shapes[1]}")
        return trace(model, self.example_inputs)

    def _check_forward(self, model: nn.Module) -> None:
        model.eval()
        try:
            with torch.no_grad():
                output = model(*self.example_inputs)
        except Exception as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in self.example_inputs)
            reason = str(error).splitlines()[0]
            raise DataError(f"the model does not take the task's inputs of shape {shapes} ({reason})") from error
        if not isinstance(output, Tensor):
            raise ModelError(f"the model returns a {type(output).__name__}; wrap it so that it returns one tensor")

    @cached_property
    def traced_teacher(self) -> fx.GraphModule:
        """The teacher in traced form with its final weights, as the teacher step left them."""
        traced = self.untrained_teacher()
        weights = self.teacher_weights
        if not weights.is_file():
            raise CompressError("the teacher step has not run")  # a bug, not a user's mistake
        return rebuild(traced, [], load_weights(weights), self.example_inputs).model

    @property
    def teacher_weights(self) -> Path:
        """Where the teacher step leaves the teacher: as its student, unless the recipe starts from another network."""
        return self.step_folder(0) / f"{'weights' if self.recipe.student is None else TEACHER}.safetensors"

    @cached_property
    def base(self) -> fx.GraphModule:
        """What all plans replay on: the traced teacher, or the untrained network that `student.entry` names."""
        return self.new_student() or self.traced_teacher

    @cached_property
    def teacher(self) -> fx.GraphModule:
        """The frozen teacher."""
        frozen = copy.deepcopy(self.traced_teacher).eval().requires_grad_(False)
        return frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    @cached_property
    def teacher_predict(self) -> Callable[..., Tensor]:
        """The teacher as a function; tasks know it again and need not ask it twice."""
        return self.predictor(self.teacher)

    @cached_property
    def judged_task(self) -> Task:
        """The task once it knows the teacher."""
        return self.task.with_teacher(self.teacher_predict)

    @cached_property
    def teacher_cost(self) -> ModelCost:
        """What the teacher costs on paper."""
        return cost_of(self.teacher, self.example_inputs)

    @cached_property
    def devices(self) -> DeviceSettings:
        """What trainings run on."""
        train = self.recipe.train
        precision = usable_precision(train.precision, train.accelerator)
        return DeviceSettings(train.devices, train.strategy, precision, train.accelerator, train.threads)

    @cached_property
    def fabric(self) -> Any:
        """The Fabric of this process."""
        return make_fabric(self.devices)

    @cached_property
    def exact_fabric(self) -> Any:
        """The same with float32 arithmetic."""
        return make_fabric(replace(self.devices, precision="32"))

    @cached_property
    def float_fabric(self) -> Any:
        """One process on the CPU in full precision, for trainings of a few numbers."""
        return make_fabric(replace(self.devices, devices=1, precision="32", accelerator="cpu"))

    @property
    def limits(self) -> Limits:
        """The budget's limits on predicted figures, relative ones made absolute."""
        budget = self.recipe.budget
        values: dict[str, float] = {}
        if budget.latency_ms is not None:
            values["latency_ms"] = budget.latency_ms / self.task.evaluations
        if budget.size_bytes is not None:
            values["size_bytes"] = float(budget.size_bytes)
        macs = [float(budget.macs)] if budget.macs is not None else []
        if budget.macs_ratio is not None:
            macs.append(budget.macs_ratio * self.teacher_cost.macs)
        if macs:
            values["macs"] = min(macs)
        return Limits(values)

    def predictor(self, model: nn.Module) -> Callable[..., Tensor]:
        """The model as a function for the task's metrics: eval mode, no gradients, outputs on the CPU."""

        def predict(*inputs: Tensor) -> Tensor:
            model.eval()
            device = next((p.device for p in model.parameters()), torch.device("cpu"))
            with torch.inference_mode():
                output: Tensor = model(*(x.to(device) for x in inputs))
            return output.float().cpu()

        return predict

    def quality(self, model: nn.Module, split: Any = "test", limit: int | None = None) -> Number:
        """The task's quality of a torch model."""
        return self.judged_task.quality(self.predictor(model), split, limit)

    def train_batches(self, count: int) -> Iterator[Batch]:
        """A few training batches, the same ones every time."""
        generator = torch.Generator().manual_seed(self.recipe.seed)
        size = self.task.train_size()
        order = torch.randperm(size, generator=generator)
        for indices in islice(order.split(min(self.task.batch_size, size)), count):
            yield self.task.train_batch(indices, generator)

    def calibration_batches(self, count: int, model: nn.Module) -> list[Batch]:
        """What a model sees when it is used: the task's own choice, or training batches."""
        own = self.judged_task.calibration(self.predictor(model), count)
        return list(self.train_batches(count)) if own is None else own

    def step_folder(self, index: int) -> Path:
        """The folder of a step (0 is the teacher)."""
        return self.folder / "steps" / f"{index:02d}-{self.verbs[index]}"

    @cached_property
    def verbs(self) -> Sequence[str]:
        """The verbs of all steps, the teacher first."""
        return [TEACHER, *(step.verb for step in self.recipe.steps)]

    @cached_property
    def base_key(self) -> str:
        """The hash of everything that all steps depend on: code version, model, task and data settings."""
        recipe = self.recipe
        parts: dict[str, Any] = {"version": __version__, "torch": torch.__version__, "seed": recipe.seed}
        parts |= {"precision": self.devices.precision, "devices": recipe.train.devices, "threads": self.threads}
        parts["data"] = recipe.data
        parts["arguments"] = [recipe.teacher.arguments, recipe.student.arguments if recipe.student else None]
        if self.make_model is not None:
            parts["objects"] = self.identity
        else:
            parts["teacher"] = source_hash(recipe.teacher.entry, self.recipe_folder)
            parts["task"] = source_hash(recipe.task.entry, self.recipe_folder)
            if recipe.student is not None:
                parts["student"] = source_hash(recipe.student.entry, self.recipe_folder)
        if recipe.teacher.weights:
            parts["weights"] = sha256_of(locate_file(recipe.teacher.weights, self.recipe_folder))
        return hash_of(parts)


def _call(made: Any, arguments: dict[str, Any], entry: str, key: str = "data") -> Any:
    if not callable(made):
        raise InputError(f"entry {entry}: names a {type(made).__name__}; it must be a function or a class")
    try:
        return made(**arguments)
    except CompressError:
        raise
    except TypeError as error:
        given = ", ".join(f"{key}.{name}" for name in arguments) or "no arguments"
        raise InputError(f"entry {entry}: could not be called with {given} ({error})") from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise DataError(f"entry {entry}: failed ({type(error).__name__}: {error})") from error
