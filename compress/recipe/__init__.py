"""A recipe: what to compress, for which target, inside which budget, in which steps. Checked once, at birth."""

from compress.recipe.reading import apply_override, load_recipe, make_recipe
from compress.recipe.sections import (
    FORMATS,
    STEPS,
    Budget,
    Distill,
    Entry,
    Export,
    Format,
    Mixed,
    OtherTarget,
    Profile,
    Prune,
    Quantize,
    Rewrite,
    Search,
    Section,
    Solver,
    Teacher,
    Train,
    Training,
    Verify,
)
from compress.recipe.whole import Recipe, Step, check_order

__all__ = [
    "FORMATS", "STEPS", "Budget", "Distill", "Entry", "Export", "Format", "Mixed", "OtherTarget", "Profile", "Prune",
    "Quantize", "Recipe", "Rewrite", "Search", "Section", "Solver", "Step", "Teacher", "Train", "Training", "Verify",
    "apply_override", "check_order", "load_recipe", "make_recipe",
]  # fmt: skip
