"""The traced form of a model: an fx graph of ordinary `torch.nn` layers and functional ATen ops.

`torch.export` sees any model as a flat graph of ATen ops; `layers.py` turns what it can of that graph back into layers.
Whatever is not a layer stays the functional op it was. Every later step edits this form and never the user's Python.
"""

from __future__ import annotations

import inspect
import logging
import os
import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from compress.errors import ModelError
from compress.graph.computed import fold_computed_weights
from compress.graph.fold import fold_behind_grouped_transposed
from compress.graph.layers import WEIGHTED, restore_layers
from compress.graph.noise import fix_noise
from compress.graph.plain_forms import use_plain_forms

log = logging.getLogger(__name__)

# The largest batches to try for. Some models treat large batches otherwise (diffusers' upsampling from 64 on).
_MOST = (1 << 16, 63)
aten = torch.ops.aten


def trace(model: nn.Module, example_inputs: Sequence[Tensor]) -> fx.GraphModule:
    """The model as layers and ATen ops, in eval mode, with a free batch size where the model allows one.

    Args:
        model: the module to trace; it is put into eval mode and shares its parameters with the result, but for
            weights that it computes anew at each call (weight norm, spectral norm): their value is a new parameter.
        example_inputs: one tensor per input, batch first (N, ...).

    Raises:
        ModelError: `torch.export` cannot trace the model; names the line of the user's code.
    """
    program = export_program(model, example_inputs)
    if any(_writes_through_view(node) for node in program.graph.nodes):
        # Writes through views need torch's own functionalization; it costs the dropout layers, so only then.
        program = program.run_decompositions({})
    # An exported module refuses train() and eval(): take its graph and parameters, leave its class.
    exported = program.module(check_guards=False)
    graph_module = fx.GraphModule(exported, exported.graph)
    functionalize(graph_module.graph)
    use_plain_forms(graph_module.graph)
    fold_computed_weights(graph_module, WEIGHTED)
    restore_layers(graph_module)
    fixed = fix_noise(graph_module)
    if fixed:
        log.warning("the model draws noise as it runs, in %d places: each draw is fixed from now on", len(fixed))
    graph_module.eval()
    return graph_module


def export_program(model: nn.Module, example_inputs: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """The model as an exported program in functional ATen ops, batch size free where the model allows one.

    Raises:
        ModelError: `torch.export` cannot trace the model; names the line of the user's code.
    """
    model.eval()
    example_inputs = [x.contiguous() for x in example_inputs]  # the program fixes the memory order of what it was shown
    inputs = tuple(torch.cat([x, x]) if x.shape[0] == 1 else x for x in example_inputs)
    reasons = []
    for most in _MOST:
        batch = torch.export.Dim("batch", min=1, max=most)
        try:
            return torch.export.export(model, inputs, dynamic_shapes=_free_batch(model, len(inputs), batch))
        except Exception as error:  # torch.export raises many unrelated types
            reasons.append(str(error).strip().splitlines()[0])
            if "Constraints violated" not in reasons[-1]:
                break
    try:
        program = torch.export.export(model, tuple(example_inputs))
    except Exception as error:
        raise untraceable(error) from error
    log.warning("the model fixes its batch size at %d: %s", example_inputs[0].shape[0], reasons[0])
    return program


def _free_batch(model: nn.Module, count: int, batch: Any) -> tuple[Any, ...]:
    """A free first axis for each of `count` inputs, as `torch.export` wants it: those of `*args` in a tuple."""
    free: list[Any] = [{0: batch} for _ in range(count)]
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else count
    return (*free[:named], tuple(free[named:])) if named < count else tuple(free)


def export_static(graph_module: nn.Module, example_inputs: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """The traced model as an exported program at the batch size of `example_inputs` (1, for artifacts)."""
    graph_module.eval()
    if isinstance(graph_module, fx.GraphModule):
        graph_module = fold_behind_grouped_transposed(graph_module)
    try:
        return torch.export.export(graph_module, tuple(x.contiguous() for x in example_inputs))
    except Exception as error:
        raise untraceable(error) from error


def untraceable(error: BaseException) -> ModelError:
    """A ModelError that points at the deepest line of code that is neither torch's nor this package's."""
    while isinstance(error.__cause__, Exception) and not isinstance(error, GuardOnDataDependentSymNode):
        error = error.__cause__
    ours = os.path.dirname(os.path.dirname(__file__))
    torch_folder = os.path.dirname(torch.__file__)
    theirs = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((torch_folder, ours, "<")) and "contextlib" not in frame.filename
    ]
    place = f"{theirs[-1].filename}:{theirs[-1].lineno}: {theirs[-1].line}" if theirs else "an unknown line"
    text = str(error)
    # torch.export names the user's line in its message when the frame itself is gone (dynamo re-raises).
    for line in text.splitlines():
        if not theirs and line.strip().startswith("File ") and torch_folder not in line:
            place = line.strip()
    reason = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return ModelError(f"torch.export cannot trace the model at {place} ({reason}); rewrite that line without it")


def functionalize(graph: fx.Graph) -> None:
    """Replace in-place ops (`relu_`, `add_`) by their functional twins, in place; later readers see the new value."""
    for node in list(graph.nodes):
        twin = _functional_twin(node)
        if twin is None:
            continue
        written = node.args[0]
        with graph.inserting_after(node):
            pure = graph.call_function(twin, node.args, dict(node.kwargs))
        pure.meta = dict(node.meta)
        node.replace_all_uses_with(pure)
        order = {n: i for i, n in enumerate(graph.nodes)}
        for reader in list(written.users):
            if reader is not pure and order[reader] > order[pure]:
                reader.replace_input_with(written, pure)
        graph.erase_node(node)


def _functional_twin(node: fx.Node) -> Any:
    """The functional overload of an in-place ATen call; None for anything else."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    name = node.target._schema.name.removeprefix("aten::")
    if not name.endswith("_") or name.startswith("_") or not hasattr(aten, name[:-1]):
        return None
    return getattr(getattr(aten, name[:-1]), node.target._overloadname, None)


def _writes_through_view(node: fx.Node) -> bool:
    """Whether an in-place op writes into a view of another tensor, which a simple rename cannot express."""
    if _functional_twin(node) is None:
        return False
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op != "call_function":
        return True  # writing into an input or a parameter
    schema = getattr(source.target, "_schema", None)
    return schema is None or any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
