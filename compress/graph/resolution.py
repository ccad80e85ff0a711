"""The resolution a model works at: its image input scaled down inside the graph, so that the interface stays the same.

Convolutions cost in proportion to the pixels they see, and a model trained at one size still knows most of what it
knew at a smaller one (the third axis of Tan & Le 2019, "EfficientNet"; Howard et al. 2017, "MobileNets"). Only a model
whose output does not follow its input's size can be treated so: a classifier, not a generator.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from compress.errors import ModelError
from compress.graph.cost import propagate_shapes

NODE = "input_resize"
aten = torch.ops.aten


def legal_sizes(
    graph_module: fx.GraphModule, example_inputs: Sequence[Tensor], multiple: int, min_share: float
) -> tuple[tuple[int, int], ...]:
    """The (height, width) that the model can work at, from small to its own; empty where it can at no other.

    Sizes keep the input's shape as near as multiples of `multiple` allow and are at least `min_share` of each side.
    """
    if len(example_inputs) != 1 or example_inputs[0].dim() != 4:
        return ()
    height, width = example_inputs[0].shape[2:]
    sizes = []
    for short in range(multiple, min(height, width), multiple):
        scale = short / min(height, width)
        size = (max(1, round(height * scale / multiple)) * multiple, max(1, round(width * scale / multiple)) * multiple)
        if scale >= min_share and _works(graph_module, example_inputs, size):
            sizes.append(size)
    return (*sizes, (height, width)) if sizes else ()


def _works(graph_module: fx.GraphModule, example_inputs: Sequence[Tensor], size: tuple[int, int]) -> bool:
    try:
        resize_input(copy.deepcopy(graph_module), size, example_inputs)
    except ModelError:
        return False
    return True


def resize_input(graph_module: fx.GraphModule, size: tuple[int, int], example_inputs: Sequence[Tensor]) -> None:
    """Let the model scale its image (N, C, H, W) to `size` before anything else, bilinearly, in place.

    Raises:
        ModelError: it does not take one image, or fails or answers in another shape at that size.
    """
    images = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    if len(images) != 1 or len(example_inputs) != 1 or example_inputs[0].dim() != 4:
        raise ModelError("only a model with one image (N, C, H, W) as its input can work at another resolution")
    want = _output_shape(graph_module, example_inputs)
    _insert(graph_module.graph, images[0], size)
    graph_module.graph.lint()
    graph_module.recompile()
    try:
        got = _output_shape(graph_module, example_inputs)
    except Exception as error:  # a view with the old sizes in it fails in whatever way torch likes
        reason = str(error).splitlines()[0]
        raise ModelError(f"the model cannot work at {size[0]}x{size[1]} pixels ({reason})") from error
    if got != want:
        raise ModelError(f"the model's output follows its input's size: at {size[0]}x{size[1]} {want} becomes {got}")


def _insert(graph: fx.Graph, image: fx.Node, size: tuple[int, int]) -> None:
    """Put the resize behind the input, or change the one that is there, in place."""
    there = [node for node in image.users if node.name == NODE]
    if there:
        there[0].args = (image, list(size), False, None)
        return
    readers = list(image.users)
    with graph.inserting_after(image):
        node = graph.create_node(
            "call_function", aten.upsample_bilinear2d.vec, (image, list(size), False, None), name=NODE
        )
    node.meta = {"val": image.meta["val"]} if "val" in image.meta else {}
    for reader in readers:
        reader.replace_input_with(image, node)


def _output_shape(graph_module: fx.GraphModule, example_inputs: Sequence[Tensor]) -> list[tuple[int, ...]]:
    values = propagate_shapes(graph_module, example_inputs)
    answer = next(values[node] for node in graph_module.graph.nodes if node.op == "output")
    return [tuple(tensor.shape) for tensor in (answer if isinstance(answer, (tuple, list)) else [answer])]
