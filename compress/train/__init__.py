"""The one training loop, and what it runs on."""

from compress.train.devices import make_fabric
from compress.train.loop import FitResult, Player, fit, schedule
from compress.train.settings import DeviceSettings, LoopSettings, OptimizerSettings

__all__ = [
    "DeviceSettings",
    "FitResult",
    "LoopSettings",
    "OptimizerSettings",
    "Player",
    "fit",
    "make_fabric",
    "schedule",
]
