"""What the evaluator knows: each operation's function, and the words that its parameters may hold.

A function's parameters carry the operation's own names, so its signature says which of them are known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compress.runtimes.mil import codes, elementwise, indexing, norms, products, resizing, shapes, windows
from compress.runtimes.mil.values import WORDS

OPS: dict[str, Callable[..., Any]] = {
    **elementwise.OPS, **windows.OPS, **norms.OPS, **resizing.OPS, **products.OPS, **shapes.OPS, **indexing.OPS,
    **codes.OPS,
}  # fmt: skip

# Parameters that are always a list of tensors, even of one.
LISTS = ("values", "ref_tensors", "begins", "ends", "end_masks")

_SAMPLING = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")
_SCATTER = ("update", "add", "sub", "mul", "div", "max", "min")
_TYPES = tuple(WORDS)
# Parameter -> the words it may hold; "op.parameter" where a word means something else there.
CHOICES: dict[str, tuple[str, ...]] = {
    "pad_type": ("valid", "same", "same_lower", "custom"),
    "sampling_mode": _SAMPLING,
    "resample.sampling_mode": ("bilinear", "nearest"),
    "affine.sampling_mode": ("bilinear",),
    "padding_mode": ("constant", "border", "reflection", "symmetric"),
    "coordinates_mode": ("unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"),
    "affine.coordinates_mode": ("normalized_minus_one_to_one",),
    "interpolation_mode": ("LINEAR",),  # how NEAREST_NEIGHBOR rounds between two pixels is not documented
    "gelu.mode": ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"),
    "pad.mode": ("constant", "reflect", "replicate"),
    **{f"{name}.mode": _SCATTER for name in ("scatter", "scatter_along_axis", "scatter_nd")},
    "quantize.output_dtype": ("int8", "uint8"),
    "dtype": _TYPES, "output_dtype": _TYPES, "output_indices_dtype": _TYPES,
}  # fmt: skip


def is_known(op: str, parameter: str, word: str) -> bool:
    """Whether a parameter of an op may hold this word; an equation may hold any."""
    choices = CHOICES.get(f"{op}.{parameter}", CHOICES.get(parameter))
    return parameter == "equation" if choices is None else word in choices
