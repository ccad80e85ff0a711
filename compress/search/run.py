"""Architecture search on inherited weights: Optuna's NSGA-II proposes, quick quality and predicted cost judge.

The study lies in an SQLite file in the run folder (or any Optuna storage that several machines share). A killed search
resumes from its finished trials; as each proposal is seeded by the number of finished trials, it goes on exactly as
it would have.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import optuna
from optuna.storages import BaseStorage
from torch import Tensor

from compress.errors import Infeasible
from compress.profile.budget import Limits
from compress.search.space import Space
from compress.types import Edit, edit_from_dict, edit_to_dict

Judge = Callable[[tuple[Edit, ...]], tuple[float, dict[str, float]]]
"""Edits -> (quick quality, predicted figures)."""

SLACK = 0.1
"""The excess that a search may leave to a later `prune: {ratio: auto}`, which cuts finer than whole candidates do."""


@dataclass(frozen=True)
class SearchPlan:
    """The chosen candidate's edits, and every trial: number, quality, figures, and whether it is on the front."""

    edits: tuple[Edit, ...]
    chosen: int
    trials: tuple[dict[str, Any], ...] = ()
    space_size: int = 0
    kind = "search"
    pinned: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON data."""
        return {
            "kind": self.kind,
            "edits": [edit_to_dict(edit) for edit in self.edits],
            "chosen": self.chosen,
            "trials": list(self.trials),
            "space_size": self.space_size,
            "pinned": dict(self.pinned),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The plan back from plain JSON data."""
        edits = tuple(edit_from_dict(edit) for edit in record["edits"])
        return cls(edits, record["chosen"], tuple(record["trials"]), record["space_size"], record["pinned"])

    def table(self) -> list[tuple[str, str, str]]:
        """Rows (layer, its kernel, block or resolution; before; after)."""
        rows = []
        for edit in self.edits:
            data = edit_to_dict(edit)
            if data["edit"] == "block":
                rows.append((data["block"], "block", "removed"))
            elif data["edit"] == "resolution":
                before, after = ("x".join(map(str, data[key])) for key in ("size_before", "size"))
                rows.append(("resolution", before, after))
            elif data["edit"] == "kernel":
                rows.append((f"{data['layer']} kernel", str(data["size_before"]), str(data["size"])))
            else:
                rows.append((data["layer"], str(data["width"]), str(data["width"] - len(data["remove"]))))
        return rows


def search(
    space: Space,
    scores: Mapping[str, Tensor],
    judge: Judge,
    limits: Limits,
    *,
    trials: int,
    population: int,
    seed: int,
    storage: str | BaseStorage,
    private: bool = True,
    higher_is_better: bool,
    must_meet: bool,
    finishable: Callable[[tuple[Edit, ...]], bool] = lambda edits: True,
    pinned: Mapping[str, str] | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> SearchPlan:
    """Run (or go on with) the study and choose: inside the limits the best quality, else the least excess.

    Where a later step can cut further (`must_meet` is False), candidates slightly over the limits count as inside them
    if `finishable(edits)` says that the later step can do the rest.

    A study is `private` where this process alone works on it; a shared one is resumed too, but what comes out then
    depends on who proposed what. Candidates are numbered in the order in which they finished.

    Raises:
        Infeasible: `must_meet` and no candidate is inside the limits; carries the closest.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    study = _open(storage, private, higher_is_better)
    seeds = space.seeds(trials)
    while (done := len(_finished(study))) < trials:
        study.sampler = optuna.samplers.NSGAIISampler(
            population_size=population,
            seed=_mix(seed, done),
            # Inside the budget comes before better: generations gather where the answer lies.
            constraints_func=lambda trial: (limits.excess(trial.user_attrs["figures"]),),
        )
        if done < len(seeds):
            study.enqueue_trial(seeds[done])
        trial = study.ask()
        choice = space.sample(trial)
        # Evolution comes back to what it has seen, above all in a small space: the verdict stands.
        seen = next((t for t in _finished(study) if t.user_attrs["choice"] == choice), None)
        if seen is not None:
            quality, figures = seen.values[0], seen.user_attrs["figures"]
        else:
            quality, figures = judge(space.edits(choice, scores))
        trial.set_user_attr("choice", choice)
        trial.set_user_attr("figures", figures)
        study.tell(trial, [quality, figures["latency_ms"]])
        if watch is not None:
            watch(done + 1, trials)
    return _choose(study, space, scores, limits, higher_is_better, must_meet, finishable, pinned or {})


def _open(storage: str | BaseStorage, private: bool, higher_is_better: bool) -> optuna.Study:
    """The study; in a private one, trials that a killed process left running are closed as failed."""
    optuna_direction = optuna.study.StudyDirection
    directions = [
        optuna_direction.MAXIMIZE if higher_is_better else optuna_direction.MINIMIZE,
        optuna_direction.MINIMIZE,
    ]
    study = optuna.create_study(study_name="search", storage=storage, directions=directions, load_if_exists=True)
    for trial in study.get_trials(deepcopy=False) if private else ():
        if not trial.state.is_finished():
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))


def _mix(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")


def _choose(
    study: optuna.Study,
    space: Space,
    scores: Mapping[str, Tensor],
    limits: Limits,
    higher_is_better: bool,
    must_meet: bool,
    finishable: Callable[[tuple[Edit, ...]], bool],
    pinned: Mapping[str, str],
) -> SearchPlan:
    finished = _finished(study)
    on_front = front([(trial.values[0], trial.values[1]) for trial in finished], higher_is_better)
    sign = 1.0 if higher_is_better else -1.0

    def rank(trial: optuna.trial.FrozenTrial, slack: float = 0.0) -> tuple[float, float, int]:
        return max(0.0, limits.excess(trial.user_attrs["figures"]) - slack), -sign * trial.values[0], trial.number

    best = min(finished, key=rank)
    for trial in () if must_meet else sorted(finished, key=lambda t: rank(t, SLACK)):
        if rank(trial)[0] == 0 or finishable(space.edits(trial.user_attrs["choice"], scores)):
            best = trial
            break
    numbers = {trial.number: i for i, trial in enumerate(finished)}
    rows = tuple(_row(trial, i, i in on_front) for i, trial in enumerate(finished))
    edits = space.edits(best.user_attrs["choice"], scores)
    plan = SearchPlan(edits, numbers[best.number], rows, space.size, pinned)
    if must_meet and rank(best)[0] > 0:
        limit = limits.worst(best.user_attrs["figures"])
        raise Infeasible(
            f"no candidate of {len(finished)} meets the budget: the closest (trial {plan.chosen}) has {limit}; "
            "raise that limit, give more trials, or add a prune step with ratio: auto",
            plan.to_dict(),
            limit,
        )
    return plan


def front(points: Sequence[tuple[float, float]], higher_is_better: bool) -> set[int]:
    """The numbers of the points (quality, latency) that no other beats in both at once, in the budget or not."""
    sign = 1.0 if higher_is_better else -1.0
    found: set[int] = set()
    best = float("-inf")
    for number in sorted(range(len(points)), key=lambda i: (points[i][1], -sign * points[i][0], i)):
        if sign * points[number][0] > best:
            best = sign * points[number][0]
            found.add(number)
    return found


def _row(trial: optuna.trial.FrozenTrial, number: int, on_front: bool) -> dict[str, Any]:
    figures = {name: float(value) for name, value in trial.user_attrs["figures"].items()}
    choice = json.loads(json.dumps(trial.user_attrs["choice"]))
    return {
        "number": number,
        "quality": trial.values[0],
        **figures,
        "on_front": on_front,
        "choice": choice,
    }


def label(choice: Mapping[str, int]) -> str:
    """A candidate in a few words for a hover text: its resolution, blocks removed, widths and kernels."""
    gone = [key.removeprefix("keep:") for key, kept in choice.items() if key.startswith("keep:") and not kept]
    widths = [f"{key.removeprefix('width:')}={w}" for key, w in choice.items() if key.startswith("width:")]
    kernels = [f"{key.removeprefix('kernel:')} kernel {n}" for key, n in choice.items() if key.startswith("kernel:")]
    seen = f"{choice['height']} pixels high" if "height" in choice else ""
    without = f"without {', '.join(gone)}" if gone else ""
    return "; ".join(filter(None, [seen, without, ", ".join(widths), ", ".join(kernels)]))
