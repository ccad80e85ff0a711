"""Another user's ResNet, as a plain state dict and a short task file, goes the same way: nothing here knows it."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.pipeline import other_user, tiny
from tests.pipeline.conftest import RECIPE, go, recipe


def _trained() -> torch.nn.Module:
    """Their network after their own few steps of training."""
    torch.manual_seed(0)
    network, (images, labels) = other_user.model(), tiny.images(256, 0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for start in list(range(0, 256, 32)) * 4:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images[start : start + 32]), labels[start : start + 32]).backward()
        optimizer.step()
    return network


def test_a_plain_state_dict_of_another_resnet_runs_the_same_recipe(tmp_path: Path) -> None:
    torch.save(_trained().state_dict(), tmp_path / "theirs.pth")
    file = "tests/pipeline/other_user.py"
    made = recipe(
        teacher={"entry": f"{file}:model", "weights": str(tmp_path / "theirs.pth")},
        task={"entry": f"{file}:task"},
        budget={"macs_ratio": 0.7},
        steps=RECIPE["steps"],
    )
    report = go(tmp_path / "run", made).report
    assert report.exit_code == 0
    assert report.student.macs.value <= 0.7 * report.teacher.macs.value
    assert all(artifact.passed for artifact in report.artifacts)
