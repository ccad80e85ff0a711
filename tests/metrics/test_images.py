"""PSNR and SSIM against their formulas and another implementation, and what damaged images get."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from compress.errors import DataError
from compress.metrics import psnr_db, ssim


def pictures(count: int = 2, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3))


def test_psnr_of_a_constant_error() -> None:
    reference = pictures()
    found = psnr_db(reference + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1), reference, 1.0)
    assert found.tolist() == pytest.approx([20.0, 40.0], abs=1e-3)
    wider = psnr_db(reference + 0.1, reference, 2.0)
    assert wider.tolist() == pytest.approx([20 * math.log10(20)] * 2, abs=1e-3)


def test_equal_images_have_the_highest_figures() -> None:
    image = pictures()
    assert psnr_db(image, image, 1.0).tolist() == [100.0, 100.0]
    assert ssim(image, image, 1.0).tolist() == pytest.approx([1.0, 1.0], abs=1e-12)


def test_ssim_of_one_window_by_hand() -> None:
    x, y = (pictures(1, 11)[0, channel].double().numpy() for channel in (0, 1))
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights = np.outer(line, line) / np.outer(line, line).sum()
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    var_x, var_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
    both = (weights * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    wanted = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    found = ssim(*(torch.from_numpy(image).view(1, 1, 11, 11) for image in (x, y)), data_range=2.0)
    assert found.item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_both_figures_against_another_implementation(data_range: float) -> None:
    reference = pictures(3, 40)
    output = (reference + 0.1 * torch.randn(reference.shape, generator=torch.Generator().manual_seed(1))).double()
    reference = reference.double()
    theirs = peak_signal_noise_ratio(output, reference, data_range, reduction="none", dim=(1, 2, 3))
    assert torch.allclose(
        psnr_db(output, reference, data_range), theirs, rtol=1e-6
    )  # theirs takes the logarithm in float32
    _, theirs = structural_similarity_index_measure(
        output, reference, data_range=data_range, reduction="none", return_full_image=True
    )
    inside = theirs[..., 5:-5, 5:-5].flatten(1).mean(1)  # it also has the windows that reach over the mirrored border
    assert torch.allclose(ssim(output, reference, data_range), inside, atol=1e-9)


def test_ssim_sees_structure_where_psnr_does_not() -> None:
    """A shift in brightness and noise of the same power: PSNR is equal, SSIM tells them apart."""
    image = pictures(1, 64)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    noise = 0.1 * noise / noise.square().mean().sqrt()
    shifted, noisy = image + 0.1, image + noise
    assert psnr_db(shifted, image, 1.0).item() == pytest.approx(psnr_db(noisy, image, 1.0).item(), abs=1e-3)
    assert ssim(shifted, image, 1.0).item() > ssim(noisy, image, 1.0).item() + 0.02


def test_an_image_with_nan_gets_the_lowest_figures() -> None:
    image, broken = pictures(), pictures()
    broken[0, 0, 0, 0], broken[1, 0, 0, 0] = math.nan, math.inf
    assert psnr_db(broken, image, 1.0).tolist() == [-100.0, -100.0]
    assert ssim(broken, image, 1.0).tolist() == [-1.0, -1.0]


def test_images_that_cannot_be_compared_are_refused() -> None:
    image = pictures()
    with pytest.raises(DataError, match="the reference"):
        psnr_db(image, image[:1], 1.0)
    with pytest.raises(DataError, match="data_range is 0"):
        psnr_db(image, image, 0.0)
    with pytest.raises(DataError, match="11 pixels or more"):
        ssim(image[..., :8], image[..., :8], 1.0)
