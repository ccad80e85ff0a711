"""The two modules of a fake-quantized network: one per layer, one per group of activation values.

Fake quantization computes in float32 what int8 inference will compute, rounding included; the gradient passes straight
through the rounding (Bengio et al., 2013) and is cut where a value leaves its range (Jacob et al., 2018).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from compress.errors import DataError, UnknownName
from compress.quantize.layers import channel_axis, fake_quantize_weight, functional_form, weight_scales
from compress.quantize.ranges import Ranges, affine_parameters, choose, histogram
from compress.quantize.schemes import Precision

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

    The scales follow the weight at every forward pass, so the plan always agrees with the weights. `enabled` is False
    while ranges are observed.
    """

    def __init__(self, layer: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.weight: nn.Parameter = layer.weight  # type: ignore[assignment]
        self.register_parameter("bias", layer.bias)  # type: ignore[arg-type]
        self.op, self.settings = functional_form(layer)
        self.axis = channel_axis(layer)
        self.weight_max = precision.weight_max
        self.enabled = True

    def scales(self) -> Tensor:
        """The scale of each channel of the current weight: float32 (channels,)."""
        return weight_scales(self.weight, self.axis, self.weight_max)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, computed with the rounded weight."""
        weight: Tensor = self.weight
        if self.enabled:
            weight = fake_quantize_weight(weight, self.scales(), self.axis, self.weight_max)
        result: Tensor = self.op(x, weight, self.bias, *self.settings)
        return result

    def extra_repr(self) -> str:
        """The op and its settings."""
        return f"{self.op}, {self.settings}, axis={self.axis}"


class ActivationFakeQuant(nn.Module):
    """One range shared by a group of values; called with the value and its slot (-1: it does not widen the range).

    Buffers, one entry per slot: `low` and `high`, the extremes seen (zero included), and `keep_low` and `keep_high`,
    which share of each the chosen range keeps. The group's range is the union of its slots' ranges.

    Args:
        slots: node names of the values that widen the range.
        precision: the scheme's integers.
        fixed: a range that the op's mathematics gives; it is never observed.
    """

    low: Tensor
    high: Tensor
    keep_low: Tensor
    keep_high: Tensor

    def __init__(self, slots: tuple[str, ...], precision: Precision, fixed: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.slots, self.fixed = slots, fixed
        self.qmin, self.qmax = precision.activation_min, precision.activation_max
        self.state: State = "observe"
        self.counts: list[Tensor] | None = None  # histograms, while the second calibration pass fills them
        low, high = fixed or (0.0, 0.0)
        self.register_buffer("low", torch.full((len(slots),), low))
        self.register_buffer("high", torch.full((len(slots),), high))
        self.register_buffer("keep_low", torch.ones(len(slots)))
        self.register_buffer("keep_high", torch.ones(len(slots)))

    def forward(self, x: Tensor, slot: int) -> Tensor:
        """The value rounded to its integers (as floats), or the value itself while ranges are observed."""
        if self.state == "observe":
            self._observe(x, slot)
            return x
        if self.state == "train" and self.training:
            self._follow(x, slot)
        scale, zero_point = self.parameters_now()
        rounded = torch.fake_quantize_per_tensor_affine(x.float(), scale, zero_point, self.qmin, self.qmax)
        return rounded.to(x.dtype)

    def parameters_now(self) -> tuple[Tensor, Tensor]:
        """The group's scale (float32) and zero point (int32); two scalars."""
        low, high = (self.low * self.keep_low).amin(), (self.high * self.keep_high).amax()
        return affine_parameters(low, high, self.qmin, self.qmax)

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
