"""Architecture search: which widths, and which blocks."""

from compress.search.run import SearchPlan, label, search
from compress.search.space import Space, make_space

__all__ = ["SearchPlan", "Space", "label", "make_space", "search"]
