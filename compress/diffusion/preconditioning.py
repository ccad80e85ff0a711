"""What a network's output means: the clean sample is skip(level) x + out(level) F(scale(level) x, time(level)).

x = x0 + level e is the noised sample in the coordinate of `schedules`. Epsilon, v, x0 and flow predictions on any
schedule and Karras et al.'s preconditioning are all of this form, so that whoever knows a `Preconditioning` need not
know which of them a network was trained for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from compress.diffusion.schedules import Edm, Flow, Schedule, Trig
from compress.errors import RecipeError


class Factors(NamedTuple):
    """The factors at some levels; all of the levels' shape."""

    scale: Tensor
    """Of x, where it goes into the network."""
    time: Tensor
    """What the network is told of the level."""
    skip: Tensor
    """Of x in the clean sample."""
    out: Tensor
    """Of the network's output in the clean sample."""


@dataclass(frozen=True)
class Preconditioning:
    """The factors as functions of the noise level. `name` is what manifests and messages call it."""

    name: str
    factors: Callable[[Tensor], Factors]

    def __call__(self, level: Tensor) -> Factors:
        """The factors at noise levels > 0."""
        return self.factors(level)

    def output_of(self, clean: Tensor, x: Tensor, level: Tensor) -> Tensor:
        """The output that stands for a clean sample: what a network is taught to say."""
        found = self(level)
        return (clean - per_sample(found.skip, x) * x) / per_sample(found.out, x)


def karras(data_std: float = 0.5) -> Preconditioning:
    """The preconditioning of Karras et al. (2022, table 1) for data of a standard deviation."""

    def factors(level: Tensor) -> Factors:
        total = torch.sqrt(level**2 + data_std**2)
        return Factors(1 / total, torch.log(level) / 4, data_std**2 / total**2, level * data_std / total)

    return Preconditioning(f"karras {data_std:g}", factors)


def consistency(data_std: float = 0.5, lowest: float = 0.002) -> Preconditioning:
    """Karras et al.'s, moved so that at the lowest level the clean sample is x itself (Song et al., 2023)."""

    def factors(level: Tensor) -> Factors:
        total, above = torch.sqrt(level**2 + data_std**2), level - lowest
        skip = data_std**2 / (above**2 + data_std**2)
        return Factors(1 / total, torch.log(level) / 4, skip, data_std * above / total)

    return Preconditioning(f"consistency {data_std:g}", factors)


def epsilon(schedule: Schedule) -> Preconditioning:
    """A network that predicts the noise e."""

    def factors(level: Tensor) -> Factors:
        return Factors(schedule.signal_at(level), schedule.time(level), torch.ones_like(level), -level)

    return Preconditioning(f"epsilon on {schedule.name}", factors)


def clean_sample(schedule: Schedule) -> Preconditioning:
    """A network that predicts the clean sample x0."""

    def factors(level: Tensor) -> Factors:
        one = torch.ones_like(level)
        return Factors(schedule.signal_at(level), schedule.time(level), torch.zeros_like(level), one)

    return Preconditioning(f"sample on {schedule.name}", factors)


def velocity(schedule: Schedule) -> Preconditioning:
    """A network that predicts v = signal e - noise x0, on a variance preserving schedule (Salimans and Ho, 2022)."""

    def factors(level: Tensor) -> Factors:
        signal = 1 / torch.sqrt(1 + level**2)
        return Factors(schedule.signal_at(level), schedule.time(level), signal**2, -level * signal)

    return Preconditioning(f"v_prediction on {schedule.name}", factors)


def flow(time_factor: float = 1.0) -> Preconditioning:
    """A network that predicts the flow e - x0; `time_factor` is that of its clock (1000 in most pipelines)."""

    def factors(level: Tensor) -> Factors:
        time = Flow().time(level)
        return Factors(1 - time, time * time_factor, 1 - time, -time)

    return Preconditioning("flow", factors)


def trig(data_std: float = 0.5) -> Preconditioning:
    """A network that predicts the trigonometric flow, on inputs of unit variance (Lu and Song, 2025)."""
    schedule = Trig(data_std)

    def factors(level: Tensor) -> Factors:
        time = schedule.time(level)
        cosine = torch.cos(time)
        return Factors(cosine / data_std, time, cosine**2, -data_std * torch.sin(time))

    return Preconditioning(f"trig {data_std:g}", factors)


_ON_SCHEDULES: Mapping[str, Callable[[Schedule], Preconditioning]] = {
    "epsilon": epsilon,
    "sample": clean_sample,
    "v_prediction": velocity,
}


def preconditioning_of(prediction: str, schedule: Schedule | None = None, data_std: float = 0.5) -> Preconditioning:
    """The preconditioning of a prediction type as pipelines name it.

    Args:
        prediction: epsilon, sample, v_prediction, flow_prediction, trig, consistency or karras.
        schedule: that of the first three.
        data_std: that of the last three.

    Raises:
        RecipeError: there is no such prediction.
    """
    if prediction in _ON_SCHEDULES:
        return _ON_SCHEDULES[prediction](schedule or Edm())
    others: Mapping[str, Callable[[], Preconditioning]] = {
        "flow_prediction": flow,
        "trig": lambda: trig(data_std),
        "consistency": lambda: consistency(data_std),
        "karras": lambda: karras(data_std),
    }
    if prediction not in others:
        known = ", ".join([*_ON_SCHEDULES, *others])
        raise RecipeError(f"a network that predicts '{prediction}' is not known; known: {known}")
    return others[prediction]()


def per_sample(factor: Tensor, x: Tensor) -> Tensor:
    """Factors (N,), or one (), with as many axes as samples (N, ...), in their dtype."""
    return factor.reshape(factor.shape + (1,) * (x.dim() - factor.dim())).to(x.dtype) if factor.dim() else factor
