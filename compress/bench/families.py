"""The families of the bench and their cases."""

from __future__ import annotations

from compress.bench import diffusion, generator
from compress.bench.case import Case

FAMILIES: dict[str, tuple[Case, ...]] = {
    "generator": generator.CASES,
    "diffusion": diffusion.CASES,
}
