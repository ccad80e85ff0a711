"""The adversary as a player: whose gradient goes where, what is told, and that it resumes where it stopped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.adversarial import LOSSES, PENALTIES, Adversary, AdversarySettings, Discriminator, make_adversary
from compress.errors import DataError, RecipeError, UnknownName

SETTINGS = {
    "r3gan": AdversarySettings(width=8, depth=1),
    "patch": AdversarySettings(discriminator="patch", width=8, spectral=True, loss="least_squares", penalty="none"),
    "sliced": AdversarySettings(width=8, depth=1, sliced=True, loss="hinge"),
    "critic": AdversarySettings(width=8, depth=1, loss="wasserstein", penalty="none", weight_clip=0.01),
    "classes": AdversarySettings(width=8, depth=1, classes=5),
    "mixed": AdversarySettings(discriminator="patch", width=8, penalty="adaptive_mix"),
    "paid": AdversarySettings(width=8, depth=1, penalty="manifold", entropy_weight=0.1),
    "noised": AdversarySettings(width=8, depth=1, noise=True, loss="non_saturating", penalty="approximate_r1"),
    "augmented": AdversarySettings(
        discriminator="patch", width=8, augment=("colour", "flip", "cutout"), adaptive=True, augment_probability=0.3
    ),
}


def made(name: str) -> tuple[Adversary, Tensor, Tensor, Tensor | None]:
    """(adversary, fake, real, label)."""
    torch.manual_seed(0)
    adversary = make_adversary(SETTINGS[name], in_channels=3, size=24)
    fake, real = torch.randn(4, 3, 24, 24, requires_grad=True), torch.randn(4, 3, 24, 24, requires_grad=True)
    return adversary, fake, real, torch.tensor([0, 4, 1, 1]) if name == "classes" else None


@pytest.mark.parametrize("name", SETTINGS)
def test_the_generators_loss_teaches_the_fakes_and_nobody_else(name: str) -> None:
    adversary, fake, real, label = made(name)
    trained = {k for k, p in adversary.named_parameters() if p.requires_grad}
    adversary.generator_loss(fake, real, label).backward()
    assert fake.grad is not None and bool(fake.grad.any()) and real.grad is None
    assert all(p.grad is None for p in adversary.parameters())
    fake.grad = None
    torch.stack([each.mean() for each in adversary.features(fake)]).sum().backward()
    assert fake.grad is not None and bool(fake.grad.any())
    assert all(p.grad is None for p in adversary.parameters())
    assert {k for k, p in adversary.named_parameters() if p.requires_grad} == trained


@pytest.mark.parametrize("name", SETTINGS)
def test_the_discriminators_loss_teaches_it_and_no_sample(name: str) -> None:
    adversary, fake, real, label = made(name)
    torch.stack(list(adversary.discriminator_loss(fake, real, label).terms.values())).sum().backward()
    assert fake.grad is None and real.grad is None
    assert all(p.grad is not None for k, p in adversary.named_parameters() if not k.endswith("offset"))


@pytest.mark.parametrize("name", SETTINGS)
def test_it_trains_in_half_precision_too(name: str) -> None:
    adversary, fake, real, label = made(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        turn = adversary.discriminator_loss(fake, real, label)
        fooled = adversary.generator_loss(fake, real, label)
    assert fooled.dtype == torch.float32 and all(term.dtype == torch.float32 for term in turn.terms.values())
    torch.stack([fooled, *turn.terms.values()]).sum().backward()
    assert fake.grad is not None and bool(fake.grad.isfinite().all())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in adversary.parameters())


def test_the_defaults_are_r3gans() -> None:
    adversary, fake, real, _ = made("r3gan")
    turn = adversary.discriminator_loss(fake, real)
    judge, loss = adversary.discriminator, LOSSES["relativistic"]
    assert turn.terms.keys() == {"adversarial", "penalty"}
    assert torch.allclose(turn.terms["adversarial"], loss.discriminator(judge(real), judge(fake)))
    assert torch.allclose(turn.terms["penalty"], 0.5 * PENALTIES["zero_centered"][0](judge, real, fake))
    assert torch.allclose(adversary.generator_loss(fake, real), loss.generator(judge(real), judge(fake)))


def test_a_sliced_one_has_a_direction_term_and_its_generator_follows_the_logits() -> None:
    adversary, fake, real, _ = made("sliced")
    assert adversary.discriminator_loss(fake, real).terms.keys() == {"adversarial", "direction", "penalty"}
    assert torch.allclose(adversary.generator_loss(fake, real), -adversary.discriminator(fake)[0].mean())


class Brightness(Discriminator):
    """Gives the mean of a sample as its logit, times a weight that starts at 1."""

    def __init__(self) -> None:
        super().__init__([nn.Sequential(nn.Identity())], [nn.AdaptiveAvgPool2d(1)], [1])
        self.weight = nn.Parameter(torch.ones(()))

    def inputs(self, x: Tensor) -> list[Tensor]:
        return [self.weight * x]


@pytest.mark.parametrize(
    ("loss", "real", "fake", "signs"),
    [
        ("hinge", 1.0, -1.0, (1, 1)),
        ("hinge", 1.0, 2.0, (1, -1)),
        ("hinge", -1.0, -2.0, (-1, 1)),
        ("relativistic", -1.0, -2.0, (1, 1)),
        ("wasserstein", 3.0, 4.0, (-1, -1)),
    ],
)
def test_the_stats_say_on_which_side_it_is_right(loss: str, real: float, fake: float, signs: tuple[int, int]) -> None:
    adversary = Adversary(Brightness(), AdversarySettings(loss=loss, penalty="none"))
    stats = adversary.discriminator_loss(torch.full((3, 1, 4, 4), fake), torch.full((3, 1, 4, 4), real)).stats
    assert (stats["sign_real"], stats["sign_fake"]) == signs


def test_a_penalty_comes_every_so_many_steps_and_so_many_times_as_heavy() -> None:
    rare = Adversary(Brightness(), AdversarySettings(penalty="r1", penalty_every=4))
    often = Adversary(Brightness(), AdversarySettings(penalty="r1"))
    x = torch.randn(2, 1, 4, 4)
    turns = [rare.discriminator_loss(x, x).terms for _ in range(8)]
    assert ["penalty" in turn for turn in turns] == [True, False, False, False] * 2
    assert torch.allclose(turns[0]["penalty"], 4 * often.discriminator_loss(x, x).terms["penalty"])


def test_augmentation_and_noise_follow_the_discriminators_confidence() -> None:
    settings = AdversarySettings(
        loss="hinge", penalty="none", augment=("flip",), adaptive=True, noise=False, ramp_images=100
    )
    adversary, right = Adversary(Brightness(), settings), torch.ones(5, 1, 4, 4)
    for _ in range(8):
        stats = adversary.discriminator_loss(-right, right).stats
    assert stats["augment_probability"] == pytest.approx(0.4)
    for _ in range(8):
        stats = adversary.discriminator_loss(-right, -right).stats
    assert stats["augment_probability"] == pytest.approx(0.0)
    noised = make_adversary(AdversarySettings(width=8, depth=1, noise=True, ramp_images=10, target=-1.0), 1, 8)
    lengths = [noised.discriminator_loss(*torch.randn(2, 5, 1, 8, 8)).stats["noise_length"] for _ in range(8)]
    assert lengths[0] == 10 and lengths[-1] == 1000


def test_a_set_probability_stays_where_it_was_set() -> None:
    settings = AdversarySettings(penalty="none", loss="hinge", augment=("flip",), augment_probability=0.25)
    adversary, right = Adversary(Brightness(), settings), torch.ones(5, 1, 4, 4)
    for _ in range(8):
        stats = adversary.discriminator_loss(-right, right).stats
    assert stats["augment_probability"] == 0.25


@pytest.mark.parametrize("name", ["noised", "augmented", "sliced", "paid"])
def test_it_resumes_from_its_state_to_the_bit(name: str) -> None:
    adversary, fake, real, _ = made(name)
    for _ in range(5):
        adversary.discriminator_loss(fake, real)
    resumed = make_adversary(SETTINGS[name], in_channels=3, size=24)
    resumed.load_state_dict(adversary.state_dict())
    seen = []
    for each in (adversary, resumed):
        torch.manual_seed(7)
        seen.append([each.discriminator_loss(fake, real) for _ in range(4)])
    for first, second in zip(*seen, strict=True):
        assert first.stats == second.stats
        assert all(torch.equal(first.terms[k], second.terms[k]) for k in first.terms)


def test_a_clipped_critic_is_within_its_clip_whenever_it_judges() -> None:
    adversary, fake, real, _ = made("critic")
    adversary.discriminator_loss(fake, real)
    assert max(p.abs().max().item() for p in adversary.discriminator.parameters()) <= 0.01 + 1e-9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty_every": 0}, "adversary.penalty_every is 0; it has to be 1 or more"),
        ({"augment": ("flip",), "augment_probability": 0.9}, "has to be within 0 and 0.8"),
        ({"augment_probability": 0.5}, "adversary.augment names nothing"),
        ({"adaptive": True}, "adversary.augment names nothing"),
        ({"augment": ("flip",)}, "adversary.augment is never applied"),
        ({"sliced": True, "classes": 3}, "adversary.sliced has one direction"),
        ({"penalty_weight": float("nan")}, "adversary.penalty_weight is nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        AdversarySettings(**options)


@pytest.mark.parametrize("key", ["loss", "penalty", "discriminator"])
def test_unknown_names_are_refused(key: str) -> None:
    with pytest.raises(UnknownName):
        AdversarySettings(**{key: "nobody"})


def test_unequal_batches_are_refused() -> None:
    with pytest.raises(DataError, match="equal batches"):
        made("r3gan")[0].generator_loss(torch.zeros(3, 3, 24, 24), torch.zeros(4, 3, 24, 24))
