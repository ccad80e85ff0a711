"""Architecture search: which widths, blocks, kernels and resolution; by trials, in a supernet, or as a ladder."""

from compress.search.elastic import same_channels, sort_channels
from compress.search.evolution import evolve, predictor
from compress.search.ladder import Ladder, ladder_loss
from compress.search.run import SearchPlan, front, label, search
from compress.search.space import Space, make_space
from compress.search.supernet import Supernet, sandwich_loss

__all__ = [
    "Ladder", "SearchPlan", "Space", "Supernet", "evolve", "front", "label", "ladder_loss", "make_space", "predictor",
    "same_channels", "sandwich_loss", "search", "sort_channels",
]  # fmt: skip
