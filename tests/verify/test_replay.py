"""Ops are judged by themselves: noise does not add up, fused values are vouched for, empty ones say nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from compress.graph.trace import trace
from compress.runtimes.intermediate import Intermediate
from compress.verify.bisect import locate
from compress.verify.parity import compare

DEPTH, NOISE_DB, LIMIT_DB = 24, 36.0, 30.0
EXAMPLE = (torch.zeros(1, 32),)


class Deep(nn.Module):
    """Many rotations in a row: noise put in at each adds up."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(32, 32, bias=False) for _ in range(DEPTH)]
        for layer in layers:
            nn.init.orthogonal_(layer.weight)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Noisy(fx.Interpreter):
    """An artifact of the model: each op with a rounding error of its own, the one at `wrong` with a gross one."""

    def __init__(self, module: fx.GraphModule, wrong: str = "", hidden: tuple[str, ...] = ()) -> None:
        super().__init__(module)
        self.wrong, self.hidden = wrong, hidden
        self.tensors: list[Intermediate] = []
        self.reads: dict[str, tuple[str, ...]] = {}
        self.generator = np.random.default_rng(5)

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if n.op in ("get_attr", "output") or not isinstance(result, Tensor):
            return result
        value = result.numpy().copy()
        if n.op != "placeholder":
            noise = self.generator.standard_normal(value.shape)
            level_db = 6.0 if n.name == self.wrong else NOISE_DB
            value += (noise * np.linalg.norm(value) / np.linalg.norm(noise) * 10 ** (-level_db / 20)).astype(np.float32)
        self.reads[n.name] = (f"its {n.name}",)
        reads = tuple(name for source in n.all_input_nodes for name in self.reads.get(source.name, ()))
        if n.name in self.hidden:
            self.reads[n.name] = reads  # one op with the next
        else:
            self.tensors.append(Intermediate(f"its {n.name}", "Op", reads, value))
        return torch.from_numpy(value)


@pytest.fixture(scope="module")
def deep() -> fx.GraphModule:
    torch.manual_seed(1)
    return trace(Deep(), EXAMPLE)


def run(module: fx.GraphModule, artifact: Noisy) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(2).standard_normal((1, 32)).astype(np.float32)
    with torch.no_grad():
        output = artifact.run(torch.from_numpy(x))
    assert isinstance(output, Tensor)
    return x, output.numpy()


def layers_of(module: fx.GraphModule) -> list[str]:
    return [node.name for node in module.graph.nodes if node.op == "call_module"]


def test_noise_that_adds_up_over_many_ops_is_no_suspect(deep: fx.GraphModule) -> None:
    artifact = Noisy(deep)
    x, output = run(deep, artifact)
    with torch.no_grad():
        plain = compare(deep(torch.from_numpy(x)).numpy(), output).sqnr_db
    assert plain < LIMIT_DB  # held against the model's own values, a right op would be accused
    found = locate(deep, artifact.tensors, (x,), LIMIT_DB)
    assert found.suspect is None and found.agreeing == found.compared == DEPTH


@pytest.mark.parametrize("place", [0, DEPTH // 2, DEPTH - 2, DEPTH - 1])
def test_one_wrong_op_is_found_at_any_depth(deep: fx.GraphModule, place: int) -> None:
    wrong = layers_of(deep)[place]
    artifact = Noisy(deep, wrong)
    x, _ = run(deep, artifact)
    suspect = locate(deep, artifact.tensors, (x,), LIMIT_DB).suspect
    assert suspect is not None and suspect.node == wrong and suspect.where == f"layers.{place}"
    assert suspect.artifact_tensor == f"its {wrong}"
    assert suspect.sqnr_db == pytest.approx(6.0, abs=0.5)
    assert suspect.rest == (0 if place < DEPTH - 1 else None)  # behind the last op there is nothing to tell by


def test_values_that_an_artifact_fuses_away_are_vouched_for(deep: fx.GraphModule) -> None:
    names = layers_of(deep)
    artifact = Noisy(deep, hidden=(names[3], names[4], names[10]))
    x, _ = run(deep, artifact)
    found = locate(deep, artifact.tensors, (x,), LIMIT_DB - 3.0)  # what is fused is judged together
    assert found.suspect is None, found.words


def test_a_wrong_op_behind_a_fused_one_is_named_with_it() -> None:
    torch.manual_seed(1)
    module = trace(nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(32, 32), nn.Tanh()))), EXAMPLE)
    linears, tanhs = layers_of(module), [node.name for node in module.graph.nodes if "tanh" in node.name]
    artifact = Noisy(module, wrong=tanhs[1], hidden=(linears[1],))
    x, _ = run(module, artifact)
    suspect = locate(module, artifact.tensors, (x,), LIMIT_DB).suspect
    assert suspect is not None and suspect.node == linears[1]
    assert suspect.fused == ("aten.tanh at 3",) and suspect.rest == 0


class Flat(nn.Module):
    """Gives one number everywhere, then something that depends on the input."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x * 0.0).relu()


def test_a_value_without_information_is_neither_proof_nor_suspect() -> None:
    module = trace(Flat(), (torch.zeros(1, 6),))
    artifact = Noisy(module)
    artifact.hidden = tuple(node.name for node in module.graph.nodes if node.name != "x" and "add" not in node.name)
    x = np.random.default_rng(2).standard_normal((1, 6)).astype(np.float32)
    with torch.no_grad():
        artifact.run(torch.from_numpy(x))
    found = locate(module, artifact.tensors, (x,), LIMIT_DB)
    assert found.suspect is None and found.compared == 1


def test_an_output_in_another_layout_is_said() -> None:
    module = trace(nn.Conv2d(2, 3, 1), (torch.zeros(1, 2, 4, 5),))
    x = np.random.default_rng(2).standard_normal((1, 2, 4, 5)).astype(np.float32)
    with torch.no_grad():
        value = module(torch.from_numpy(x)).numpy()
    tensors = [Intermediate("x", "input", (), x), Intermediate("y", "Conv", ("x",), value.transpose(0, 2, 3, 1))]
    found = locate(module, tensors, (x,), 80.0)
    assert found.suspect is None and "channels last only" in found.words
