"""What the ways to search share: the space, the limits, sorted channels, and what candidates learn by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from compress import search as room
from compress.distill.generator import GeneratorMethod
from compress.distill.generator.mobile_stylegan import MobileStyleGan
from compress.distill.generator.online import Online
from compress.errors import RecipeError
from compress.graph.groups import WidthModel, residual_blocks
from compress.graph.kernels import kernel_sizes
from compress.graph.resolution import legal_sizes
from compress.job import Job
from compress.profile.budget import Limits, useful_widths
from compress.recipe import Distill, Search
from compress.steps.distill import build, has_options, method_of
from compress.steps.prune import channel_scores
from compress.tasks import Imitation

SCORE_BATCHES = 8
LOOKS_INSIDE = (MobileStyleGan,)
"""Methods whose terms on outputs also look at layers of the student: of these, candidates learn the shared ones."""


def later(job: Job, index: int, verb: str) -> list[Any]:
    """The settings of the steps of a verb that come after step `index`."""
    return [step.settings for step in job.recipe.steps[index:] if step.verb == verb]


def space_of(job: Job, settings: Search, model: fx.GraphModule, widths: WidthModel, shared: bool = False) -> room.Space:
    """The recipe's search space of a model; `shared`: where a block takes a width's layer away, another stands for it.

    Raises:
        RecipeError: the space has resolutions, and the model works at no other.
    """
    inputs = job.example_inputs
    sizes: tuple[tuple[int, int], ...] = ()
    if "resolution" in settings.space:
        sizes = legal_sizes(model, inputs, settings.resolution_multiple, settings.min_resolution)
        if not sizes:
            raise RecipeError(
                "search.space: this model works at no other resolution (sides from search.min_resolution "
                f"{settings.min_resolution:g} up, in steps of search.resolution_multiple "
                f"{settings.resolution_multiple} pixels); change these, or take width_depth "
                "where the output follows the input's size"
            )
    useful = useful_widths(widths, job.cost_model(), settings.min_width, job.limits)
    kernels = kernel_sizes(model) if "kernel" in settings.space else {}
    same = room.same_channels(model, inputs, useful) if shared else {}
    return room.make_space(useful, residual_blocks(model, inputs), sizes, settings.space, kernels, same)


def limits_of(job: Job, settings: Search) -> Limits:
    """The budget's limits on predicted figures, with the search's own on memory."""
    peak = settings.max_peak_activation_bytes
    return job.limits if peak is None else Limits({**job.limits.values, "peak_activation_bytes": float(peak)})


def sorted_base(job: Job, settings: Search, model: fx.GraphModule, layers: Iterable[str]) -> fx.GraphModule:
    """A copy of the model that computes the same, its groups' channels from most important to least."""
    scores = channel_scores(job, model, settings.importance, SCORE_BATCHES, layers)
    return room.sort_channels(model, job.example_inputs, scores)


def check_alone(job: Job, settings: Search) -> None:
    """Refuse to train shared weights in several processes: each would go its own way.

    Raises:
        RecipeError: the recipe has several.
    """
    if job.recipe.train.devices > 1:
        raise RecipeError(f"search.method: {settings.method} trains in one process; set train.devices: 1")


def lesson_settings(job: Job, index: int) -> Distill:
    """The next distill step's settings; without one, imitation where the task has no classes, else logits."""
    return next(iter(later(job, index, "distill")), None) or Distill(
        method="imitate" if isinstance(job.task, Imitation) else "logit"
    )


def recovery_settings(job: Job, index: int) -> Distill:
    """What candidates recover by: the recipe's own method for generators, plain logits for everything else."""
    settings = lesson_settings(job, index)
    kind = method_of(settings, job.recipe_folder)
    return settings if has_options(kind) else Distill()


class Lesson:
    """What candidates learn by: a distillation method's loss terms on outputs.

    They differ in widths and layers. What looks inside a student, and what plays against it (a discriminator), is for
    one student, and waits for the distill step.
    """

    def __init__(self, job: Job, settings: Distill, model: fx.GraphModule) -> None:
        """Build the method, for a copy of the model as its student.

        Raises:
            RecipeError: the method has no terms on outputs.
        """
        self.job = job
        self.method = build(job, settings, copy.deepcopy(model))
        if not hasattr(self.method, "output_terms"):
            raise RecipeError(
                f"search: candidates cannot learn by distill.method {settings.method}, which has no output_terms; "
                "take one of `compress methods`"
            )

    def draw(self, indices: Tensor, generator: torch.Generator) -> Any:
        """The training samples at `indices`, as teacher and candidates see them."""
        return self.method.view(self.job.judged_task.train_batch(indices, generator), generator)

    def loss_of(self, batch: Any) -> Callable[[Any, Any], dict[str, Tensor]]:
        """A function (network, batch) -> named terms, for which the teacher answers the batch only once."""
        wanted = self._wanted(batch)
        return lambda net, given: self.terms(net(*given.inputs), wanted, given)

    def terms(self, output: Tensor, wanted: Tensor, batch: Any) -> dict[str, Tensor]:
        """The terms of an output, against the one that is wanted.

        Raises:
            RecipeError: none has a weight.
        """
        method = self.method
        if isinstance(method, Online):
            batch = replace(batch, target=None)  # real outputs are for its teachers, and perhaps for few samples
        if isinstance(method, LOOKS_INSIDE):
            found = GeneratorMethod.output_terms(method, output, wanted, batch)
        else:
            found = method.output_terms(output, wanted, batch)
        if not found:
            raise RecipeError(
                "search: candidates learn by terms on outputs, and here none has a weight; "
                "set distill.options.teacher, such as {pixel: 1}"
            )
        return found  # type: ignore[no-any-return]

    def _wanted(self, batch: Any) -> Tensor:
        if isinstance(self.method, GeneratorMethod):
            return self.method.reference(batch)
        with torch.no_grad():
            output: Tensor = self.method.teacher(*batch.inputs)
        return output
