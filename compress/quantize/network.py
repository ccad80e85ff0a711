"""The fake-quantized network: a trainable copy of a folded model that computes as its stored form will.

The copy is the same graph: layers keep their paths and parameter names (module hooks and optimizers find them), and a
fake-quant module stands behind each value of the plan.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, fx, nn

from compress.errors import ModelError
from compress.quantize.fake_quant import ActivationFakeQuant, FakeQuantLayer, checked_state
from compress.quantize.places import Places, find_places
from compress.quantize.quant_plan import Codebook, Weight
from compress.quantize.ranges import checked
from compress.quantize.schemes import precision

_FOLDER = "activation_fake_quants"
_META = "quantize"
_HALF_MAX = 65504.0  # the largest float16 number


def prepare(
    folded: fx.GraphModule, scheme: str, ranges: str = "mse", schemes: Mapping[str, str] | None = None
) -> fx.GraphModule:
    """A trainable fake-quantized copy of a folded model, in the state "observe"; the input is untouched.

    Args:
        folded: a traced model without batch norms to fold (`compress.graph.fold.fold_batch_norms`).
        scheme: of every layer that `schemes` does not name, and of the ops between the layers: "w8a8" and the like
            (`compress.quantize.schemes`).
        ranges: how `calibrate` chooses ranges: "mse", "percentile", "minmax" or "entropy".
        schemes: layer path -> its own scheme (mixed precision); "float32" leaves that layer as it is.

    Raises:
        UnknownName: no such scheme, or no such way to choose ranges.
        ModelError: the model has nothing to quantize; `schemes` names no layer of it, or gives a layer integer values
            in a network whose values are float; a weight is too large for float16.
    """
    own = dict(schemes or {})
    places = find_places(folded, scheme, own)
    _check_schemes(folded, places, scheme, own)
    prepared = copy.deepcopy(folded)
    for path in places.layers:
        layer = FakeQuantLayer(prepared.get_submodule(path), precision(own.get(path, scheme)))
        _replace_module(prepared, path, layer)
    _insert_fake_quants(prepared, places)
    prepared.meta[_META] = {
        "scheme": scheme,
        "schemes": {path: name for path, name in own.items() if name != scheme},
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


def _check_schemes(folded: fx.GraphModule, places: Places, scheme: str, own: Mapping[str, str]) -> None:
    """Raise ModelError where the schemes do not fit the model or each other."""
    if not places.layers:
        raise ModelError("the model has no convolution or linear layer to quantize; leave the quantize step out")
    if scheme == "float32":
        raise ModelError("float32 is what the model is already; leave the quantize step out")
    for path, name in own.items():
        if path not in places.layers:
            raise ModelError(
                f"a scheme is given for '{path}', which is no convolution or linear layer of this model; "
                f"its layers are {', '.join(places.layers[:4])}{', ...' if len(places.layers) > 4 else ''}"
            )
        if precision(name).activation_bits and not precision(scheme).activation_bits:
            raise ModelError(
                f"layer '{path}' cannot be {name} where the network is {scheme}: its neighbours' values stay float; "
                f"make the network {name} and give the other layers {scheme}"
            )
    for path in places.layers:
        weight: Tensor = folded.get_submodule(path).weight  # type: ignore[assignment]
        if own.get(path, scheme) == "float16" and bool(weight.detach().abs().amax() > _HALF_MAX):
            raise ModelError(f"a weight of layer '{path}' is too large for float16; leave that layer at float32")


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


def weights_now(prepared: fx.GraphModule) -> tuple[dict[str, Weight], dict[str, int], dict[str, Codebook]]:
    """What a plan records of the layers' weights: (scales, group sizes, codebooks), by layer path."""
    layers = quantized_layers(prepared)
    ordered = {path: layers[path] for path in recorded(prepared)["places"].layers}
    integers = {path: layer for path, layer in ordered.items() if layer.precision.weights == "integer"}
    palettes = {path: layer for path, layer in ordered.items() if layer.precision.weights == "palette"}
    return (
        {path: (layer.axis, tuple(float(scale) for scale in layer.scales())) for path, layer in integers.items()},
        {path: layer.group for path, layer in integers.items() if layer.group},
        {path: _codebook(layer.tables) for path, layer in palettes.items()},
    )


def _codebook(tables: Tensor) -> Codebook:
    """The tables ascending, as data; one table has no axis."""
    rows = tuple(tuple(sorted(float(value) for value in table)) for table in tables.detach())
    return (-1 if len(rows) == 1 else 0), rows


def _replace_module(graph_module: fx.GraphModule, path: str, module: nn.Module) -> None:
    owner, _, leaf = path.rpartition(".")
    setattr(graph_module.get_submodule(owner), leaf, module)


def _insert_fake_quants(prepared: fx.GraphModule, places: Places) -> None:
    """Put the fake-quant module of its group behind every value that rounding can change."""
    slots: dict[str, list[str]] = {}
    for name, value in places.values.items():
        members = slots.setdefault(value.group, [])
        if value.source:
            members.append(name)
    for group, members in slots.items():
        module = ActivationFakeQuant(tuple(members), places.bits[group], places.fixed.get(group))
        prepared.add_submodule(f"{_FOLDER}.{group}", module)
    nodes = {node.name: node for node in prepared.graph.nodes}
    rounded = {name: node for name, node in nodes.items()}  # a value as its readers see it
    for name, value in places.values.items():
        if value.on_grid:
            continue
        node, readers = nodes[name], list(nodes[name].users)
        slot = slots[value.group].index(name) if value.source else -1
        with prepared.graph.inserting_after(node):
            rounded[name] = prepared.graph.call_module(f"{_FOLDER}.{value.group}", (node, slot))
        rounded[name].meta = dict(node.meta)
        for reader in readers:
            reader.replace_input_with(node, rounded[name])
    for reader_name, reads in places.reads.items():
        for name, bits in reads.items():
            source, group = rounded[name], places.values[name].group
            with prepared.graph.inserting_before(nodes[reader_name]):
                again = prepared.graph.call_module(f"{_FOLDER}.{group}", (source, -1, bits))
            again.meta = dict(source.meta)
            nodes[reader_name].replace_input_with(source, again)
