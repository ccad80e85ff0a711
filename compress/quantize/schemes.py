"""The integers of each scheme: weights per channel and symmetric, activations per tensor and asymmetric."""

from __future__ import annotations

from dataclasses import dataclass

from compress.errors import UnknownName


@dataclass(frozen=True, slots=True)
class Precision:
    """How many bits weights and activations have; both are stored as int8."""

    name: str
    weight_bits: int
    activation_bits: int

    @property
    def weight_max(self) -> int:
        """The largest weight integer; the smallest is its negative, so that zero is exact (127 at 8 bits)."""
        return int(2 ** (self.weight_bits - 1)) - 1

    @property
    def activation_min(self) -> int:
        """The smallest activation integer (-128 at 8 bits)."""
        return -int(2 ** (self.activation_bits - 1))

    @property
    def activation_max(self) -> int:
        """The largest activation integer (127 at 8 bits)."""
        return int(2 ** (self.activation_bits - 1)) - 1


_SCHEMES = {
    "w8a8": Precision("w8a8", 8, 8),
    "w4a8": Precision("w4a8", 4, 8),
}


def precision(scheme: str) -> Precision:
    """The integers of a scheme; raises UnknownName where there is no such scheme."""
    if scheme not in _SCHEMES:
        raise UnknownName("scheme", scheme, _SCHEMES)
    return _SCHEMES[scheme]
