"""One network that is all networks of a search space: trained once, any of them can be judged and cut out.

The sandwich rule and in-place distillation are of Yu and Huang 2019, "Universally slimmable networks"; leading channels
and centred kernels of Cai et al. 2020, "Once-for-All". The subnets are found by tracing, so this serves any network
that the graph tools can cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx

from compress.search.elastic import leading
from compress.search.shared import Edits, SharedWeights, Subnet
from compress.search.space import Draw, Space

Kind = Literal["largest", "smallest", "random"]


class Supernet(SharedWeights):
    """The subnets of a search space on shared weights; of each group of channels the leading ones stay.

    Sort the channels first (`elastic.sort_channels`), so that these are the important ones. The whole network and the
    smallest subnet are rungs: they play in every step and keep their own batch statistics.
    """

    def __init__(self, base: fx.GraphModule, example_inputs: Sequence[Tensor], space: Space) -> None:
        self.space = space
        self.scores = leading({layer: widths[-1] for layer, widths in space.widths.items()})
        super().__init__(base, example_inputs, {"largest": (), "smallest": self.edits("smallest")})

    def edits(self, kind: Kind, generator: torch.Generator | None = None) -> Edits:
        """The edits of the largest, the smallest or a random subnet of the space."""
        places: dict[Kind, Callable[[str, int], int]] = {
            "largest": lambda name, last: last,
            "smallest": lambda name, last: 0,
            "random": lambda name, last: int(torch.randint(last + 1, (), generator=generator)),
        }
        return self.space.edits(self.space.sample(Draw(places[kind])), self.scores)

    def sample(self, kind: Kind, generator: torch.Generator | None = None) -> Subnet:
        """The largest, the smallest or a random subnet of the space."""
        return self.subnet(self.edits(kind, generator)) if kind == "random" else self.rung(kind)

    def sandwich(self, generator: torch.Generator, randoms: int = 1) -> list[Subnet]:
        """The subnets of one training step: the largest, some random ones, the smallest."""
        drawn = [self.sample("random", generator) for _ in range(randoms)]
        return [self.sample("largest"), *drawn, self.sample("smallest")]


Net = Callable[..., Any]
LossOf = Callable[[Net, Any], dict[str, Tensor]]
"""(what is called like a module, batch) -> named loss terms, summed."""


class Remembering:
    """A network that computes each answer once: asked again with the same tensors, it gives the same answer."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self._said: list[tuple[tuple[Tensor, ...], Any]] = []

    def __call__(self, *inputs: Tensor) -> Any:
        """The network's answer."""
        for heard, answer in self._said:
            if len(heard) == len(inputs) and all(a is b for a, b in zip(heard, inputs, strict=True)):
                return answer
        answer = self.net(*inputs)
        self._said.append((inputs, answer))
        return answer


def sandwich_loss(
    subnets: Sequence[Net],
    batch: Any,
    loss_of: LossOf,
    imitate: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The loss terms of a step: the sums over the subnets, divided by how many they are.

    Args:
        subnets: the largest first, as `Supernet.sandwich` gives them.
        batch: what `loss_of` takes; `batch.inputs` are what a network is called with.
        loss_of: the task's loss of a network.
        imitate: in-place distillation: the distance (student output, largest's output, detached) that all but the
            largest minimize instead of the task's loss; None trains all on the task.
    """
    largest = Remembering(subnets[0])
    terms = [loss_of(largest, batch)]
    for net in subnets[1:]:
        if imitate is None:
            terms.append(loss_of(net, batch))
        else:
            terms.append({"imitation": imitate(net(*batch.inputs), largest(*batch.inputs).detach())})
    return mean_terms(terms)


def mean_terms(terms: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The sum of each named term over several networks, divided by how many those are."""
    sums: dict[str, Tensor] = {}
    for named in terms:
        for name, value in named.items():
            sums[name] = sums[name] + value if name in sums else value
    return {name: value / len(terms) for name, value in sums.items()}
