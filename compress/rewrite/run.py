"""The rewrites in their order: planned one behind the other on a copy, and replayed the same way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from compress.errors import CheckFailed, UnknownName
from compress.graph.cost import cost_of, propagate_shapes
from compress.graph.layers import forget_unused
from compress.rewrite import activations, aggregate, attention, norms, separable, upsample
from compress.rewrite.edits import inputs_of
from compress.rewrite.rewrite_plan import NOT_ASKED, RewritePlan, SiteRewrite
from compress.rewrite.settings import PASSES, RewriteSettings

_APPLY: dict[str, Callable[[fx.GraphModule, Sequence[SiteRewrite]], None]] = {
    "norms": norms.apply,
    "aggregate": aggregate.apply,
    "upsample": upsample.apply,
    "separable": separable.apply,
    "keys": attention.apply_keys,
    "attention": attention.apply_softmax,
    "activations": activations.apply,
}


def plan(
    model: fx.GraphModule,
    settings: RewriteSettings,
    example_inputs: Sequence[Tensor],
    batches: Iterable[Any] | None = None,
) -> RewritePlan:
    """What the settings ask for at every place of a traced model, with its figures before and after; changes nothing.

    Args:
        model: a traced model.
        settings: one choice for each pass; the passes run in the order of `PASSES`, each on what came before.
        example_inputs: one tensor per input, batch first (N, ...); figures are counted at this size.
        batches: what fixed norms, and the error of all rewrites together (`output_error` among the figures after), are
            measured on: tensors (N, ...), or sequences that begin with the model's inputs.

    Raises:
        UnknownName: `settings.sites` names a place where the pass finds nothing it knows.
        DataError: norms are to be fixed and there are no batches.
    """
    model = copy.deepcopy(model).eval()
    work, sites = model, []
    held = None if batches is None else list(batches)
    for name in PASSES:
        if getattr(settings, name) == "keep":
            continue
        found = _chosen(name, _planned(name, work, settings, example_inputs, held), settings.sites.get(name))
        sites += found
        work = apply(work, RewritePlan(tuple(found)), example_inputs)
    after = _figures(work, example_inputs)
    if held:
        after["output_error"] = output_error(work, model, held)
    return RewritePlan(tuple(sites), _figures(model, example_inputs), after)


def apply(model: fx.GraphModule, plan: RewritePlan, example_inputs: Sequence[Tensor]) -> fx.GraphModule:
    """A rewritten copy of a traced model: the plan replayed on the model's own weights, without data.

    Raises:
        ModelError: the plan names a layer that the model does not have, or one that has changed.
        CheckFailed: the rewritten model gives other shapes.
    """
    made = copy.deepcopy(model).eval()  # shapes are asked for below: in training, that would move norms' statistics
    was = _shapes(propagate_shapes(made, example_inputs))
    for name in PASSES:
        sites = [site for site in plan.done if site.rewrite == name]
        if sites:
            _APPLY[name](made, sites)
    forget_unused(made)
    values = propagate_shapes(made, example_inputs)
    for node in made.graph.nodes:
        if node.op.startswith("call"):  # later steps ask a value for its kind and its dimensions
            node.meta.setdefault("val", values[node])
    now = _shapes(values)
    if was != now:
        raise CheckFailed(f"the rewritten model gives shapes {now} instead of {was}; report this as a bug")
    return made.train(model.training)


@torch.no_grad()
def output_error(rewritten: fx.GraphModule, model: fx.GraphModule, batches: Iterable[Any]) -> float:
    """The root mean square of the difference of two models' outputs over all batches, relative to the second's."""
    missed = whole = 0.0
    for batch in batches:
        inputs = inputs_of(model, batch)
        for got, want in zip(_outputs(rewritten(*inputs)), _outputs(model(*inputs)), strict=True):
            missed += float((got - want).double().square().sum())
            whole += float(want.double().square().sum())
    return (missed / max(whole, 1e-30)) ** 0.5


def _outputs(answer: Any) -> list[Tensor]:
    return list(answer) if isinstance(answer, (tuple, list)) else [answer]


def _planned(
    name: str,
    model: fx.GraphModule,
    settings: RewriteSettings,
    example_inputs: Sequence[Tensor],
    batches: Iterable[Any] | None,
) -> list[SiteRewrite]:
    if name == "norms":
        return norms.plan(model, settings.norm_error, batches)
    if name == "aggregate":
        return aggregate.plan(model, settings, example_inputs)
    if name == "upsample":
        return upsample.plan(model, settings.upsample)
    if name == "separable":
        return separable.plan(model, settings)
    if name == "keys":
        return attention.plan_keys(model, example_inputs)
    if name == "attention":
        return attention.plan_softmax(model, settings.attention, settings.longest, example_inputs)
    return activations.plan(model)


def _chosen(pass_name: str, sites: list[SiteRewrite], names: Sequence[str] | None) -> list[SiteRewrite]:
    """The sites with those left alone that were not asked for by name."""
    if names is None:
        return sites
    known = {site.place for site in sites}
    for name in names:
        if name not in known:
            raise UnknownName(f"place for rewrite.{pass_name}", name, known)
    return [s if s.place in names else replace(s, form="", after=NOT_ASKED, values={}) for s in sites]


def _figures(model: fx.GraphModule, example_inputs: Sequence[Tensor]) -> dict[str, float]:
    cost = cost_of(model, [x[:1] for x in example_inputs])
    return {
        "macs": cost.macs,
        "params": cost.params,
        "size_bytes": cost.size_bytes,
        "peak_activation_bytes": cost.peak_activation_bytes,
    }


def _shapes(values: dict[fx.Node, Any]) -> list[tuple[int, ...]]:
    answer = next(value for node, value in values.items() if node.op == "output")
    return [tuple(tensor.shape) for tensor in _outputs(answer)]
