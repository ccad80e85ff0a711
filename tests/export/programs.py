"""Small programs for the exporters, float and quantized by hand: no quantizer takes part in these tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn
from torch.export import ExportedProgram, export
from torch.fx import GraphModule, Interpreter, Node

# Importing torch.ao.quantization.fx._decomposed is what registers these.
ops = torch.ops.quantized_decomposed
WEIGHTED = ("conv2d", "linear")
ACTIVATIONS = ("relu", "hardtanh")
RANGED = (*WEIGHTED, *ACTIVATIONS, "add", "cat", "adaptive_avg_pool2d", "max_pool2d", "avg_pool2d", "flatten", "x",
          "upsample_nearest2d", "upsample_bilinear2d")  # fmt: skip
# Ops whose int8 kernels keep their input's scale everywhere; a quantizer gives both sides the same one.
SHARED = ("max_pool2d", "flatten", "avg_pool2d", "adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d")


class Residual(nn.Module):
    """x + pointwise(relu6(depthwise(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.act = nn.ReLU6()
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pointwise(self.act(self.depthwise(x)))


class Net(nn.Module):
    """Stem, depthwise residual block, strided conv, global pooling, linear: (1, 3, 16, 16) -> (1, 5)."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU6()
        )
        self.block = Residual(8)
        self.down = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.block(self.stem(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Branches(nn.Module):
    """Concat of two branches, max and average pooling, both ways of upsampling: (1, 3, 16, 16) -> (1, 4, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.mid = nn.Conv2d(10, 6, 1)
        self.out = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x).relu(), self.right(x)], 1)
        x = nn.functional.avg_pool2d(nn.functional.max_pool2d(x, 2), 2)
        x = nn.functional.interpolate(self.mid(x).relu(), scale_factor=2.0, mode="nearest")
        return self.out(nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))


def traced(net: nn.Module, size: int = 16) -> ExportedProgram:
    """The float program of `net` at batch 1."""
    return export(net.eval(), (torch.zeros(1, 3, size, size),))


@cache
def float_program(norm: bool = False) -> ExportedProgram:
    """The float program of Net, with random batch norm statistics where it has any."""
    torch.manual_seed(0)
    net = Net(norm)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return traced(net)


@cache
def int8_program(kind: str = "net") -> ExportedProgram:
    """The w8a8 program of Net ("net") or Branches ("branches")."""
    torch.manual_seed(0)
    return quantized(float_program() if kind == "net" else traced(Branches()))


def samples(count: int = 4, size: int = 16) -> list[tuple[np.ndarray, ...]]:
    """Random inputs, the same on every call, none of them among those the ranges were taken from."""
    generator = np.random.default_rng(7)
    return [(generator.standard_normal((1, 3, size, size)).astype(np.float32),) for _ in range(count)]


def reference(program: ExportedProgram) -> Callable[..., list[np.ndarray]]:
    """The program, run by torch, as a function of arrays."""
    module = program.module()

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            found = module(*(torch.from_numpy(value) for value in inputs))
        return [value.numpy() for value in (found if isinstance(found, tuple | list) else (found,))]

    return run


class _Ranges(Interpreter):
    """Runs a module and keeps each node's smallest and largest value."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, tuple[float, float]] = {}

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point():
            low, high = self.found.get(n.name, (0.0, 0.0))
            self.found[n.name] = (min(low, float(value.min())), max(high, float(value.max())))
        return value


def quantized(program: ExportedProgram) -> ExportedProgram:
    """The program with int8 q/dq around each op, as a quantizer writes it: the ranges are those of random inputs."""
    module = program.module(check_guards=False)
    ranges = _Ranges(module)
    for seed in range(8):
        with torch.no_grad():
            ranges.run(torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed)))
    found = dict(ranges.found)
    for node in module.graph.nodes:
        if _kind(node) in SHARED:
            found[node.name] = found[node.args[0].name]
        if _kind(node) == "cat":
            for source in node.args[0]:
                found[source.name] = found[node.name]
    for node in list(module.graph.nodes):
        if _kind(node) in RANGED and not _is_followed_by_activation(node):
            _quantize_value(module, node, *found[node.name])
    for node in list(module.graph.nodes):
        if _kind(node) in WEIGHTED:
            _quantize_weight(module, node)
    module.recompile()
    return export(module, (torch.zeros(1, 3, 16, 16),))


def _kind(node: Node) -> str:
    if node.op == "placeholder":
        return node.name
    return node.target._schema.name.split("::")[1] if node.op == "call_function" else ""


def _is_followed_by_activation(node: Node) -> bool:
    return _kind(node) in WEIGHTED and [_kind(user) in ACTIVATIONS for user in node.users] == [True]


def _quantize_value(module: GraphModule, node: Node, low: float, high: float) -> None:
    scale = max(high - low, 1e-6) / 255.0
    limits = (scale, max(-128, min(127, round(-128 - low / scale))), -128, 127, torch.int8)
    users = list(node.users)
    with module.graph.inserting_after(node):
        codes = module.graph.call_function(ops.quantize_per_tensor.default, (node, *limits))
    with module.graph.inserting_after(codes):
        value = module.graph.call_function(ops.dequantize_per_tensor.default, (codes, *limits))
    for user in users:
        user.replace_input_with(node, value)


def _quantize_weight(module: GraphModule, node: Node) -> None:
    constant = node.args[1]
    owner, _, leaf = constant.target.rpartition(".")
    weight = getattr(module.get_submodule(owner), leaf).detach()
    # 1.1: a scale that no max|w| / 127 gives, as quantization-aware training leaves behind
    scale = weight.abs().flatten(1).amax(1).clamp(min=1e-6) * 1.1 / 127.0
    codes = (weight / scale.reshape(-1, *[1] * (weight.dim() - 1))).round().clamp(-127, 127).to(torch.int8)
    name = f"codes_{node.name}"
    module.register_buffer(name, codes)
    module.register_buffer(f"{name}_scale", scale)
    module.register_buffer(f"{name}_zero", torch.zeros_like(scale, dtype=torch.int64))
    with module.graph.inserting_before(node):
        held = [module.graph.get_attr(name + suffix) for suffix in ("", "_scale", "_zero")]
        value = module.graph.call_function(ops.dequantize_per_channel.default, (*held, 0, -127, 127, torch.int8))
    node.replace_input_with(constant, value)
