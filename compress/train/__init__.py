"""The one training loop, and what it runs on."""

from compress.train.devices import make_fabric, usable_precision
from compress.train.loop import fit, schedule
from compress.train.players import FitResult, Guard, Order, Player
from compress.train.settings import DeviceSettings, LoopSettings, OptimizerSettings

__all__ = [
    "DeviceSettings",
    "FitResult",
    "Guard",
    "LoopSettings",
    "OptimizerSettings",
    "Order",
    "Player",
    "fit",
    "make_fabric",
    "schedule",
    "usable_precision",
]
