"""Where a training runs: one process here, or several through Lightning Fabric."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, FSDPStrategy, Strategy

from compress.train.settings import DeviceSettings, Precision

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed"}


def usable_precision(wanted: str, accelerator: str) -> Precision:
    """The precision that a recipe's `train.precision` means on this machine.

    `auto` is bf16 where the hardware multiplies it; a CPU that only emulates it is slower than with float32.
    """
    if wanted != "auto":
        return "bf16" if wanted == "bf16" else "32"
    if accelerator == "cuda" or (accelerator == "auto" and torch.cuda.is_available()):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    native = ("amx_bf16", "avx512_bf16", "bf16")  # x86 twice, Arm
    return "bf16" if accelerator != "mps" and any(map(torch.cpu.get_capabilities().get, native)) else "32"


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
