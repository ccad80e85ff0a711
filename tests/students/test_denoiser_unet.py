"""The small denoiser: begins at zero, traces, and takes a second time without changing what it says."""

from __future__ import annotations

import logging

import pytest
import torch

from compress.graph.trace import trace
from compress.students import DenoiserUnet


def test_it_begins_at_zero_and_learns_from_there() -> None:
    torch.manual_seed(0)
    net = DenoiserUnet(3, 8, (1, 2), conditions=4)
    x, time, condition = torch.randn(2, 3, 8, 8), torch.rand(2), torch.eye(4)[:2]
    assert torch.equal(net(x, time, condition), torch.zeros(2, 3, 8, 8))
    net(x, time, condition).sum().backward()
    assert float(net.last.weight.grad.abs().sum()) > 0


def test_a_second_time_changes_nothing_at_first() -> None:
    torch.manual_seed(0)
    plain, mapped = DenoiserUnet(1, 8, conditions=3), DenoiserUnet(1, 8, conditions=3, until=True)
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=0.1)
    missing, unexpected = mapped.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("embed_until") for name in missing)
    x, time, condition = torch.randn(2, 1, 8, 8), torch.rand(2), torch.eye(3)[:2]
    for until in (torch.zeros(2), torch.rand(2)):
        torch.testing.assert_close(mapped(x, time, until, condition), plain(x, time, condition))
    torch.nn.init.normal_(mapped.embed_until.outer.weight)
    assert not torch.allclose(mapped(x, time, torch.rand(2), condition), plain(x, time, condition))


def test_it_traces_for_any_batch_and_every_input_counts() -> None:
    torch.manual_seed(0)
    net = DenoiserUnet(1, 8, (1, 2), blocks=2, conditions=3)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    example = (torch.randn(1, 1, 8, 8), torch.rand(1), torch.eye(3)[:1])
    traced = trace(net, example)
    x, time, condition = torch.randn(5, 1, 8, 8), torch.rand(5), torch.eye(3)[torch.arange(5) % 3]
    torch.testing.assert_close(traced(x, time, condition), net(x, time, condition))
    for number, other in enumerate((torch.randn(5, 1, 8, 8), torch.rand(5), torch.zeros(5, 3))):
        inputs = [x, time, condition]
        inputs[number] = other
        assert not torch.allclose(net(*inputs), net(x, time, condition))


def test_networks_with_any_number_of_inputs_trace_with_a_free_batch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        trace(DenoiserUnet(1, 8, conditions=3), (torch.randn(1, 1, 8, 8), torch.rand(1), torch.eye(3)[:1]))
    assert not [record for record in caplog.records if "batch size" in record.getMessage()]
