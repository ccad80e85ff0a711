"""The adversary as a player of the one training loop: it teaches a generator every mode, and resumes bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.adversarial import Adversary, AdversarySettings, Discriminator
from compress.train import DeviceSettings, LoopSettings, OptimizerSettings, Player, fit, make_fabric

MODES, SIZE = 8, 4096
ANGLES = torch.arange(MODES) * 2 * math.pi / MODES
CENTRES = 2 * torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
PENALIZED = AdversarySettings(penalty_weight=0.1)


class Points(Discriminator):
    """Judges points of the plane."""

    def __init__(self) -> None:
        layers = [nn.Sequential(nn.Linear(a, b), nn.LeakyReLU(0.2)) for a, b in ((2, 48), (48, 48))]
        super().__init__([nn.Sequential(*layers)], [nn.Linear(48, 1)], [48])


def draw(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(latents, real points on the ring)."""
    real = CENTRES[indices % MODES] + 0.1 * torch.randn(len(indices), 2, generator=generator)
    return torch.randn(len(indices), 4, generator=generator), real


def trained(
    folder: Path, settings: AdversarySettings, epochs: int, watch: Any = None
) -> tuple[nn.Module, Adversary, list[dict[str, Any]]]:
    """(generator, adversary, history)."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    generator = nn.Sequential(
        nn.Linear(4, 48), nn.LeakyReLU(0.2), nn.Linear(48, 48), nn.LeakyReLU(0.2), nn.Linear(48, 2)
    )
    adversary, stats = Adversary(Points(), settings), {}

    def fools(modules: Mapping[str, nn.Module], batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"adversarial": modules["discriminator"].generator_loss(modules["generator"](batch[0]), batch[1])}

    def judges(modules: Mapping[str, nn.Module], batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = modules["generator"](batch[0])
        turn = modules["discriminator"].discriminator_loss(fake, batch[1])
        stats.update(turn.stats)
        return turn.terms

    optimizer = OptimizerSettings("adamw", 3e-3, weight_decay=0.0, schedule="cosine", clip_norm=0.0, betas=(0.0, 0.9))
    players = [
        Player("generator", generator, fools, optimizer),
        Player("discriminator", adversary, judges, optimizer, stats=lambda: stats),
    ]
    loop = LoopSettings(epochs=epochs, batch_size=128, checkpoint_every_s=0.0 if watch else 1e9)
    history = fit(players, draw, SIZE, loop, make_fabric(DeviceSettings()), folder, watch=watch).history
    return generator, adversary, history


def test_a_generator_learns_all_modes_of_a_ring(tmp_path: Path) -> None:
    generator, _, history = trained(tmp_path, PENALIZED, epochs=14)
    with torch.no_grad():
        distance, mode = torch.cdist(generator(torch.randn(2000, 4)), CENTRES).min(1)
    hit = torch.bincount(mode[distance < 0.3], minlength=MODES)
    assert bool((hit > 40).all())  # of some 80 each
    assert len(history) == 14 and all({"sign_real", "sign_fake"} <= row["stats"].keys() for row in history)


class Killed(Exception):
    """Stands for a process that dies."""


def test_a_killed_training_ends_as_one_that_was_not(tmp_path: Path) -> None:
    def dies(step: int, *_: Any) -> None:
        if step == 20:
            raise Killed

    whole, adversary, _ = trained(tmp_path / "whole", PENALIZED, epochs=1)
    with pytest.raises(Killed):
        trained(tmp_path / "killed", PENALIZED, epochs=1, watch=dies)
    again, resumed, _ = trained(tmp_path / "killed", PENALIZED, epochs=1)
    for first, second in ((whole, again), (adversary, resumed)):
        assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())
    assert int(resumed.steps) == SIZE // 128
