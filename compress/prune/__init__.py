"""Structured pruning: which channels go, as much as the budget asks for and no more."""

from compress.prune.importance import IMPORTANCES, Importance
from compress.prune.plan import PrunePlan, describe, plan_budget, plan_ratio
from compress.prune.refit import refit

__all__ = ["IMPORTANCES", "Importance", "PrunePlan", "describe", "plan_budget", "plan_ratio", "refit"]
