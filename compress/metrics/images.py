"""How close two sets of images are, pixel by pixel: PSNR and SSIM, one figure per image.

Legend: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import DataError

# Equal images have an infinite PSNR, which JSON cannot hold and no mean survives. At 100 dB the error is 1e-5 of the
# range, about what float32 kernels that add in another order leave: what is nearer counts as equal.
EXACT_DB = 100.0

# Wang et al. (2004), section III.C: a Gaussian window of 11 pixels with a deviation of 1.5, and the two constants that
# keep the quotient stable, as shares of the range.
_WINDOW, _DEVIATION = 11, 1.5
_K1, _K2 = 0.01, 0.03


def psnr_db(output_NCHW: Tensor, reference_NCHW: Tensor, data_range: float) -> Tensor:
    """The peak signal-to-noise ratio of each image, in dB: float64 (N,), at most EXACT_DB.

    An image that holds NaN or infinities gets -EXACT_DB.

    Args:
        output_NCHW: the images to judge.
        reference_NCHW: what they should be.
        data_range: the width of the interval that pixels come from: 1 for [0, 1], 2 for [-1, 1].

    Raises:
        DataError: the shapes differ, or the range is not positive.
    """
    output, reference = _checked(output_NCHW, reference_NCHW, data_range)
    error_N = (output - reference).square().flatten(1).mean(1)
    ratio_N = 10 * torch.log10(data_range**2 / error_N)
    return torch.nan_to_num(ratio_N, nan=-EXACT_DB).clamp(-EXACT_DB, EXACT_DB)


def ssim(output_NCHW: Tensor, reference_NCHW: Tensor, data_range: float) -> Tensor:
    """The structural similarity of each image (Wang et al., 2004), averaged over channels: float64 (N,), 1 is equal.

    Windows lie wholly inside the image. An image that holds NaN or infinities gets -1, the lowest value there is.

    Args:
        output_NCHW: the images to judge, at least 11 pixels high and wide.
        reference_NCHW: what they should be.
        data_range: the width of the interval that pixels come from.

    Raises:
        DataError: the shapes differ, the range is not positive, or the images are smaller than the window.
    """
    x, y = _checked(output_NCHW, reference_NCHW, data_range)
    if x.dim() != 4 or min(x.shape[2:]) < _WINDOW:
        raise DataError(f"SSIM needs images (N, C, H, W) of {_WINDOW} pixels or more a side, not {tuple(x.shape)}")
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return torch.nan_to_num((above / below).flatten(1).mean(1), nan=-1.0)


def _checked(output: Tensor, reference: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Both in float64; raises DataError where they cannot be compared."""
    if output.shape != reference.shape:
        raise DataError(f"the images to judge have shape {tuple(output.shape)}, the reference {tuple(reference.shape)}")
    if not data_range > 0:
        raise DataError(f"data_range is {data_range:g}; it must be the positive width of the pixels' interval")
    return output.double(), reference.double()


def _blur(image_NCHW: Tensor) -> Tensor:
    """The Gaussian mean around each pixel whose window lies inside the image."""
    channels = image_NCHW.shape[1]
    offsets = torch.arange(_WINDOW, dtype=image_NCHW.dtype, device=image_NCHW.device) - _WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * _DEVIATION**2))
    weights = (weights / weights.sum()).expand(channels, 1, -1)
    rows = F.conv2d(image_NCHW, weights.unsqueeze(3), groups=channels)
    return F.conv2d(rows, weights.unsqueeze(2), groups=channels)
