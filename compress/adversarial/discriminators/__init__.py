"""Discriminators by name, and `build`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from compress.adversarial.discriminators.base import Condition, Discriminator
from compress.adversarial.discriminators.patch import Patch
from compress.adversarial.discriminators.projected import Projected
from compress.adversarial.discriminators.r3gan import R3GAN
from compress.adversarial.discriminators.waveform import Dilated, HiFi, MultiPeriod, MultiScale
from compress.errors import RecipeError, UnknownName

DISCRIMINATORS: dict[str, Callable[..., Discriminator]] = {
    "patch": Patch,
    "r3gan": R3GAN,
    "projected": Projected,
    "multi_period": MultiPeriod,
    "multi_scale": MultiScale,
    "hifi": HiFi,
    "dilated": Dilated,
}
# What each takes beside channels, width, classes and timed.
_TAKES: Mapping[str, set[str]] = {
    "patch": {"size", "depth", "spectral"},
    "r3gan": {"size", "depth"},
    "projected": {"size", "extractor"},
}


def build(
    name: str,
    in_channels: int,
    size: int,
    width: int,
    depth: int | None = None,
    spectral: bool = False,
    classes: int = 0,
    timed: bool = False,
    extractor: nn.Module | None = None,
) -> Discriminator:
    """A new discriminator, its weights drawn from the global random state.

    Args:
        name: one of DISCRIMINATORS.
        in_channels: channels of the samples (with those of a condition that the caller concatenates to both sides).
        size: side of the images in pixels; discriminators of sound do not read it.
        width: channels of the first layer.
        depth: halvings (patch) or blocks per resolution (r3gan); None for the paper's.
        spectral: spectral norm on every layer (patch).
        classes: number of classes to condition on, 0 for none.
        timed: whether to condition on the number of noise steps.
        extractor: the frozen network of a projected discriminator.

    Raises:
        UnknownName: no such discriminator.
        RecipeError: an argument that this discriminator does not take, or a missing extractor.
    """
    if name not in DISCRIMINATORS:
        raise UnknownName("discriminator", name, DISCRIMINATORS)
    takes = _TAKES.get(name, set())
    given = {"depth": depth, "spectral": spectral or None, "extractor": extractor}
    for key, value in given.items():
        if value is not None and key not in takes:
            raise RecipeError(f"adversary.{key} means nothing to the discriminator '{name}'; leave it out")
    if "extractor" in takes and extractor is None:
        raise RecipeError(f"the discriminator '{name}' judges the features of a frozen network; give an extractor")
    options = {key: value for key, value in {"size": size, **given}.items() if key in takes and value is not None}
    return DISCRIMINATORS[name](in_channels=in_channels, width=width, classes=classes, timed=timed, **options)


__all__ = ["DISCRIMINATORS", "Condition", "Discriminator", "build"]
