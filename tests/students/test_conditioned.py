"""Denoisers with a part beside them: at first the part changes nothing, and it ships with the denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import compress.export as room
from compress.diffusion import Denoiser, guided, karras
from compress.graph.trace import export_static, trace
from compress.students.conditioned import ClassifierFree, Unconditioned, WithCondition, WithGuide
from compress.verify import verify_artifact
from tests.export.programs import reference
from tests.students.common import FORMATS, noise

BASE: dict[str, Any] = {"channels": 1, "width": 8, "multipliers": (1, 2), "conditions": 3}
KINDS = {
    "unconditioned": (lambda: Unconditioned(BASE), 5),
    "condition": (lambda: WithCondition(BASE, (1, 4, 4)), 16),
    "vector": (lambda: WithCondition(BASE, (6, 1, 1)), 6),
    "classifier free": (lambda: ClassifierFree(BASE), 1),
    "guide": (lambda: WithGuide(BASE, 4), 1),
}


def made(kind: str, drawn: bool = False) -> tuple[Any, int]:
    """(the network, its new numbers); its base is drawn, and all of it where `drawn`."""
    torch.manual_seed(0)
    make, new = KINDS[kind]
    net: Any = make()
    for parameter in (net if drawn else net.base).parameters():
        nn.init.normal_(parameter, std=0.15)
    return net.eval(), new


def inputs(new: int, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.cat([torch.eye(3)[torch.arange(count) % 3], noise(count, new, seed=1)], 1)
    return noise(count, 1, 8, 8), torch.linspace(0.2, 0.9, count), rows


@pytest.mark.parametrize("kind", ["unconditioned", "condition", "vector", "guide"])
def test_at_first_it_is_the_denoiser(kind: str) -> None:
    net, new = made(kind)
    x, time, rows = inputs(new)
    torch.testing.assert_close(net(x, time, rows), net.base(x, time, rows[:, :3]), rtol=0, atol=0)
    changed = rows.clone()
    changed[:, 3:] += 1
    assert torch.equal(net(x, time, changed), net(x, time, rows))


@pytest.mark.parametrize("kind", ["condition", "vector", "guide"])
def test_what_begins_at_zero_has_a_gradient_and_then_the_new_numbers_count(kind: str) -> None:
    net, new = made(kind)
    given = inputs(new)
    net(*given).square().mean().backward()
    starts = [p for name, p in net.named_parameters() if name.startswith(("shares", "added"))]
    assert starts and all(float(p.abs().sum()) == 0 and float(p.grad.abs().sum()) > 0 for p in starts)
    net, new = made(kind, drawn=True)
    x, time, rows = given
    changed = rows.clone()
    changed[:, 3:] += 1
    assert not torch.allclose(net(x, time, changed), net(x, time, rows))


def test_at_a_share_of_1_the_features_are_the_picture_s() -> None:
    net, new = made("condition")
    with torch.no_grad():
        for share in net.shares:
            share.fill_(1)
    x, time, rows = inputs(new)
    torch.testing.assert_close(net(x, time, rows), net(noise(3, 1, 8, 8, seed=7), time, rows))
    assert not torch.allclose(net(x, time, rows), net.base(x, time, rows[:, :3]))


def test_classifier_free_guidance_in_one_module_is_that_of_two_passes() -> None:
    net, _ = made("classifier free")
    x, _, rows = inputs(1)
    net, x, rows = net.double(), x.double(), rows.double()
    level = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    for weight in (0.0, 1.0, 3.5):
        rows[:, 3] = weight
        wanted = guided(Denoiser(net.base, karras(0.5)), weight, torch.zeros_like)(x, level, rows[:, :3])
        torch.testing.assert_close(Denoiser(net, karras(0.5))(x, level, rows), wanted, rtol=1e-12, atol=1e-12)


def test_a_flow_map_s_second_time_is_told_to_the_base_and_the_guide() -> None:
    torch.manual_seed(0)
    for kind, new in ((lambda base: WithGuide(base, 4), 1), (lambda base: WithCondition(base, (1, 4, 4)), 16)):
        net: Any = kind({**BASE, "until": True})
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.15)
        x, time, rows = inputs(new)
        assert not torch.allclose(net(x, time, time, rows), net(x, time, 0 * time, rows))


@pytest.mark.parametrize("kind", KINDS)
def test_it_traces_for_any_batch_under_the_names_that_it_has(kind: str) -> None:
    net, new = made(kind, drawn=True)
    graph = trace(net, inputs(new, 1))
    torch.testing.assert_close(graph(*inputs(new, 5)), net(*inputs(new, 5)), rtol=1e-4, atol=1e-5)
    assert set(graph.state_dict()) == set(net.state_dict())  # nothing in it is without use


def test_a_guide_is_light_and_an_encoder_less_than_half() -> None:
    def share(net: nn.Module, own: str) -> float:
        counts = {name: p.numel() for name, p in net.named_parameters()}
        return sum(n for name, n in counts.items() if not name.startswith(own)) / sum(counts.values())

    wide = {**BASE, "width": 32}
    assert share(WithGuide(wide, 4), "base.") < 0.06
    assert share(WithCondition(wide, (1, 4, 4)), "base.") < 0.4


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["condition", "guide"])
def test_its_file(kind: str, format: str, tmp_path: Path) -> None:
    reason = room.available(format)
    if reason:
        pytest.skip(reason)
    net, new = made(kind, drawn=True)
    example = inputs(new, 1)
    program = export_static(trace(net, example), example)
    artifact = room.export(program, format, "float32", tmp_path, "net")
    given = [tuple((x * scale).numpy() for x in example) for scale in (1.0, 0.5)]
    found = verify_artifact(artifact, tmp_path, reference(program), given, program=program)
    assert found.passed, found.reason
