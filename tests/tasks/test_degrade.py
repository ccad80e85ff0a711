"""Degradations: the same filter as Pillow's, and randomness that comes from the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from compress.errors import DataError
from compress.tasks import Bicubic, Blind
from compress.tasks.degrade import blurred, through_jpeg
from compress.tasks.draws import generator_of

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 36, 3), np.uint8)
PICTURE = torch.from_numpy(PIXELS).permute(2, 0, 1) / 255
SMOOTH = torch.nn.functional.interpolate(PICTURE[None, :, :6, :6], (48, 48), mode="bicubic")[0].clamp(0, 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_pillows_to_within_rounding(scale: int) -> None:
    wanted = np.asarray(Image.fromarray(PIXELS).resize((36 // scale, 48 // scale), Image.Resampling.BICUBIC))
    found = (Bicubic(scale)(PICTURE, seeded(0)).permute(1, 2, 0) * 255).numpy()
    assert np.abs(found - wanted.astype(float)).max() <= 1.0 + 1e-4  # Pillow rounds between its two passes
    assert np.abs(found - wanted.astype(float)).mean() < 0.25
    assert np.abs(found - found.round()).max() < 1e-4  # eight bits


def test_a_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(DataError, match="36 x 48 pixels has no 1/5"):
        Bicubic(5)(PICTURE, seeded(0))


def test_blind_follows_its_generator() -> None:
    blind = Blind(4)
    first, again, other = (blind(SMOOTH, seeded(s)) for s in (1, 1, 2))
    assert first.shape == (3, 12, 12) and torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(5)
    assert torch.equal(blind(SMOOTH, seeded(1)), first)  # and no other source of randomness


def test_each_part_of_blind_does_its_own() -> None:
    """With all parts calm it is the bicubic picture; each part alone, made strong, is seen in every draw."""
    calm = {"blur_px": (1e-3, 1e-3), "resize": (1.0, 1.0), "noise": (0.0, 0.0), "jpeg_quality": (95, 95)}
    plain = Bicubic(2)(SMOOTH, seeded(0))

    def error(seed: int, **settings: object) -> float:
        return float((Blind(2, **{**calm, **settings})(SMOOTH, seeded(seed)) - plain).square().mean().sqrt())

    for seed in range(4):
        nothing = error(seed)
        assert nothing < 0.02  # a JPEG halves the colours
        assert error(seed, noise=(0.2, 0.2)) > 5 * nothing
        assert error(seed, blur_px=(4.0, 4.0)) > 2 * nothing
        assert error(seed, jpeg_quality=(1, 2)) > 5 * nothing
        assert error(seed, resize=(0.1, 0.12)) > 2 * nothing


def test_the_order_is_drawn() -> None:
    def kinds(picture: Tensor) -> float:
        return float((picture[:, 1:] - picture[:, :-1]).square().mean())

    noisy_then_blurred = {"blur_px": (3.0, 3.0), "resize": (1.0, 1.0), "noise": (0.1, 0.1)}
    found = sorted(kinds(Blind(1, **noisy_then_blurred)(SMOOTH, seeded(s))) for s in range(24))
    # Noise that is blurred later is gone; noise that came last is all there: two groups far apart.
    assert found[3] < 0.002 < 0.01 < found[-4]


def test_a_blur_has_its_own_axes() -> None:
    dot = torch.zeros(3, 41, 41)
    dot[:, 20, 20] = 1
    wide = blurred(dot, (4.0, 1.0), 0.0)
    assert float(wide.sum()) == pytest.approx(3.0, rel=1e-4)
    rows, columns = (torch.arange(41.0) - 20).square(), wide[0]
    assert float((columns.sum(0) * rows).sum()) == pytest.approx(16.0, rel=0.05)  # along the row: 4 pixels
    assert float((columns.sum(1) * rows).sum()) == pytest.approx(1.0, rel=0.05)
    turned = blurred(dot, (4.0, 1.0), torch.pi / 2)
    assert torch.allclose(turned, wide.transpose(1, 2), atol=1e-6)


def test_jpeg_is_closer_at_a_higher_quality() -> None:
    errors = [float((through_jpeg(SMOOTH, quality) - SMOOTH).abs().mean()) for quality in (5, 50, 95)]
    assert errors[0] > errors[1] > errors[2] > 0 and errors[2] < 0.01


def test_generators_of_neighbouring_numbers_are_unrelated() -> None:
    rows = torch.stack([torch.randn(4000, generator=generator_of(0, "test", i)) for i in range(6)])
    assert float((torch.corrcoef(rows) - torch.eye(6)).abs().max()) < 0.06
    assert torch.equal(rows[3], torch.randn(4000, generator=generator_of(0, "test", 3)))
    assert not torch.equal(rows[3], torch.randn(4000, generator=generator_of(0, "train", 3)))
