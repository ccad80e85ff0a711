"""Evolution over a space that costs little to judge: every candidate is brought inside the limits before it is judged.

The search for a subnet of MFAGAN (2021) and of Cai et al. 2020, "Once-for-All": population, crossover and mutation are
Optuna's NSGA-II as in `run.search`; what is predicted (latency, MACs, size, peak activation memory) costs next to
nothing, so a proposal outside the limits is shrunk, one choice after the other, until it is inside, and one that was
seen before gives way to a neighbour.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import optuna
from torch import Tensor

from compress.graph.cost import cost_of
from compress.profile.budget import CostModel, Limits
from compress.search.run import SearchPlan, search
from compress.search.shared import Edits, SharedWeights
from compress.search.space import Draw, Space

Choice = Mapping[str, int]
MOVES = 20
"""How far a candidate that was seen before is moved on; in a small space all may have been seen."""
Figures = Callable[[Edits], Mapping[str, float]]
"""Edits -> predicted figures, `latency_ms` among them."""


def predictor(shared: SharedWeights, cost: CostModel) -> Figures:
    """What a subnet is predicted to cost: the cost model's figures and the float32 `peak_activation_bytes`."""
    inputs = [x.cpu() for x in shared.example_inputs]

    def figures(edits: Edits) -> dict[str, float]:
        counted = cost_of(shared.subnet(edits).structure.network, inputs)
        return cost.figures(counted.ops) | {"peak_activation_bytes": float(counted.peak_activation_bytes)}

    return figures


def evolve(
    space: Space,
    scores: Mapping[str, Tensor],
    quality: Callable[[Edits], float],
    figures: Figures,
    limits: Limits,
    *,
    trials: int,
    population: int,
    seed: int,
    higher_is_better: bool,
    watch: Callable[[int, int], None] | None = None,
) -> SearchPlan:
    """The best candidate inside the limits, as `edits`, and all `trials`, those on the front marked.

    Args:
        space: what may be chosen.
        scores: the importance of each group's channels (`Supernet.scores` on a supernet).
        quality: how good a candidate is; asked once for each, and for none outside the limits that can be shrunk.
        figures: what a candidate is predicted to cost.
        limits: upper limits on these figures.
        trials: how many candidates are proposed, each a new one as long as there are any near.
        population: how many are in a generation.
        seed: decides every draw.
        higher_is_better: whether a high quality is a good one.
        watch: told (candidates so far, of how many).

    Raises:
        Infeasible: no candidate is inside the limits; carries the closest, and the limit that it breaks most. Where
            even the smallest candidate is outside, this is found out from the figures alone.
    """
    predict = cache(lambda edits: dict(figures(edits)))
    judge = cache(quality)

    def excess(choice: Choice) -> float:
        return limits.excess(predict(space.edits(choice, scores)))

    def run(quality_of: Callable[[Edits], float], higher: bool, watch: Callable[[int, int], None] | None) -> SearchPlan:
        return search(
            _Inside(**vars(space), excess=excess),
            scores,
            lambda edits: (quality_of(edits), predict(edits)),
            limits,
            trials=trials,
            population=population,
            seed=seed,
            storage=optuna.storages.InMemoryStorage(),
            higher_is_better=higher,
            must_meet=True,
            watch=watch,
        )

    if excess(space.sample(Draw(lambda name, last: 0))) > 0:
        run(lambda edits: limits.excess(predict(edits)), False, None)
    return run(judge, higher_is_better, watch)


@dataclass(frozen=True)
class _Inside(Space):
    """A space whose candidates are brought inside the limits and are new: `excess(choice)` is 0 inside the limits.

    `seen` holds the candidates that were given out; it is what a search changes.
    """

    excess: Callable[[Choice], float] = lambda choice: 0.0
    seen: set[str] = field(default_factory=set)

    def sample(self, trial: Any) -> dict[str, int]:
        """The trial's candidate, shrunk until it is inside the limits; one seen before is moved on, step by step."""
        places: dict[str, int] = {}
        lasts: dict[str, int] = {}

        def drawn(name: str, last: int) -> int:
            places[name], lasts[name] = trial.suggest_int(name, 0, last), last
            return places[name]

        super().sample(Draw(drawn))
        dice = random.Random(f"{len(self.seen)} {places}")
        places = self._shrunk(places, dice)
        for _ in range(MOVES if places else 0):
            if str(places) not in self.seen:
                break
            name = dice.choice(list(places))
            moved = min(lasts[name], max(0, places[name] + dice.choice((-1, 1))))
            places = self._shrunk({**places, name: moved}, dice)
        self.seen.add(str(places))
        return self._at(places)

    def _shrunk(self, places: dict[str, int], dice: random.Random) -> dict[str, int]:
        """The places after as few random steps down as bring them inside; as they are where all steps do not."""
        steps = [name for name, place in places.items() for _ in range(place)]
        dice.shuffle(steps)

        def after(count: int) -> dict[str, int]:
            taken = Counter(steps[:count])
            return {name: place - taken[name] for name, place in places.items()}

        few, many = -1, len(steps)
        if self.excess(self._at(after(many))) > 0:
            return places
        while many - few > 1:  # after `many` steps it is inside, after `few` it is not
            middle = (few + many) // 2
            few, many = (middle, many) if self.excess(self._at(after(middle))) > 0 else (few, middle)
        return after(many)

    def _at(self, places: Choice) -> dict[str, int]:
        return super().sample(Draw(lambda name, last: places[name]))
