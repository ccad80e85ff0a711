"""What trainings run on: the precision that a recipe's `auto` means here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from compress.train import DeviceSettings, LoopSettings, OptimizerSettings, Player, fit, make_fabric, usable_precision


@pytest.mark.parametrize(
    ("capabilities", "wanted"),
    [
        ({"amx_bf16": True}, "bf16"),
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"neon": True, "bf16": True}, "bf16"),
        ({"avx512_f": True, "avx512_bf16": False}, "32"),  # it would emulate bf16, slower than float32
        ({}, "32"),
    ],
)
def test_auto_is_bf16_only_where_the_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], wanted: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert usable_precision("auto", "cpu") == wanted
    assert [usable_precision(asked, "cpu") for asked in ("32", "bf16")] == ["32", "bf16"]
    assert usable_precision("auto", "mps") == "32"


def test_a_training_in_bf16_multiplies_in_bf16_and_keeps_its_weights_in_float32(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    data = torch.randn(64, 8)

    def loss(modules: dict[str, nn.Module], batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mse": (modules["model"](batch) - batch[:, :4]).square().mean()}

    player = Player("model", model, loss, OptimizerSettings(learning_rate=0.05))
    settings = LoopSettings(epochs=20, batch_size=16)
    fabric = make_fabric(DeviceSettings(precision="bf16"))
    result = fit([player], lambda indices, generator: data[indices], 64, settings, fabric, tmp_path)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert result.history[-1]["mse"] < 0.5 * result.history[0]["mse"]
