"""Distillation: what the student imitates. One method, one file."""

from compress.distill.base import Distiller, Learner, Settings, kl_divergence
from compress.distill.hint import Hint
from compress.distill.logit import Logit
from compress.distill.orthogonal import Orthogonal

METHODS = {"logit": Logit, "hint": Hint, "orthogonal": Orthogonal}

__all__ = ["METHODS", "Distiller", "Hint", "Learner", "Logit", "Orthogonal", "Settings", "kl_divergence"]
