"""Adversarial training, part by part: losses, penalties, discriminators, augmentation, and `Adversary` of them all."""

from compress.adversarial.adversary import Adversary, Turn, frozen, make_adversary
from compress.adversarial.augment import OPERATIONS, Augment
from compress.adversarial.controller import SignController
from compress.adversarial.discriminators import DISCRIMINATORS, Condition, Discriminator, build
from compress.adversarial.entropy import ReplayEntropy
from compress.adversarial.last_layer import SlicedHead, slice_heads
from compress.adversarial.losses import LOSSES, Loss
from compress.adversarial.noise import DiffusionNoise
from compress.adversarial.regularizers import PENALTIES, Regularizer, clip_weights
from compress.adversarial.settings import AdversarySettings

__all__ = [
    "DISCRIMINATORS",
    "LOSSES",
    "OPERATIONS",
    "PENALTIES",
    "Adversary",
    "AdversarySettings",
    "Augment",
    "Condition",
    "DiffusionNoise",
    "Discriminator",
    "Loss",
    "Regularizer",
    "ReplayEntropy",
    "SignController",
    "SlicedHead",
    "Turn",
    "build",
    "clip_weights",
    "frozen",
    "make_adversary",
    "slice_heads",
]
