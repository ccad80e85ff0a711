"""Who is where while a step trains: the networks that a loss asks go along, and come back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from compress.distill.generator import Imitate
from compress.steps.training import networks_of, on_device
from tests.distill.generator.small import INPUTS, LIGHT, pair, paired


class Travelling(nn.Module):
    """Notes where it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def to(self, *place: Any, **_: Any) -> Any:
        self.places.append(str(place[0]))
        return self


def test_the_networks_that_a_loss_asks_go_along_and_come_back() -> None:
    net = Travelling()
    with on_device([net], torch.device("cuda", 0)):
        assert net.places == ["cuda:0"]
    assert net.places == ["cuda:0", "cpu"]


@pytest.mark.parametrize("feature", [0.0, 1.0])
def test_they_are_the_methods_own_but_not_what_learns_with_the_student(feature: float) -> None:
    teacher, student = pair()
    options = Imitate.options_from({"gan": 0.1, "adversary": LIGHT, "feature": feature})
    method = Imitate(teacher, student, INPUTS, options, paired())
    found = networks_of(method)
    assert any(net is method.teacher for net in found) and any(net is method.adversary for net in found)
    assert not any(net is method.extra for net in found if method.extra is not None)
