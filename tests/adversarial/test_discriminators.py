"""Shapes, receptive fields, starts and norms of the discriminators, and how they take a condition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from compress.adversarial import DISCRIMINATORS, Condition, Discriminator, build
from compress.adversarial.discriminators.projected import Projected
from compress.adversarial.discriminators.r3gan import R3GAN, Block, Halve
from compress.adversarial.discriminators.waveform import PERIODS, fold
from compress.errors import DataError, RecipeError, UnknownName


class Extractor(nn.Module):
    """Three maps of a small frozen network, with a layer whose eval mode matters."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in ((3, 8), (8, 12), (12, 16))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.stages[0](x)]
        for stage in self.stages[1:]:
            maps.append(stage(maps[-1]))
        return maps


SOUND = {"multi_period", "multi_scale", "hifi", "dilated"}


def made(name: str, **options: object) -> tuple[Discriminator, Tensor]:
    """A small discriminator of that name and two samples for it."""
    extractor = {"extractor": Extractor()} if name == "projected" else {}
    channels = 1 if name in SOUND else 3
    x = torch.randn(2, 1, 600) if name in SOUND else torch.randn(2, 3, 32, 32)
    return build(name, channels, 32, 8, **extractor, **options), x


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_logits_have_one_channel_and_the_last_feature_is_what_a_head_reads(name: str) -> None:
    discriminator, x = made(name)
    discriminator.eval()  # holds a spectral norm still
    logits, maps = discriminator(x), discriminator.maps(x)
    assert len(logits) == len(discriminator.heads) == len(maps)
    assert all(each.shape[:2] == (2, 1) for each in logits)
    features = discriminator.features(x)
    assert len(features) == sum(map(len, maps)) and all(f.shape[0] == 2 and f.shape[1] > 1 for f in features)
    again = [head(tower[-1]) for head, tower in zip(discriminator.heads, discriminator.maps(x), strict=True)]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(again, discriminator(x), strict=True))


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_a_label_moves_the_logits_once_it_was_learned_and_a_missing_one_is_refused(name: str) -> None:
    discriminator, x = made(name, classes=4, timed=True)
    discriminator.eval()  # holds a spectral norm still
    zero = Condition(torch.zeros(2, dtype=torch.long), torch.tensor([0, 30]))
    other = Condition(torch.full((2,), 3), torch.tensor([900, 30]))
    first, second = discriminator(x, zero), discriminator(x, other)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for projection in discriminator.projections:
        nn.init.normal_(projection.label.weight)
        nn.init.normal_(projection.time.weight)
    first, second = discriminator(x, zero), discriminator(x, other)
    assert all(bool((a != b).any()) and a.shape == b.shape for a, b in zip(first, second, strict=True))
    with pytest.raises(DataError, match="built for a class label per sample, and none was given"):
        discriminator(x)
    with pytest.raises(DataError, match="built for no time per sample, and one was given"):
        made(name)[0](x, Condition(time=torch.zeros(2)))


@pytest.mark.parametrize(("depth", "field"), [(1, 16), (2, 34), (3, 70)])
def test_a_patch_has_the_size_of_the_paper(depth: int, field: int) -> None:
    discriminator, x = build("patch", 1, 128, 4, depth=depth), torch.zeros(1, 1, 128, 128, requires_grad=True)
    logits = discriminator(x)[0]
    (slope,) = torch.autograd.grad(logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2], x)
    rows = slope[0, 0].any(1).nonzero()
    assert rows.max() - rows.min() + 1 == field


def test_spectral_norm_is_that_of_the_singular_values_after_twenty_passes() -> None:
    layer = spectral_norm(nn.Linear(24, 16))
    raw = layer.parametrizations.weight.original
    for _ in range(20):
        layer(torch.zeros(1, 24))
    used = (raw / layer.eval().weight).mean().item()
    assert used == pytest.approx(torch.linalg.svdvals(raw.detach())[0].item(), rel=0.01)


def test_every_layer_of_a_normed_patch_discriminator_has_spectral_norm_one() -> None:
    discriminator, x = build("patch", 3, 32, 8, spectral=True), torch.randn(1, 3, 32, 32)
    for _ in range(200):
        discriminator(x)
    discriminator.eval()
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 5
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item() == pytest.approx(1, rel=0.02)


def test_residual_blocks_start_as_the_identity_and_there_is_no_norm() -> None:
    discriminator = build("r3gan", 3, 32, 16)
    blocks = [m for m in discriminator.modules() if isinstance(m, Block)]
    assert len(blocks) == 8  # two at 32, 16, 8 and 4 pixels
    for block in blocks:
        x = torch.randn(1, block.widen.in_channels, 4, 4)
        assert torch.equal(block(x), x)
    (slope,) = torch.autograd.grad(blocks[0](torch.randn(1, 16, 8, 8)).square().sum(), blocks[0].narrow.weight)
    assert bool(slope.any())  # yet it learns from the first step
    norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)
    assert not any(isinstance(m, norms) for m in discriminator.modules())


@pytest.mark.parametrize("size", [4, 8, 28, 33])
def test_r3gan_judges_images_of_any_side_at_one_position(size: int) -> None:
    assert build("r3gan", 1, size, 8)(torch.randn(2, 1, size, size))[0].shape == (2, 1, 1, 1)


def test_halving_passes_no_checkerboard_and_keeps_a_plain_area() -> None:
    halve, line = Halve(2, 2), torch.tensor([1.0, -1.0]).repeat(8)
    for pattern in (line[:, None] * line, line[:, None] * torch.ones(16), torch.ones(16, 1) * line):
        halved = halve(pattern.expand(1, 2, 16, 16))
        assert halved.shape == (1, 2, 8, 8) and halved[..., 1:, 1:].abs().max().item() < 1e-6
    assert torch.allclose(halve(torch.ones(1, 2, 16, 16))[..., 1:, 1:], torch.ones(()))


def test_the_projection_never_learns_and_the_image_still_gets_its_gradient() -> None:
    discriminator, x = made("projected")
    frozen = {k: v.clone() for k, v in discriminator.frozen.state_dict().items()}
    x.requires_grad_()
    discriminator.train()
    sum(each.sum() for each in discriminator(x)).backward()
    assert all(p.grad is None and not p.requires_grad for p in discriminator.frozen.parameters())
    assert x.grad is not None and bool(x.grad.any())
    assert all(p.grad is not None for p in [*discriminator.towers.parameters(), *discriminator.heads.parameters()])
    # BatchNorm's running averages stay too: train() does not reach the extractor.
    assert all(torch.equal(v, frozen[k]) for k, v in discriminator.frozen.state_dict().items())


def test_coarse_features_reach_the_finest_head() -> None:
    discriminator, _ = made("projected")
    maps = [torch.randn(1, 8, 16, 16), torch.randn(1, 12, 8, 8), torch.randn(1, 16, 4, 4)]
    before = discriminator.frozen["mixing"](maps)
    after = discriminator.frozen["mixing"]([*maps[:2], maps[2] + 1])
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("length", [22, 23, 600])
def test_folding_keeps_every_sample_in_its_column(length: int) -> None:
    x = torch.arange(float(length)).expand(1, 1, -1)
    for period in PERIODS:
        folded = fold(x, period)
        assert folded.shape == (1, 1, -(-length // period), period)
        flat = folded.flatten()
        assert torch.equal(flat[:length], x[0, 0])
        assert torch.equal(flat[length:], x[0, 0].flip(0)[1 : 1 + len(flat) - length])
    with pytest.raises(DataError, match="T at least 22"):
        fold(x[..., :21], 11)


def test_a_tower_of_a_period_hears_nothing_between_its_samples() -> None:
    discriminator = build("multi_period", 1, 0, 2)
    x = torch.zeros(1, 1, 700, requires_grad=True)
    logits = discriminator(x)[PERIODS.index(7)]
    (slope,) = torch.autograd.grad(logits[0, 0, 1, 3], x)
    heard = slope[0, 0].nonzero().flatten()
    assert len(heard) > 10 and set((heard % 7).tolist()) == {3}


def test_the_dilated_one_hears_as_far_as_its_dilations_add_up() -> None:
    discriminator, x = build("dilated", 1, 0, 4), torch.zeros(1, 1, 201, requires_grad=True)
    (slope,) = torch.autograd.grad(discriminator(x)[0][0, 0, 100], x)
    heard = slope[0, 0].nonzero().flatten()
    assert heard.max() - heard.min() == 2 * (1 + sum(range(1, 9)) + 1)


def test_what_a_discriminator_does_not_take_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean patch"):
        build("pach", 3, 32, 8)
    with pytest.raises(RecipeError, match=r"adversary\.spectral means nothing to the discriminator 'r3gan'"):
        build("r3gan", 3, 32, 8, spectral=True)
    with pytest.raises(RecipeError, match="give an extractor"):
        build("projected", 3, 32, 8)
    with pytest.raises(RecipeError, match="takes 24 pixels or more"):
        build("patch", 3, 16, 8)
    with pytest.raises(RecipeError, match="does not divide by 4"):
        build("hifi", 1, 0, 6)
    with pytest.raises(RecipeError, match="width divisible by 8"):
        build("r3gan", 3, 32, 12)


def test_the_names_give_the_papers_networks() -> None:
    assert DISCRIMINATORS["r3gan"] is R3GAN and DISCRIMINATORS["projected"] is Projected
    made = build("r3gan", 3, 16, 8)
    assert isinstance(made, R3GAN) and made(torch.zeros(2, 3, 16, 16))[0].shape[0] == 2
