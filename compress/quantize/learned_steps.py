"""Learned step sizes: the scale of every weight and value is a parameter that training moves with the weights.

For a value v, its step s and integers Qn..Qp, v^ = round(clip(v / s, Qn, Qp)) s, and the gradient takes rounding for
the identity, which leaves (Esser et al., Learned Step Size Quantization, 2020, equation 3)

    dv^/ds = round(v / s) - v / s   inside the range,   Qn or Qp outside;

times 1 / sqrt(n Qp), n the number of values that share the step, so that steps move about as fast as weights do
(section 2.2). The paper's integers start at zero; here an asymmetric value keeps the zero point that calibration gave
it, which shifts Qn and Qp (Bhalgat et al., LSQ+, 2020, without its learned offset).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, fx, nn

from compress.quantize.fake_quant import ActivationFakeQuant, FakeQuantLayer
from compress.quantize.layers import PER_TENSOR, fake_quantize_weight
from compress.quantize.network import fake_quants, quantized_layers
from compress.quantize.ranges import affine_parameters
from compress.quantize.schemes import activation_bounds

_TINY = torch.finfo(torch.float32).tiny
_SMALLEST_STEP = 2.0**-10  # of the layer's largest step, for the reason that layers.weight_scales gives
Kind = TypeVar("Kind", bound=nn.Module)


def learn_steps(prepared: fx.GraphModule) -> list[str]:
    """Give every integer layer and every observed range of a calibrated network a step to learn, in place.

    Ranges that an op's mathematics fixes stay. Returns the paths of the layers. The network is then trained, frozen and
    applied as any other; `freeze` reads the steps as they stand.
    """
    paths = []
    for path, layer in quantized_layers(prepared).items():
        if layer.precision.weights == "integer":
            learned = adopted(layer, StepLayer)
            learned.start()
            prepared.set_submodule(path, learned)
            paths.append(path)
    for path, module in list(prepared.named_modules()):
        if module in fake_quants(prepared).values() and isinstance(module, ActivationFakeQuant) and not module.fixed:
            follower = adopted(module, StepActivation)
            follower.start()
            prepared.set_submodule(path, follower)
    return paths


def lsq(x: Tensor, step: Tensor, qmin: float, qmax: float, gradient_scale: float) -> Tensor:
    """The values rounded to whole steps inside qmin..qmax, with the published gradients; `step` broadcasts to them."""
    step = step * gradient_scale + (step - step * gradient_scale).detach()
    ratio = (x / step).clamp(qmin, qmax)
    return (ratio + (ratio.round() - ratio).detach()) * step


def first_steps(rows: Tensor, weight_max: int) -> Tensor:
    """Where the steps of a weight begin: 2 mean|w| / sqrt(Qp), at most max|w| / Qp; float32 (rows,).

    The first is the paper's, made for few bits; at 8 bits it is several times coarser than covering everything.
    """
    magnitudes = rows.detach().abs().float()
    return torch.minimum(2.0 * magnitudes.mean(1) / weight_max**0.5, magnitudes.amax(1) / weight_max)


class StepLayer(FakeQuantLayer):
    """A fake-quant layer whose scales are the parameter `step`: one per channel, per group, or one in all.

    Channels that share a scale (transposed convolutions with groups) share one step.
    """

    step: nn.Parameter

    def start(self) -> None:
        """Set the steps from the current weight."""
        self.step = nn.Parameter(first_steps(self._rows(self.weight), self.weight_max).clamp(min=_TINY))

    def scales(self) -> Tensor:
        """The steps as positive scales, held off zero: float32 (channels,), (groups,) or (1,)."""
        return self._row_scales().repeat_interleave(self.shared)

    def rounded(self) -> Tensor:
        """The rounded weight; the gradient reaches the weight and the steps."""
        exact = fake_quantize_weight(self.weight, self.scales(), self.axis, self.weight_max, self.group).detach()
        rows = self._rows(self.weight)
        step = (self.step + (self._row_scales() - self.step).detach())[:, None]
        gradient_scale = (rows.shape[1] * self.weight_max) ** -0.5
        flow = self._shaped(lsq(rows, step, -self.weight_max, self.weight_max, gradient_scale))
        return exact + (flow - flow.detach())  # the value of the integers to the bit, the gradient of the formula

    def _row_scales(self) -> Tensor:
        """The steps as positive scales, held off zero: float32 (rows,)."""
        step = self.step.detach().abs()
        step = step.clamp(min=max(float(step.amax()) * _SMALLEST_STEP, _TINY))
        return step.bfloat16().float() if self.group else step  # for the reason that layers.weight_scales gives

    def _rows(self, weight: Tensor) -> Tensor:
        """The weight with one row for each step."""
        if self.group:
            return weight.reshape(-1, self.group)
        if self.axis == PER_TENSOR:
            return weight.reshape(1, -1)
        return weight.movedim(self.axis, 0).reshape(weight.shape[self.axis] // self.shared, -1)

    def _shaped(self, rows: Tensor) -> Tensor:
        """The rows back in the weight's shape."""
        if self.group or self.axis == PER_TENSOR:
            return rows.reshape(self.weight.shape)
        moved = self.weight.movedim(self.axis, 0).shape
        return rows.reshape(moved).movedim(0, self.axis)


class StepActivation(ActivationFakeQuant):
    """A fake-quant module whose scale is the parameter `step` (scalar) and whose zero point stands."""

    step: nn.Parameter
    zero_point: Tensor

    def start(self) -> None:
        """Set the step and the zero point from the range that calibration chose."""
        scale, zero_point = ActivationFakeQuant.parameters_now(self)
        self.step = nn.Parameter(scale.detach().clone())
        self.register_buffer("zero_point", zero_point)

    def parameters_now(self, bits: int = 0) -> tuple[Tensor, Tensor]:
        """The scale (float32) and zero point (int32) at `bits`, by default the group's own; two scalars."""
        scale = self.step.detach().abs().clamp(min=_TINY)
        if bits in (0, self.bits):
            return scale, self.zero_point
        low, high = (self.qmin - self.zero_point) * scale, (self.qmax - self.zero_point) * scale
        if bits == 16:
            high = torch.maximum(-low, high)
            low = -high
        return affine_parameters(low, high, *activation_bounds(bits))

    def forward(self, x: Tensor, slot: int, bits: int = 0) -> Tensor:
        """The rounded value; in the state "train" the gradient reaches the value and the step."""
        if self.state != "train" or not torch.is_grad_enabled():
            return super().forward(x, slot, bits)
        exact = super().forward(x.detach(), slot, bits)
        scale, zero_point = self.parameters_now(bits)
        ratio = scale / self.step.detach().abs().clamp(min=_TINY)
        step = self.step * ratio + (scale - self.step * ratio).detach()
        qmin, qmax = (float(bound - zero_point) for bound in activation_bounds(bits or self.bits))
        features = x[0].numel()
        flow = lsq(x.float(), step, qmin, qmax, (features * max(qmax, -qmin)) ** -0.5).to(x.dtype)
        return exact + (flow - flow.detach())

    def _follow(self, x: Tensor, slot: int) -> None:
        """Nothing: the step is learned."""


def adopted(module: nn.Module, kind: type[Kind]) -> Kind:
    """The module as one of a kind derived from its own: same parameters, buffers and settings, other behaviour."""
    made = kind.__new__(kind)
    made.__dict__.update(module.__dict__)
    return made
