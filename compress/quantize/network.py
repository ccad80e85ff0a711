"""The fake-quantized network: a trainable copy of a folded model that computes as its int8 form will.

The copy is the same graph: layers keep their paths and parameter names (module hooks and optimizers find them), and a
fake-quant module stands behind each value of the plan.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

from compress.errors import ModelError
from compress.quantize.fake_quant import ActivationFakeQuant, FakeQuantLayer, checked_state
from compress.quantize.places import Places, find_places
from compress.quantize.ranges import checked
from compress.quantize.schemes import Precision, precision

_FOLDER = "activation_fake_quants"
_META = "quantize"


def prepare(folded: fx.GraphModule, scheme: str, ranges: str = "mse") -> fx.GraphModule:
    """A trainable fake-quantized copy of a folded model, in the state "observe"; the input is untouched.

    Args:
        folded: a traced model without batch norms to fold (`compress.graph.fold.fold_batch_norms`).
        scheme: "w8a8".
        ranges: how `calibrate` chooses ranges: "mse", "percentile" or "minmax".

    Raises:
        UnknownName: no such scheme, or no such way to choose ranges.
        ModelError: the model has nothing to quantize.
    """
    bits, places = precision(scheme), find_places(folded)
    if not places.layers:
        raise ModelError("the model has no convolution or linear layer to quantize; leave the quantize step out")
    prepared = copy.deepcopy(folded)
    for path in places.layers:
        _replace_module(prepared, path, FakeQuantLayer(prepared.get_submodule(path), bits))
    _insert_fake_quants(prepared, places, bits)
    prepared.meta[_META] = {
        "scheme": scheme,
        "ranges": checked(ranges),
        "places": places,
        "weights": tuple(folded.state_dict()),
    }
    for parameter in prepared.parameters():
        parameter.requires_grad_(True)
    prepared.graph.lint()
    prepared.recompile()
    set_state(prepared, "observe")
    return prepared


def set_state(prepared: fx.GraphModule, state: str) -> None:
    """Put every fake-quant module into a state, in place.

    "observe": ranges are collected, nothing is quantized. "train": values and weights are quantized; in train mode the
    ranges follow the batches, in eval mode they stand. "frozen": quantized, ranges stand.
    """
    name = checked_state(state)
    for fake_quant in fake_quants(prepared).values():
        fake_quant.state = name
    for layer in quantized_layers(prepared).values():
        layer.enabled = name != "observe"


def float_weights(prepared: fx.GraphModule) -> dict[str, Tensor]:
    """The float parameters and buffers of the network under the folded model's own keys (shared, not copied)."""
    state = prepared.state_dict()
    return {name: state[name] for name in recorded(prepared)["weights"]}


def fake_quants(prepared: fx.GraphModule) -> dict[str, ActivationFakeQuant]:
    """Group name -> its fake-quant module."""
    folder = getattr(prepared, _FOLDER, None)
    children: Iterator[tuple[str, nn.Module]] = folder.named_children() if folder is not None else iter(())
    return {name: child for name, child in children if isinstance(child, ActivationFakeQuant)}


def quantized_layers(prepared: fx.GraphModule) -> dict[str, FakeQuantLayer]:
    """Layer path -> its fake-quant layer."""
    return {path: module for path, module in prepared.named_modules() if isinstance(module, FakeQuantLayer)}


def recorded(prepared: fx.GraphModule) -> dict[str, Any]:
    """What `prepare` noted on the network; raises ModelError where the module does not come from there."""
    note = getattr(prepared, "meta", {}).get(_META)
    if note is None:
        raise ModelError("this module was not made by compress.quantize.prepare (unwrap it from Fabric or DDP first)")
    return dict(note)


def _replace_module(graph_module: fx.GraphModule, path: str, module: nn.Module) -> None:
    owner, _, leaf = path.rpartition(".")
    setattr(graph_module.get_submodule(owner), leaf, module)


def _insert_fake_quants(prepared: fx.GraphModule, places: Places, bits: Precision) -> None:
    """Put the fake-quant module of its group behind every value that rounding can change."""
    slots: dict[str, list[str]] = {}
    for name, value in places.values.items():
        members = slots.setdefault(value.group, [])
        if value.source:
            members.append(name)
    for group, members in slots.items():
        module = ActivationFakeQuant(tuple(members), bits, places.fixed.get(group))
        prepared.add_submodule(f"{_FOLDER}.{group}", module)
    nodes = {node.name: node for node in prepared.graph.nodes}
    for name, value in places.values.items():
        if value.on_grid:
            continue
        node, readers = nodes[name], list(nodes[name].users)
        slot = slots[value.group].index(name) if value.source else -1
        with prepared.graph.inserting_after(node):
            rounded = prepared.graph.call_module(f"{_FOLDER}.{value.group}", (node, slot))
        rounded.meta = dict(node.meta)
        for reader in readers:
            reader.replace_input_with(node, rounded)
