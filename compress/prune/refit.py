"""Least-squares refit after a cut: every layer behind it finds, in closed form, the weights that give the old answers.

Layer by layer, in the order of the graph, the weights W of a linear layer or a convolution (of each of its groups) are
set to

    argmin |W X - Y|^2 + ridge |W - W0|^2,

where X is what reaches the layer in the cut model (so it mends what the layers before it left broken), Y what the uncut
model's layer gave on the same samples, for the channels that are still there, and W0 the sliced weights (He et al.
2017, "Channel pruning for accelerating very deep neural networks", eq. 5, the asymmetric form; the ridge toward W0 is
ours and keeps few samples from being believed too much).

BatchNorms move on the way, but only by what the cut did. Their statistics are those of everything the model was trained
on; plain averages over a few other images would throw that away: EfficientNet-Lite0, uncut, keeps 10 % of its own
answers on photographs when its norms are measured anew on 256 of them. So what reaches a norm in the cut model is
regressed on what reaches it in the uncut one, u = a v + b + e, and the old statistics go through that line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.errors import DataError
from compress.graph.layers import BATCH_NORM

RIDGE = 0.01
"""Weight of the pull toward the sliced weights, relative to the mean energy of an input."""
POSITIONS = 65_536
"""Positions (samples x pixels) that a layer is fitted on at most."""
ENTRIES = 2**26
"""Numbers in the largest matrix of a fit, a quarter of a gigabyte."""

FITTED = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Layers whose output is linear in weights that a least-squares fit can find."""


@torch.no_grad()
def refit(
    cut: fx.GraphModule,
    uncut: fx.GraphModule,
    kept: Mapping[str, Sequence[int]],
    inputs: Sequence[Tensor],
    ridge: float = RIDGE,
    solve: bool = True,
) -> list[str]:
    """Refit the layers of `cut` in place on `inputs` (one tensor (N, ...) per model argument); returns their paths.

    `kept` maps a layer to the output channels of `uncut` that it still has (see `surgery.cut_and_kept`); a layer that
    is not named has them all. Transposed and 3-D convolutions, and layers whose input is unchanged, stay as they are.
    Without `solve` the norms alone are carried over.

    Raises:
        DataError: the inputs are not finite.
    """
    if not all(bool(torch.isfinite(x).all()) for x in inputs):
        raise DataError("refit: the training data holds NaN or infinite values")
    student, teacher = _Walk(cut.eval(), inputs), _Walk(uncut.eval(), inputs)
    left = {node.name: node for node in cut.graph.nodes}
    changed: set[str] = set()
    refitted = []
    for original in uncut.graph.nodes:
        is_norm = original.op == "call_module" and isinstance(uncut.get_submodule(str(original.target)), BATCH_NORM)
        reached = teacher.value(original.args[0]) if is_norm else None
        answer = teacher.step(original)
        node = left.get(original.name)
        if node is None:
            continue  # it went with a block
        rewired = [n.name for n in node.all_input_nodes] != [n.name for n in original.all_input_nodes]
        reads_changed = rewired or any(n.name in changed for n in node.all_input_nodes)
        path = str(node.target) if node.op == "call_module" else ""
        if path and reads_changed:
            layer, given = cut.get_submodule(path), student.value(node.args[0])
            if isinstance(layer, BATCH_NORM):
                _carry_over(layer, uncut.get_submodule(path), given, reached, kept.get(path))
            elif isinstance(layer, FITTED) and solve:
                axis = answer.dim() - 1 if isinstance(layer, nn.Linear) else 1
                wanted = answer.index_select(axis, torch.tensor(list(kept[path]))) if path in kept else answer
                _solve(layer, given, wanted, ridge)
                refitted.append(path)
        student.step(node)
        if reads_changed or path in kept:
            changed.add(node.name)
    return refitted


class _Walk:
    """A traced model run one node at a time; values are let go after their last reader."""

    def __init__(self, graph_module: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
        self.interpreter = fx.Interpreter(graph_module)
        self.interpreter.args_iter = iter(inputs)

    def step(self, node: fx.Node) -> Any:
        """Run the node and remember its value."""
        run = self.interpreter
        value = run.env[node] = run.run_node(node)
        for done in run.user_to_last_uses.get(node, []):
            del run.env[done]
        return value

    def value(self, node: Any) -> Tensor:
        """The value of a node that has run."""
        return self.interpreter.env[node]  # type: ignore[no-any-return]


def _carry_over(norm: Any, old_norm: Any, given: Tensor, reached: Any, kept: Sequence[int] | None) -> None:
    """Take a BatchNorm's old statistics through the line that leads from its old inputs to its new ones, in place."""
    index = torch.tensor(list(range(len(old_norm.running_mean)) if kept is None else kept))
    axes = [axis for axis in range(given.dim()) if axis != 1]
    old = reached.index_select(1, index)
    old_mean, new_mean = old.mean(axes), given.mean(axes)
    shape = [1, -1, *[1] * (given.dim() - 2)]
    centred, moved = old - old_mean.view(shape), given - new_mean.view(shape)
    old_var, new_var = centred.square().mean(axes), moved.square().mean(axes)
    slope = (centred * moved).mean(axes) / old_var.clamp_min(1e-12)
    unexplained = (new_var - slope.square() * old_var).clamp_min(0)
    norm.running_mean.copy_(slope * (old_norm.running_mean[index] - old_mean) + new_mean)
    norm.running_var.copy_(slope.square() * old_norm.running_var[index] + unexplained)


def _solve(layer: Any, given: Tensor, wanted: Tensor, ridge: float) -> None:
    """Set the weights (and bias) of a layer; a grouped convolution is one fit for each group."""
    x, y = _pairs(layer, given, wanted)  # (groups, positions, inputs) and (groups, positions, outputs)
    groups, _, inputs = x.shape
    if layer.bias is not None:
        x_mean, y_mean = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
        x, y = x - x_mean, y - y_mean
    old = layer.weight.reshape(groups, -1, inputs)
    energy = x.mT @ x
    # Relative to each group's mean energy; the floor keeps an input that is always zero solvable.
    level = energy.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    pull = ridge * level[:, None, None]
    left = (energy + pull * torch.eye(inputs)).double()
    new = torch.linalg.solve(left, (x.mT @ y + pull * old.mT).double()).float()
    layer.weight.copy_(new.mT.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_((y_mean - x_mean @ new).flatten())


def _pairs(layer: Any, given: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """What each output position reads, (groups, positions, inputs), and the answer there, (groups, positions, outputs).

    A random part of the positions where there are very many.
    """
    if isinstance(layer, nn.Linear):
        return given.reshape(1, -1, given.shape[-1]), wanted.reshape(1, -1, wanted.shape[-1])
    # Paddings of the input as F.pad takes them, last axis first; torch keeps them for 'same' and for numbers alike.
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x, y = F.pad(given, layer._reversed_padding_repeated_twice, mode=mode), wanted
    kernel, dilation, stride = layer.kernel_size, layer.dilation, layer.stride
    if isinstance(layer, nn.Conv1d):  # one row of pixels
        x, y = x.unsqueeze(2), y.unsqueeze(2)
        kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
    count, groups = len(x), layer.groups
    columns = x.shape[1] * kernel[0] * kernel[1]
    share = min(1.0, min(POSITIONS, ENTRIES // columns) / (count * y.shape[2] * y.shape[3]))
    generator = torch.Generator().manual_seed(0)
    xs, ys = [], []
    for sample, answer in zip(x.split(16), y.split(16), strict=True):
        patches = F.unfold(sample, kernel, dilation, 0, stride)  # (n, columns, positions)
        chosen = torch.randperm(patches.shape[2], generator=generator)[: max(1, round(share * patches.shape[2]))]
        xs.append(patches[:, :, chosen].transpose(1, 2).flatten(0, 1))
        ys.append(answer.flatten(2)[:, :, chosen].transpose(1, 2).flatten(0, 1))
    x, y = torch.cat(xs), torch.cat(ys)
    return x.reshape(len(x), groups, -1).transpose(0, 1), y.reshape(len(y), groups, -1).transpose(0, 1)
