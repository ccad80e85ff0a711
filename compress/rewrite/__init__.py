"""The same model in ops that phones run better: exact rewrites, and approximate ones that training heals.

    plan = rewrite.plan(model, RewriteSettings(upsample="pixel_shuffle"), example_inputs)
    rewritten = rewrite.apply(model, plan, example_inputs)

The passes, in the order they run, each on what came before:

    norms       fold                            instance norms become fixed scales where the data allow it
    aggregate   accumulate (exact) | thin       dense connections keep fewer feature maps alive
    upsample    pixel_shuffle (exact) | resize  transposed convolutions become plain ones
    separable   all | large                     k x k convolutions become two thinner ones
    keys        share                           attention takes its values for keys: one projection less
    attention   relu | drop                     no softmax; no attention over more keys than `longest`
    activations silu                            GELU becomes SiLU

`tiled` is a rewrite of the outside: the picture goes through the model piece by piece.
"""

from compress.rewrite.receptive import ReceptiveField, receptive_field
from compress.rewrite.rewrite_plan import RewritePlan, SiteRewrite
from compress.rewrite.run import apply, plan
from compress.rewrite.settings import RewriteSettings, settings_from
from compress.rewrite.tiling import TilePlan, tile_plan, tiled

__all__ = [
    "ReceptiveField",
    "RewritePlan",
    "RewriteSettings",
    "SiteRewrite",
    "TilePlan",
    "apply",
    "plan",
    "receptive_field",
    "settings_from",
    "tile_plan",
    "tiled",
]
