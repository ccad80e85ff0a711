"""The settings of one training: plain numbers, legal values checked by the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["32", "bf16"]
Strategy = Literal["auto", "ddp", "fsdp"]


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """How one player learns; `learning_rate` is the peak of the schedule."""

    kind: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    momentum: float = 0.9
    schedule: Literal["cosine", "constant"] = "cosine"
    warm_up_share: float = 0.05
    clip_norm: float = 5.0
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How long the loop runs and how often it saves; `batch_size` is the whole batch over all processes."""

    epochs: int
    batch_size: int
    seed: int = 0
    checkpoint_every_s: float = 30.0
    evaluate_every: int = 1
    keep: Literal["best", "last"] = "last"
    ema_decay: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """What the loop runs on, handed to Lightning Fabric."""

    devices: int = 1
    strategy: Strategy = "auto"
    precision: Precision = "32"
    accelerator: str = "cpu"
    threads: int = 0
