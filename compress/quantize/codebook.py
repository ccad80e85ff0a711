"""Weights as points of a codebook that distillation learns: two methods with one quantizer.

From Polino, Pascanu & Alistarh 2018, "Model compression via distillation and quantization".

A weight is cut into buckets; in a bucket w = low + span * u with u in 0..1, and u goes to the nearest of s = 2^bits
points 0 = p_1 < ... < p_s = 1 (section 2.1). What a bucket can hold is then the table low + span * p, so that the
result is a palette with one table per bucket, and any format that stores palettes stores it.

Quantized distillation (QD) keeps the points even. The forward and backward passes run at the quantized weights, the
gradient moves the float ones, and the loss is that of distillation (algorithm 1; .7 T^2 KL + .3 CE with T = 2).
Differentiable quantization (DQ) freezes the weights and learns the points. A point's gradient is the sum over all
weights that stand on it of span * dL/dw (equation 8), exactly what differentiating the lookup gives; points are sorted
again after each step and begin at the quantiles of u (section 4).

Buckets are runs of whole output channels, `bucket` weights each or more, where the paper cuts the flat weight into runs
of 256: no format stores tables for parts of a channel.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from compress.errors import ModelError
from compress.quantize.fake_quant import FakeQuantLayer
from compress.quantize.learned_steps import adopted
from compress.quantize.network import quantized_layers
from compress.quantize.palette import from_table, table_indices

BUCKET = 256  # weights per table in the paper


def spread_evenly(prepared: fx.GraphModule, bucket: int = 0) -> list[str]:
    """Give every palette layer of a prepared network even points that follow its weight, in place (QD).

    Args:
        prepared: from `prepare` at a palette scheme.
        bucket: weights that share a table at least; 0: one table for the whole weight.

    Returns:
        The layers' paths.

    Raises:
        ModelError: no layer has a palette.
    """
    return _replace(prepared, bucket, EvenLayer)


def learn_points(prepared: fx.GraphModule, bucket: int = 0) -> list[str]:
    """Give every palette layer of a prepared network points to learn and freeze its weight and bias, in place (DQ).

    Takes and returns what `spread_evenly` does.
    """
    return _replace(prepared, bucket, PointsLayer)


def bucket_count(channels: int, weights: int, bucket: int) -> int:
    """How many equal runs of whole channels hold at least `bucket` weights each; 1 for `bucket` 0."""
    if not bucket:
        return 1
    fitting = [n for n in range(1, channels + 1) if channels % n == 0 and weights // n >= bucket]
    return max(fitting, default=1)


def bucket_ranges(weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The lowest value and the span of each bucket: two float32 tensors (count, 1)."""
    rows = weight.detach().float().reshape(count, -1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    return low, high - low


def even_points(bits: int) -> Tensor:
    """2^bits points from 0 to 1 at even distances, both ends included: float32 (points,)."""
    return torch.linspace(0.0, 1.0, 2**bits)


def quantile_points(weight: Tensor, count: int, bits: int) -> Tensor:
    """2^bits points at the quantiles of the weight scaled bucket by bucket to 0..1: float32 (points,), ascending."""
    low, span = bucket_ranges(weight, count)
    unit = (weight.detach().float().reshape(count, -1) - low) / span.clamp(min=torch.finfo(torch.float32).tiny)
    ordered = unit.flatten().sort().values
    places = torch.linspace(0, len(ordered) - 1, 2**bits, device=weight.device)
    return ordered[places.round().long()].clone()


class EvenLayer(FakeQuantLayer):
    """A palette layer whose tables run evenly from the lowest to the highest current weight of each bucket."""

    def start(self, bucket: int) -> None:
        """Choose the buckets."""
        del self._buffers["tables"]
        self.count = bucket_count(self.weight.shape[0], self.weight.numel(), bucket)

    @property
    def tables(self) -> Tensor:  # type: ignore[override]
        """The tables of the current weight: float32 (buckets, points)."""
        low, span = bucket_ranges(self.weight, self.count)
        return low + span * even_points(self.precision.weight_bits).to(low.device)

    def rounded(self) -> Tensor:
        """The weight at the nearest points; its gradient passes straight through to the float weight."""
        tables = self.tables
        nearest = from_table(table_indices(self.weight, tables), tables)
        return nearest + (self.weight - self.weight.detach())

    def fit_tables(self) -> None:
        """Nothing: the tables follow the weight."""


class PointsLayer(FakeQuantLayer):
    """A palette layer with a parameter `points` (points,), shared by its buckets, and a weight and bias that stand."""

    points: nn.Parameter
    low: Tensor
    span: Tensor

    def start(self, bucket: int) -> None:
        """Put the points at the weight's quantiles; the weight and the bias become buffers of the same name."""
        del self._buffers["tables"]
        count = bucket_count(self.weight.shape[0], self.weight.numel(), bucket)
        self.points = nn.Parameter(quantile_points(self.weight, count, self.precision.weight_bits))
        for name in ("weight", "bias"):
            value = self._parameters.pop(name)
            self.register_buffer(name, None if value is None else value.detach())
        low, span = bucket_ranges(self.weight, count)
        self.register_buffer("low", low)
        self.register_buffer("span", span)

    @property
    def tables(self) -> Tensor:  # type: ignore[override]
        """The tables that the points make, ascending: float32 (buckets, points)."""
        return self.low + self.span * self.points.sort().values

    def rounded(self) -> Tensor:
        """The weight at the nearest points; its gradient reaches the points."""
        tables = self.tables
        return from_table(table_indices(self.weight, tables.detach()), tables)

    def fit_tables(self) -> None:
        """Nothing: the points are learned."""


def _replace(prepared: fx.GraphModule, bucket: int, kind: type[EvenLayer] | type[PointsLayer]) -> list[str]:
    layers = {p: layer for p, layer in quantized_layers(prepared).items() if layer.precision.weights == "palette"}
    if not layers:
        raise ModelError("no layer of the network has a palette; even and learned points need palette4 or palette6")
    for path, layer in layers.items():
        made = adopted(layer, kind)
        made.start(bucket)
        prepared.set_submodule(path, made)
    return list(layers)
