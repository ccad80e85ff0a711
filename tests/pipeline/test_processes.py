"""Two processes train as one does: the same data, the same steps, the same result up to summation order."""

from __future__ import annotations

from pathlib import Path

import torch

from compress.checkpoint import load_weights
from tests.pipeline.conftest import go, recipe

TOLERANCE = 1e-4
"""Largest difference of any weight, relative to the largest: float sums in another order over 32 steps."""


def test_two_processes_give_the_single_process_result(tmp_path: Path) -> None:
    weights = {}
    for devices in (1, 2):
        made = recipe(
            teacher={
                "entry": "tests/pipeline/tiny.py:group_norm_teacher",
                "train": {"epochs": 4, "learning_rate": 0.05},
            },
            train={"devices": devices, "strategy": "ddp" if devices > 1 else "auto", "threads": 1},
            budget={},
            steps=[{"distill": {"epochs": 1}}],
        )
        folder = tmp_path / str(devices)
        result = go(folder, made)
        assert result.exit_code == 0
        weights[devices] = load_weights(folder / "steps/01-distill/weights.safetensors")
        assert result.report.teacher.quality.value > 0.9, "it must have learned something to compare"
    for name, one in weights[1].items():
        two = weights[2][name]
        assert torch.allclose(one, two, atol=TOLERANCE * float(one.abs().max().clamp_min(1))), name
    assert any(not torch.equal(weights[1][n], weights[2][n]) for n in weights[1]), "two processes must have summed"
