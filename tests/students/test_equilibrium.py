"""The iterated student: its weights are those of one iteration, and its file too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import compress.export as room
from compress.graph.trace import export_static, trace
from compress.students.equilibrium import Equilibrium
from compress.verify import verify_artifact
from tests.export.programs import reference
from tests.students.common import FORMATS, noise


def made(iterations: int = 3, drawn: bool = True, **settings: int) -> Equilibrium:
    torch.manual_seed(0)
    chosen = {"width": 16, "heads": 2, "injection": 1, "tied": 2, "widening": 2, "conditions": 3, **settings}
    net = Equilibrium(1, 8, iterations=iterations, **chosen)
    if drawn:
        nn.init.normal_(net.last.weight, std=0.3)
    return net.eval()


def inputs(count: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    return noise(count, 1, 8, 8), torch.linspace(0.2, 0.9, count), torch.eye(3)[torch.arange(count) % 3]


def test_it_begins_at_zero_and_learns_from_there() -> None:
    net = made(drawn=False)
    assert torch.equal(net(*inputs(2)), torch.zeros(2, 1, 8, 8))
    net(*inputs(2)).sum().backward()
    assert float(net.last.weight.grad.abs().sum()) > 0


def test_it_traces_for_any_batch_and_every_input_counts() -> None:
    net = made()
    traced = trace(net, inputs())
    x, time, rows = inputs(5)
    torch.testing.assert_close(traced(x, time, rows), net(x, time, rows), rtol=1e-4, atol=1e-5)
    for other in ((noise(5, 1, 8, 8, seed=1), time, rows), (x, time + 1, rows), (x, time, 0 * rows)):
        assert not torch.allclose(net(*other), net(x, time, rows))


def test_the_number_of_iterations_is_no_part_of_the_weights() -> None:
    few, many = made(2), made(5)
    many.load_state_dict(few.state_dict())
    assert not torch.allclose(few(*inputs()), many(*inputs()))
    again = made(2)
    again.iterations = 5
    again.load_state_dict(few.state_dict())
    assert torch.equal(again(*inputs()), many(*inputs()))
    counts = [sum(p.numel() for p in trace(net, inputs()).parameters()) for net in (few, many)]
    assert counts[0] == counts[1] == sum(p.numel() for p in few.parameters())


def test_an_iteration_begins_where_the_last_one_came_to_rest() -> None:
    """Blocks that say nothing of their own leave the norm of nothing: iterating them changes nothing any more."""
    net = made(1)
    for block in net.tied:
        for layer in (block.out, block.narrow):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    nn.init.normal_(net.settled.bias)
    once = net(*inputs())
    net.iterations = 5
    assert not torch.allclose(once, net(*inputs()))  # from zero to the bias, and then its norm
    two = made(2)
    two.load_state_dict(net.state_dict())
    nn.init.constant_(net.settled.weight, 0)  # forgets where it was
    nn.init.constant_(two.settled.weight, 0)
    torch.testing.assert_close(net(*inputs()), two(*inputs()))


def test_tokens_know_their_places() -> None:
    net = made()
    assert len(torch.unique(net.places[0], dim=0)) == 16
    x, *others = inputs()
    flat = torch.zeros_like(x)
    assert float(net(flat, *others)[0, 0, ::2, ::2].std()) > 1e-4  # all patches alike, all answers not
    net.places.zero_()
    assert float(net(flat, *others)[0, 0, ::2, ::2].std()) < 1e-6


def test_the_file_holds_the_tied_blocks_once(tmp_path: Path) -> None:
    if room.available("onnx"):
        pytest.skip(room.available("onnx") or "")
    net = made(4, width=48)
    artifact = room.export(export_static(trace(net, inputs()), inputs()), "onnx", "float32", tmp_path, "net")
    weights, tied = (4 * sum(p.numel() for p in part.parameters()) for part in (net, net.tied))
    assert (tmp_path / artifact.path).stat().st_size < weights + 0.4 * tied  # with what the graph itself takes


@pytest.mark.parametrize("format", FORMATS)
def test_its_file(format: str, tmp_path: Path) -> None:
    reason = room.available(format)
    if reason:
        pytest.skip(reason)
    net = made()
    program = export_static(trace(net, inputs()), inputs())
    artifact = room.export(program, format, "float32", tmp_path, "net")
    given = [tuple((x * scale).numpy() for x in inputs()) for scale in (1.0, 0.5)]
    found = verify_artifact(artifact, tmp_path, reference(program), given, program=program)
    assert found.passed, found.reason
