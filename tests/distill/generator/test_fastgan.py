"""FastGan: the discriminator's reconstruction, of real samples alone, and how it goes into the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from compress.adversarial import AdversarySettings, make_adversary
from compress.adversarial.auxiliary import Autoencoding, decoder
from compress.distill.generator.fastgan import FastGan
from compress.errors import RecipeError
from tests.distill.generator.small import INPUTS, has_gradient, pair, paired, pictures, same, state, taught

SETTINGS = AdversarySettings(width=8, depth=1, loss="hinge", penalty="none")


def adversary(size: int = 16, weight: float = 1.0) -> Autoencoding:
    torch.manual_seed(0)
    return Autoencoding(make_adversary(SETTINGS, 1, size).discriminator, SETTINGS, 1, size, weight)


def images(count: int = 4, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


def test_its_maps_are_the_coarsest_of_four_pixels_and_one_twice_as_large() -> None:
    found = adversary()
    maps = found.discriminator.features(images())
    assert (maps[found.coarse].shape[-1], maps[found.fine].shape[-1]) == (4, 8)
    assert found.whole(maps[found.coarse]).shape == (4, 1, 16, 16)
    assert found.part(maps[found.fine][..., :4, :4]).shape == (4, 1, 8, 8)
    assert decoder(8, 3, 8, 1024)(torch.zeros(1, 8, 8, 8)).shape == (1, 3, 128, 128)


def test_the_reconstruction_is_of_real_samples_only() -> None:
    found = adversary()
    for fake_seed in (1, 2):
        torch.manual_seed(3)  # the same quarter
        turn = found.discriminator_loss(images(seed=fake_seed), images())
        assert set(turn.terms) == {"adversarial", "reconstruction"}
        if fake_seed == 1:
            first = turn.terms["reconstruction"]
    assert torch.equal(turn.terms["reconstruction"], first)
    found.zero_grad()
    turn.terms["reconstruction"].backward()
    assert has_gradient(found.whole) and has_gradient(found.part) and has_gradient(found.discriminator.towers)
    assert not has_gradient(found.discriminator.heads)


def test_the_generator_s_loss_knows_nothing_of_it() -> None:
    found = adversary()
    plain = make_adversary(SETTINGS, 1, 16)
    plain.discriminator.load_state_dict(found.discriminator.state_dict())
    fake = images(seed=1).requires_grad_()
    assert float(found.generator_loss(fake, images())) == float(plain.generator_loss(fake, images()))


def test_a_discriminator_learns_to_draw_and_without_the_term_does_not() -> None:
    def error(weight: float) -> float:
        found, real = adversary(8, weight), pictures(32) * 2 - 1
        optimizer = torch.optim.Adam(found.parameters(), 5e-3)
        for step in range(60):
            optimizer.zero_grad()
            sum(found.discriminator_loss(images(32, 8, step), real).terms.values()).backward()
            optimizer.step()
        return float(found.reconstruction(real).detach())

    assert error(1.0) < 0.6 * error(0.0)


def test_a_discriminator_without_such_maps_is_refused() -> None:
    settings = AdversarySettings("patch", width=8, depth=1, penalty="none")
    with pytest.raises(RecipeError, match="take r3gan"):
        Autoencoding(make_adversary(settings, 1, 8).discriminator, settings, 1, 8)


def method(options: dict[str, Any]) -> tuple[FastGan, fx.GraphModule]:
    teacher, student = pair()
    task = paired().with_teacher(teacher)
    settings = FastGan.options_from({"adversary": {"width": 8, "depth": 1, "augment": ["translation"]}, **options})
    return FastGan(teacher, student, INPUTS, settings, task), student


def test_it_plays_in_the_loop(tmp_path: Path) -> None:
    found, student = method({})
    assert isinstance(found.adversary, Autoencoding)
    decoders = state(found.adversary.whole)
    result = taught(found, student, tmp_path)
    assert not same(state(found.adversary.whole), decoders)
    rows = [row["discriminator.reconstruction"] for row in result.history]
    assert rows[-1] < rows[0]
