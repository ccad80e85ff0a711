"""Distillation: what the student imitates. One method, one file."""

from typing import Any

from compress.distill.base import Distiller, Learner, Settings, kl_divergence
from compress.distill.diffusion import METHODS as DIFFUSION_METHODS
from compress.distill.generator import METHODS as GENERATOR_METHODS
from compress.distill.hint import Hint
from compress.distill.logit import Logit
from compress.distill.orthogonal import Orthogonal

METHODS: dict[str, Any] = {
    "logit": Logit,
    "hint": Hint,
    "orthogonal": Orthogonal,
    **GENERATOR_METHODS,
    **DIFFUSION_METHODS,
}

__all__ = ["METHODS", "Distiller", "Hint", "Learner", "Logit", "Orthogonal", "Settings", "kl_divergence"]
