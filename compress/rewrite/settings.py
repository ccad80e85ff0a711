"""What is to be rewritten: one choice for each pass, and the thresholds that say where a pass is worth it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from compress.errors import RecipeError, UnknownName

CHOICES: dict[str, tuple[str, ...]] = {
    "norms": ("keep", "fold"),
    "aggregate": ("keep", "accumulate", "thin"),
    "upsample": ("keep", "resize", "pixel_shuffle"),
    "separable": ("keep", "all", "large"),
    "attention": ("keep", "relu", "drop"),
    "keys": ("keep", "share"),
    "activations": ("keep", "silu"),
    "separable_form": ("depthwise", "pair"),
    "thin_reads": ("last", "input_and_last"),
}
"""Key -> what it may say."""
PASSES = ("norms", "aggregate", "upsample", "separable", "keys", "attention", "activations")
"""The passes in the order they run: each sees what the ones before it made."""


@dataclass(frozen=True)
class RewriteSettings:
    """One choice for each pass; the default rewrites nothing.

    `sites` maps a pass to the places it may touch (layer paths; for norms the names of their nodes); a pass that is not
    in it takes every place that fits.
    """

    upsample: Literal["keep", "resize", "pixel_shuffle"] = "keep"
    separable: Literal["keep", "all", "large"] = "keep"
    aggregate: Literal["keep", "accumulate", "thin"] = "keep"
    norms: Literal["keep", "fold"] = "keep"
    attention: Literal["keep", "relu", "drop"] = "keep"
    keys: Literal["keep", "share"] = "keep"
    activations: Literal["keep", "silu"] = "keep"
    longest: int = 1024  # keys up to which attention: drop leaves an attention in
    separable_form: Literal["depthwise", "pair"] = "depthwise"
    rank: int = 1  # depthwise maps for each input channel
    min_channels: int = 16  # a layer with fewer on either side is not split into depthwise and pointwise
    large_kernel: int = 5  # the shorter side from which "large" counts a kernel
    pair_energy: float = 0.95  # the share of a kernel's squared norm that its pair keeps
    thin_reads: Literal["last", "input_and_last"] = "input_and_last"
    norm_error: float = 0.1  # the largest error of a fixed norm, relative to the spread of what the norm gives
    sites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            RecipeError: names the key and what it may be.
        """
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise RecipeError(f"rewrite.{key}: '{getattr(self, key)}' is none of {', '.join(allowed)}")
        for key, least in (("rank", 1), ("min_channels", 1), ("large_kernel", 3), ("longest", 1)):
            value = getattr(self, key)
            if not isinstance(value, int) or value < least:
                raise RecipeError(f"rewrite.{key}: {value!r} is no whole number from {least} on")
        if not isinstance(self.pair_energy, (int, float)) or not 0 < self.pair_energy <= 1:
            raise RecipeError(f"rewrite.pair_energy: {self.pair_energy!r} is no share between 0 and 1")
        if not isinstance(self.norm_error, (int, float)) or not self.norm_error > 0:
            raise RecipeError(f"rewrite.norm_error: {self.norm_error!r} is no number above 0")
        for key in self.sites:
            if key not in PASSES:
                raise UnknownName("rewrite pass", key, PASSES)


def settings_from(record: Mapping[str, Any]) -> RewriteSettings:
    """The settings out of a recipe's section: a choice for each pass, and `options` for all else.

    Raises:
        UnknownName: an option that there is not.
        RecipeError: a value that means nothing.
    """
    options = dict(record.get("options", {}))
    known = [key for key in RewriteSettings.__dataclass_fields__ if key not in PASSES]
    for key in options:
        if key not in known:
            raise UnknownName("option of rewrite", key, known)
    sites = {name: tuple(places) for name, places in dict(options.pop("sites", {})).items()}
    return RewriteSettings(**{name: record[name] for name in PASSES if name in record}, **options, sites=sites)
