"""Where a training runs: one process here, or several through Lightning Fabric."""

from __future__ import annotations

import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, FSDPStrategy

from compress.train.settings import DeviceSettings

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed"}


def make_fabric(settings: DeviceSettings) -> Fabric:
    """A Fabric for these settings, ready to use in this process (already launched where it is one of several)."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    strategy = (
        {"auto": "auto", "ddp": DDPStrategy(), "fsdp": FSDPStrategy()}[settings.strategy]
        if (settings.devices > 1)
        else "auto"
    )
    return Fabric(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=strategy,
        precision=_PRECISION[settings.precision],  # type: ignore[arg-type]
    )


def is_worker() -> bool:
    """Whether this process is one of several that share a training."""
    return "LOCAL_RANK" in os.environ
