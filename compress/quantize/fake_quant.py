"""The two modules of a fake-quantized network: one per layer, one per group of activation values.

Fake quantization computes in float32 what int8 inference will compute, rounding included; the gradient passes straight
through the rounding (Bengio et al., 2013) and is cut where a value leaves its range (Jacob et al., 2018).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from compress.errors import DataError, UnknownName
from compress.quantize.layers import (
    channel_axis,
    channels_per_scale,
    fake_quantize_weight,
    functional_form,
    group_size,
    weight_scales,
)
from compress.quantize.palette import fit_table, from_table, table_indices
from compress.quantize.ranges import Ranges, affine_parameters, choose, histogram
from compress.quantize.schemes import Precision, activation_bounds

State = Literal["observe", "train", "frozen"]

# Weight of the newest batch in the moving range. Ten times torch's 0.01: here training after quantization takes some
# hundred steps, and a range that lags behind growing values cuts their gradients off (with 0.01 the loss of twenty SGD
# steps fell 0.36 where it fell 0.84 in float).
_NEWEST = 0.1


def checked_state(state: str) -> State:
    """The name of a state; raises UnknownName where there is none such."""
    if state not in get_args(State):
        raise UnknownName("state", state, get_args(State))
    return state  # type: ignore[return-value]


class FakeQuantLayer(nn.Module):
    """A convolution or linear layer that computes with its rounded weight; parameters keep their names and stay float.

    The scales follow the weight at every forward pass, so the plan always agrees with the weights; the table of a
    palette is a buffer, `tables` (1, entries), fitted when the layer is made and by `fit_tables`. `enabled` is False
    while ranges are observed.
    """

    tables: Tensor

    def __init__(self, layer: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.weight: nn.Parameter = layer.weight  # type: ignore[assignment]
        self.register_parameter("bias", layer.bias)  # type: ignore[arg-type]
        self.op, self.settings = functional_form(layer)
        self.precision, self.group = precision, group_size(layer, precision)
        self.axis = 1 if self.group else channel_axis(layer)
        self.shared = channels_per_scale(layer)
        self.weight_max = precision.weight_max
        self.enabled = True
        if precision.weights == "palette":
            self.register_buffer("tables", fit_table(self.weight, 2**precision.weight_bits)[None])

    def scales(self) -> Tensor:
        """The scale of each channel or group of the current weight: float32 (channels,) or (groups,)."""
        return weight_scales(self.weight, self.axis, self.weight_max, self.group, self.shared)

    def fit_tables(self) -> None:
        """Fit a palette's table to the current weight, in place; nothing where the layer has none."""
        if self.precision.weights == "palette":
            self.tables.copy_(fit_table(self.weight, self.tables.shape[1])[None])

    def rounded(self) -> Tensor:
        """The weight as its stored form will hold it, float32; gradients pass straight through the rounding."""
        if self.precision.weights == "float":
            if self.precision.weight_bits == 32:
                return self.weight
            nearest = self.weight.detach().half().float()
            return nearest + (self.weight - self.weight.detach())  # the second term is zero: it carries the gradient
        if self.precision.weights == "palette":
            nearest = from_table(table_indices(self.weight, self.tables), self.tables)
            return nearest + (self.weight - self.weight.detach())
        return fake_quantize_weight(self.weight, self.scales(), self.axis, self.weight_max, self.group)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, computed with the rounded weight."""
        weight: Tensor = self.rounded() if self.enabled else self.weight
        result: Tensor = self.op(x, weight, self.bias, *self.settings)
        return result

    def extra_repr(self) -> str:
        """The op, its settings and its scheme."""
        return f"{self.op}, {self.settings}, {self.precision.name}, axis={self.axis}"


class ActivationFakeQuant(nn.Module):
    """One range shared by a group of values; called with the value and its slot (-1: it does not widen the range).

    Buffers, one entry per slot: `low` and `high`, the extremes seen (zero included), and `keep_low` and `keep_high`,
    which share of each the chosen range keeps. The group's range is the union of its slots' ranges. A call may name
    other bits than the group's own: a reader that computes at those rounds the value once more, in the same range.

    Args:
        slots: node names of the values that widen the range.
        bits: how many bits the group's values have.
        fixed: a range that the op's mathematics gives; it is never observed.
    """

    low: Tensor
    high: Tensor
    keep_low: Tensor
    keep_high: Tensor

    def __init__(self, slots: tuple[str, ...], bits: int, fixed: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.slots, self.bits, self.fixed = slots, bits, fixed
        self.qmin, self.qmax = activation_bounds(bits)
        self.state: State = "observe"
        self.counts: list[Tensor] | None = None  # histograms, while the second calibration pass fills them
        low, high = fixed or (0.0, 0.0)
        self.register_buffer("low", torch.full((len(slots),), low))
        self.register_buffer("high", torch.full((len(slots),), high))
        self.register_buffer("keep_low", torch.ones(len(slots)))
        self.register_buffer("keep_high", torch.ones(len(slots)))

    def forward(self, x: Tensor, slot: int, bits: int = 0) -> Tensor:
        """The value rounded to its integers (as floats), or the value itself while ranges are observed."""
        if self.state == "observe":
            self._observe(x, slot)
            return x
        if self.state == "train" and self.training:
            self._follow(x, slot)
        scale, zero_point = self.parameters_now(bits)
        rounded = torch.fake_quantize_per_tensor_affine(
            x.float(), scale, zero_point, *activation_bounds(bits or self.bits)
        )
        return rounded.to(x.dtype)

    def parameters_now(self, bits: int = 0) -> tuple[Tensor, Tensor]:
        """The scale (float32) and zero point (int32) at `bits`, by default the group's own; two scalars."""
        bits = bits or self.bits
        low, high = (self.low * self.keep_low).amin(), (self.high * self.keep_high).amax()
        if bits == 16:  # symmetric: the 16-bit kernels have no zero point
            high = torch.maximum(-low, high)
            high = torch.where(high > 0, high, torch.ones_like(high))
            low = -high
        return affine_parameters(low, high, *activation_bounds(bits))

    def reset(self) -> None:
        """Forget what was seen; a fixed range stays."""
        if self.fixed is None:
            self.low.zero_()
            self.high.zero_()
        self.keep_low.fill_(1.0)
        self.keep_high.fill_(1.0)
        self.counts = None

    def start_counting(self) -> None:
        """Fill histograms from now on, between the extremes seen so far."""
        self.counts = [torch.zeros_like(histogram(edge, edge, edge)) for edge in self.low]

    def settle(self, ranges: Ranges) -> None:
        """Choose what share of the extremes to keep, from the histograms, and drop these."""
        for slot, counts in enumerate(self.counts or ()):
            low, high = self.low[slot], self.high[slot]
            if self.fixed is None:
                kept_low, kept_high = choose(ranges, low, high, counts, self.qmin, self.qmax)
                self.keep_low[slot] = kept_low / low if low < 0 else 1.0
                self.keep_high[slot] = kept_high / high if high > 0 else 1.0
        self.counts = None

    def _observe(self, x: Tensor, slot: int) -> None:
        if slot < 0 or self.fixed is not None:
            return
        if self.counts is not None:
            self.counts[slot] += histogram(x, self.low[slot], self.high[slot])
            return
        low, high = torch.aminmax(x.detach().float())
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise DataError(
                f"calibration met NaN or infinite values at {self.slots[slot]}; "
                "check the calibration data and the model's weights"
            )
        self.low[slot] = torch.minimum(self.low[slot], low)
        self.high[slot] = torch.maximum(self.high[slot], high)

    def _follow(self, x: Tensor, slot: int) -> None:
        """Move the extremes a little towards those of this batch."""
        if slot < 0 or self.fixed is not None:
            return
        low, high = torch.aminmax(x.detach().float())
        self.low[slot] += _NEWEST * (low.clamp(max=0.0) - self.low[slot])
        self.high[slot] += _NEWEST * (high.clamp(min=0.0) - self.high[slot])

    def extra_repr(self) -> str:
        """The values in the group."""
        fixed: Any = f", fixed={self.fixed}" if self.fixed else ""
        return f"{', '.join(self.slots)}{fixed}"
