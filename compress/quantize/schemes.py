"""What each scheme stores: how a layer's weight is kept, and on how many bits the values between the layers lie.

    scheme     weights                                                    activations
    float32    float32                                                    float32
    float16    float16                                                    float32 (float16 where the runtime prefers it)
    w8a8       8-bit integers, one scale per channel, symmetric           8 bits, one range per value, asymmetric
    w8a16      8-bit integers, one scale per channel, symmetric           16 bits, one range per value, symmetric
    w4a8       4-bit integers, one scale per channel, symmetric           8 bits, one range per value, asymmetric
    w4         4-bit integers; linear layers in groups of 32 inputs       float32
    palette4   a table of 16 values per weight (Core ML)                  float32
    palette6   a table of 64 values per weight (Core ML)                  float32

16-bit activations are symmetric because LiteRT's 16x8 kernels take no other; groups of 32 are the smallest that LiteRT
and XNNPACK take. All integers are stored in a wider type until a file is written: int8 weights, int8 or int16 values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compress.errors import UnknownName

GROUP = (
    32  # inputs of a linear layer that share a scale at 4 bits (XNNPACK: a multiple of 32; LiteRT: 32, 64, 128, 256)
)


@dataclass(frozen=True, slots=True)
class Precision:
    """How a layer's weight is kept and how many bits its values have; `activation_bits` 0 means they stay float."""

    name: str
    weight_bits: int
    activation_bits: int
    weights: Literal["integer", "float", "palette"] = "integer"
    group: int = 0

    @property
    def weight_max(self) -> int:
        """The largest weight integer; the smallest is its negative, so that zero is exact (127 at 8 bits)."""
        return int(2 ** (self.weight_bits - 1)) - 1

    @property
    def activation_min(self) -> int:
        """The smallest activation integer (-128 at 8 bits, -32767 at 16)."""
        return activation_bounds(self.activation_bits)[0]

    @property
    def activation_max(self) -> int:
        """The largest activation integer (127 at 8 bits, 32767 at 16)."""
        return activation_bounds(self.activation_bits)[1]


def activation_bounds(bits: int) -> tuple[int, int]:
    """The smallest and largest activation integer; symmetric around zero at 16 bits."""
    top = int(2 ** (bits - 1)) - 1
    return (-top, top) if bits == 16 else (-top - 1, top)


_SCHEMES = {
    "float32": Precision("float32", 32, 0, "float"),
    "float16": Precision("float16", 16, 0, "float"),
    "w8a8": Precision("w8a8", 8, 8),
    "w8a16": Precision("w8a16", 8, 16),
    "w4a8": Precision("w4a8", 4, 8),
    "w4": Precision("w4", 4, 0, group=GROUP),
    "palette4": Precision("palette4", 4, 0, "palette"),
    "palette6": Precision("palette6", 6, 0, "palette"),
}


def precision(scheme: str) -> Precision:
    """What a scheme stores; raises UnknownName where there is no such scheme."""
    if scheme not in _SCHEMES:
        raise UnknownName("scheme", scheme, _SCHEMES)
    return _SCHEMES[scheme]
