"""Offline pairs: Geng et al. 2023, "One-Step Diffusion Distillation via Deep Equilibrium Models".

The teacher makes a sample of each of many noises, once; the student learns to say the sample in one step. Nothing else
is asked of the teacher, and no data are needed. A student that iterates tied layers (`Equilibrium`) is also judged by
what it would say after fewer iterations, the less the earlier: fixed-point correction, by which it comes to rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.diffusion import guided
from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions, Metric, distance
from compress.errors import RecipeError
from compress.graph.layers import forget_unused
from compress.tasks.base import Batch
from compress.tasks.diffusion import Noised
from compress.tasks.draws import generator_of


@dataclass(frozen=True)
class OfflinePairsOptions(DiffusionOptions):
    """The paper's settings, with fewer pairs: it has a million."""

    pairs: int = 50_000
    metric: Metric = "l1"
    correction: float = 0.8
    """What an iteration counts of what the next one does; 0: only the last one counts."""


class FromPairs(DiffusionMethod):
    """The task's samples replaced by pairs of a noise and what the teacher's sampler makes of it."""

    options: Any
    """Settings with a number of `pairs`."""

    @cached_property
    def pairs(self) -> Noised:
        """Noises and the teacher's samples, drawn by number: the same after an interruption."""
        task, count, sampler = self.task, self.options.pairs, self.task.teacher_sampler
        network: Any = self.teacher if sampler.rows[0].until is not None else task.with_until(self.teacher)
        network = guided(network, self.options.guidance, torch.zeros_like)
        shape = (1 + sampler.fresh_noises, *task.shape)
        drawn = torch.stack([torch.randn(shape, generator=generator_of("pair", number)) for number in range(count)])
        condition = None if self.asked is None else self.asked[torch.arange(count) % len(self.asked)]
        made = []
        with torch.no_grad():
            for start in range(0, count, task.batch_size):
                some = slice(start, start + task.batch_size)
                first, *fresh = drawn[some].to(self.device).unbind(1)
                asked = () if condition is None else (condition[some].to(self.device),)
                made.append(sampler.run(network, first, *asked, fresh=fresh.__getitem__).cpu())
        return Noised(torch.cat(made), drawn[:, 0], torch.full((count,), self.levels[0]), condition)

    def view(self, batch: Any, generator: torch.Generator) -> Batch:
        """As many pairs in place of the task's samples."""
        number, pairs = torch.randint(self.options.pairs, (len(batch),), generator=generator), self.pairs
        condition = None if pairs.condition is None else pairs.condition[number]
        noised = Noised(pairs.clean[number], pairs.noise[number], pairs.level[number], condition)
        return Batch((noised.noise,), noised)


class OfflinePairs(FromPairs):
    """sum_k correction^(n - k) d(x_k, x_teacher), x_k what the student says after k of n iterations."""

    Options = OfflinePairsOptions
    options: OfflinePairsOptions

    def prepare(self, student: nn.Module, example_inputs: Sequence[Tensor]) -> None:
        """What the student says from its iterated layer on."""
        if self.task.teacher_sampler.fresh_noises:
            name = self.task.teacher_sampler.name
            raise RecipeError(f"distill: the teacher's sampler '{name}' draws noise, so that no noise has its sample")
        assert isinstance(student, fx.GraphModule)
        self.iterated = last_iterated(student) if self.options.correction else None
        self.rest: Any = None if self.iterated is None else from_layer_on(student, self.iterated)

    def loss(self, learner: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The distance to the teacher's sample, after all iterations and after fewer."""
        noised = batch.target
        condition = () if noised.condition is None else (noised.condition,)
        states: list[Tensor] = []

        def resting(state: Tensor) -> Any:
            return lambda *inputs: self.rest(state, *inputs)

        with ExitStack() as stack:
            if self.iterated is not None:
                layer = learner.get_submodule(f"student.{self.iterated}")
                hook = layer.register_forward_hook(lambda module, given, output: states.append(output))
                stack.callback(hook.remove)
            said = [self.generate(self.denoiser(learner), noised.noise, condition)]
        said += [
            self.generate(self.denoiser(resting(state)), noised.noise, condition) for state in reversed(states[:-1])
        ]
        apart = [distance(each, noised.clean, self.options.metric).mean() for each in said]
        return {"pairs": torch.stack([self.options.correction**k * each for k, each in enumerate(apart)]).sum()}


def last_iterated(student: fx.GraphModule) -> str | None:
    """The last layer that a network uses more than once; None where there is none."""
    calls = [str(node.target) for node in student.graph.nodes if node.op == "call_module"]
    return next((layer for layer in reversed(calls) if calls.count(layer) > 1), None)


def from_layer_on(student: fx.GraphModule, layer: str) -> fx.GraphModule:
    """A network from the last use of a layer on: (what the layer said, the network's inputs ...) to its output.

    Its weights are the network's own.
    """
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    given = graph.placeholder("given")
    last = [node for node in student.graph.nodes if node.op == "call_module" and node.target == layer][-1]
    for node in student.graph.nodes:
        if node.op == "output":
            (said,) = node.all_input_nodes
            graph.output(copies[said])
        else:
            copies[node] = given if node is last else graph.node_copy(node, copies.__getitem__)
    rest = fx.GraphModule(student, graph)
    forget_unused(rest)
    return rest
