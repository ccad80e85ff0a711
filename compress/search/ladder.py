"""A ladder of widths in one network, chosen at run time (Hou et al. 2021, "Slimmable generative adversarial networks").

Each rung uses the leading channels of every group; only its norms are its own, scales and statistics, as those of one
width fit no other. Each rung learns from the next wider one while both are trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.errors import InputError, ModelError
from compress.graph.groups import ChannelGroup, WidthModel
from compress.graph.layers import BATCH_NORM
from compress.search.shared import Edits, SharedWeights, Subnet, batch_statistics
from compress.search.supernet import LossOf, Remembering, mean_terms
from compress.types import ChannelEdit, Edit

WIDTHS = (0.25, 0.5, 0.75, 1.0)
ALPHA = 20.0
"""The weight of the imitation of the next wider rung beside hinge losses (in the paper 10 where the generator knows the
class). Beside smaller losses it has to be smaller: rungs share weights, and would agree on answering nothing."""
_NORMS = (BATCH_NORM, nn.GroupNorm, nn.LayerNorm)


class Ladder(SharedWeights):
    """A traced network at several widths, from narrow to whole; rung `i` and share `shares[i]` are the same thing."""

    def __init__(
        self,
        base: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        shares: Sequence[float] = WIDTHS,
        multiple: int = 1,
    ) -> None:
        """Make the rungs: `shares` of every group's width, in multiples of `multiple` channels.

        Raises:
            InputError: the shares do not rise from above 0 to 1.
            ModelError: no group of the network's channels can be narrowed.
        """
        if not shares or list(shares) != sorted(set(shares)) or shares[0] <= 0 or shares[-1] != 1.0:
            raise InputError(
                f"the widths of a ladder rise from above 0 to 1, such as {list(WIDTHS)}; got {list(shares)}"
            )
        widths = WidthModel(base, example_inputs)
        if not (groups := widths.free):
            reasons = "; ".join(dict.fromkeys(group.pinned for group in widths.groups))
            raise ModelError(f"the model has no channels to narrow, so that it cannot be a ladder ({reasons})")
        rungs = {f"{share:g}": uniform(groups, share, multiple) for share in shares}
        super().__init__(base, example_inputs, rungs, [*batch_statistics(base), *norm_scales(base)])
        self.shares = tuple(shares)

    def rung(self, name: str | int) -> Subnet:
        """The rung with that number, from narrow to wide, or of that share in words ("0.25")."""
        return super().rung(self._name(name))

    def physical(self, choice: str | int | Iterable[Edit]) -> fx.GraphModule:
        """A rung, really cut out of the network with its own norms: it shares nothing with it."""
        return super().physical(self._name(choice) if isinstance(choice, int) else choice)

    def _name(self, rung: str | int) -> str:
        return f"{self.shares[rung]:g}" if isinstance(rung, int) else rung


def uniform(groups: Sequence[ChannelGroup], share: float, multiple: int) -> Edits:
    """The edits that leave the leading `share` of every group, to the nearest multiple above 0."""
    edits = []
    for group in groups:
        keep = min(group.width, max(1, round(share * group.width / multiple)) * multiple)
        if keep < group.width:
            edits.append(ChannelEdit(group.layer, group.width, tuple(range(keep, group.width))))
    return tuple(edits)


def norm_scales(network: fx.GraphModule) -> list[str]:
    """The names of all scales and shifts of the network's norms, of layers and of instance norms alike."""
    names = []
    for node in network.graph.nodes:
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), _NORMS):
            names += [f"{node.target}.{name}" for name, _ in network.get_submodule(str(node.target)).named_parameters()]
        elif node.target is torch.ops.aten.instance_norm.default:
            names += [str(held.target) for held in node.args[1:3] if isinstance(held, fx.Node)]
    return names


def ladder_loss(ladder: Ladder, batch: Any, loss_of: LossOf, alpha: float = ALPHA) -> dict[str, Tensor]:
    """The mean loss terms of all rungs, with `stepwise`: alpha times how far each is from the next wider one.

    Args:
        ladder: the network.
        batch: what `loss_of` takes; `batch.inputs` are what a network is called with.
        loss_of: the task's loss of a network.
        alpha: the weight of the mean squared difference to the next wider rung's output, which is held fixed; 0 trains
            each rung on the task alone.
    """
    rungs = [Remembering(ladder.rung(i)) for i in range(len(ladder.shares))]
    terms = [loss_of(rung, batch) for rung in rungs]
    for i in range(len(rungs) - 1 if alpha else 0):
        narrow, wide = rungs[i](*batch.inputs), rungs[i + 1](*batch.inputs).detach()
        terms[i] = {**terms[i], "stepwise": alpha * F.mse_loss(narrow, wide)}
    return mean_terms(terms)
