"""Where a training runs: one process here, or several through Lightning Fabric."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, FSDPStrategy, Strategy

from compress.train.settings import DeviceSettings

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed"}


def make_fabric(settings: DeviceSettings) -> Fabric:
    """A Fabric for these settings, ready to use in this process (already launched where it is one of several)."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    strategies: dict[str, str | Strategy] = {"auto": "auto", "ddp": DDPStrategy(), "fsdp": FSDPStrategy()}
    return Fabric(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=strategies[settings.strategy] if settings.devices > 1 else "auto",
        precision=_PRECISION[settings.precision],  # type: ignore[arg-type]
    )
