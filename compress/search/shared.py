"""Subnets on shared weights: whatever edits make of a traced network runs and trains with the network's own tensors.

The statistics of batch norms cannot be shared, as another width sees other activations. A named rung keeps its own; any
other subnet uses the batch's while it trains and leaves none behind. In evaluation mode it sees its part of the whole
network's, so it has to be recalibrated once it is cut out (`train.recalibrate_norms`).
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.func import functional_call

from compress.errors import UnknownName
from compress.graph.layers import BATCH_NORM
from compress.graph.surgery import apply_edits
from compress.search.elastic import Numbered, Structure
from compress.types import Edit

Edits = tuple[Edit, ...]
STRUCTURES_KEPT = 64
"""Cut structures without weights that are kept for the next time; making one takes some hundredths of a second."""


class Subnet:
    """One subnet: called like a module, it computes with the shared weights as they are at that moment.

    It owns nothing; its gradients go to the shared weights. `edits` are what makes it of the whole network.
    """

    def __init__(self, shared: SharedWeights, edits: Edits, structure: Structure, own: Mapping[str, Tensor]) -> None:
        self.edits = edits
        self.structure = structure
        self._shared, self._own = shared, own

    def __call__(self, *inputs: Tensor) -> Any:
        """The subnet's answer, in the mode (training or not) of the network it belongs to."""
        self.structure.network.train(self._shared.training)
        return functional_call(self.structure.network, self.tensors(), inputs)

    def tensors(self) -> dict[str, Tensor]:
        """The subnet's parameters and buffers: its own, views of the shared ones, and copies of shared statistics."""
        shared, found = self._shared.shared(), {}
        for name in self.structure.picks:
            if name in self._own:
                found[name] = self._own[name]
                continue
            part = self.structure.part(name, shared[name])
            # A batch norm writes into its statistics: those of the whole network are not this subnet's to change.
            found[name] = part.clone() if self.edits and name in self._shared.statistics else part
        return found


class SharedWeights(nn.Module):
    """A traced network whose subnets share its weights; called itself, it is the whole network.

    `rungs` name subnets that have tensors of their own: a rung without edits is the whole network; any other has its
    own copy of each tensor named in `own` (by default the statistics of the batch norms).
    """

    def __init__(
        self,
        base: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        rungs: Mapping[str, Edits] | None = None,
        own: Iterable[str] | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.example_inputs = tuple(example_inputs)
        self.rungs = dict(rungs or {})
        self.statistics = frozenset(batch_statistics(base))
        self._numbered = Numbered(base, example_inputs)
        self._structures: OrderedDict[Edits, Structure] = OrderedDict()
        self.own = nn.ModuleDict()
        names = self.statistics if own is None else frozenset(own)
        for name, edits in self.rungs.items():
            if edits:
                self.own[_key(name)] = self._copies(edits, names)

    def forward(self, *inputs: Tensor) -> Any:
        """The whole network's answer."""
        return self.base(*inputs)

    def shared(self) -> dict[str, Tensor]:
        """The whole network's parameters and buffers by name."""
        return {**dict(self.base.named_parameters()), **dict(self.base.named_buffers())}

    def subnet(self, edits: Iterable[Edit]) -> Subnet:
        """The subnet that the edits make of the network.

        Raises:
            ModelError: an edit does not fit the network.
        """
        edits = tuple(edits)
        return Subnet(self, edits, self._structure(edits), {})

    def rung(self, name: str) -> Subnet:
        """The named subnet, with the tensors of its own.

        Raises:
            UnknownName: there is no such rung.
        """
        edits = self._edits_of(name)
        return Subnet(self, edits, self._structure(edits), self._own_of(name) if edits else {})

    def physical(self, choice: str | Iterable[Edit]) -> fx.GraphModule:
        """A rung (by name) or a subnet (by edits), really cut out of the network: it shares nothing with it.

        Raises:
            UnknownName: there is no such rung.
            ModelError: an edit does not fit the network.
            CheckFailed: the cut is not clean.
        """
        edits = self._edits_of(choice) if isinstance(choice, str) else tuple(choice)
        inputs = [x.to(next(self.base.parameters()).device) for x in self.example_inputs]
        cut = apply_edits(copy.deepcopy(self.base).eval(), edits, inputs)
        if isinstance(choice, str) and edits:
            cut.load_state_dict({name: tensor.detach() for name, tensor in self._own_of(choice).items()}, strict=False)
        return cut

    def _edits_of(self, name: str) -> Edits:
        if name not in self.rungs:
            raise UnknownName("rung", name, self.rungs)
        return self.rungs[name]

    def _structure(self, edits: Edits) -> Structure:
        found = self._structures.pop(edits, None) or self._numbered.structure(edits)
        self._structures[edits] = found
        if len(self._structures) > STRUCTURES_KEPT:
            self._structures.popitem(last=False)
        return found

    def _copies(self, edits: Edits, names: frozenset[str]) -> nn.Module:
        """A module that holds a subnet's copies of the named tensors."""
        holder, structure, shared = nn.Module(), self._structure(edits), self.shared()
        for name in structure.picks:
            if name in names:
                part = structure.part(name, shared[name]).detach().clone()
                if isinstance(shared[name], nn.Parameter):
                    holder.register_parameter(_key(name), nn.Parameter(part))
                else:
                    holder.register_buffer(_key(name), part)
        return holder

    def _own_of(self, name: str) -> dict[str, Tensor]:
        holder = self.own[_key(name)]
        held = {**dict(holder.named_parameters()), **dict(holder.named_buffers())}
        return {held_name.replace("/", "."): tensor for held_name, tensor in held.items()}


def _key(name: str) -> str:
    """A name as torch takes it for a part of a module: without dots."""
    return name.replace(".", "/")


def batch_statistics(network: nn.Module) -> list[str]:
    """The names of all buffers of batch norms: their running statistics and how many batches those have seen."""
    norms = [(path, module) for path, module in network.named_modules() if isinstance(module, BATCH_NORM)]
    return [f"{path}.{name}" for path, module in norms for name, _ in module.named_buffers()]
