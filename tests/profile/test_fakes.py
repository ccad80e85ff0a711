"""The fakes keep their word, so that tests built on them mean something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress.types import LatencyModel
from tests.fakes import FakeLatencyModel, FakeSession
from tests.profile.stated import conv, plain


def test_the_fake_latency_model_costs_what_it_states() -> None:
    model: LatencyModel = FakeLatencyModel(ms_per_mmac=2.0, overhead_ms=0.5, channel_multiple=8)
    op = conv(8, 16, size=10, kernel=1)
    prediction = model.predict([op, plain("reshape"), replace(plain("norm"), fused_into="c")], "float32")
    expected = 0.5 + 2.0 * 8 * 16 * 100 * 1e-6
    assert prediction.latency.value == pytest.approx(expected)
    assert prediction.latency.interval == pytest.approx((0.9 * expected, 1.1 * expected))
    assert model.predict([op], "w8a8").latency.value == pytest.approx(expected / 2)
    assert model.predict([conv(5, 13, 10, 1)], "float32").latency.value == pytest.approx(expected)
    assert model.predict([plain("other", macs=None)], "float32").uncovered == ("p",)


def test_the_fake_session_answers_and_remembers() -> None:
    session = FakeSession([np.full((1, 2), 3.0, np.float32)])
    (output,) = session.run(np.zeros((1, 4)))
    output += 1
    assert session.run(np.zeros((2, 4)))[0].tolist() == [[3.0, 3.0]], "a caller cannot change the stated output"
    assert session.calls == [((1, 4),), ((2, 4),)]
    assert FakeSession(function=lambda x: [2 * x]).run(np.ones(2))[0].tolist() == [2.0, 2.0]
