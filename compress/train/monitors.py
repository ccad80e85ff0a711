"""Monitors of an adversarial training: one number each, from plain tensors; limits and actions are in `health`.

Legend: outputs of student and teacher on the same probe, images (N, C, H, W) or sound (N, C, T).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compress.errors import DataError

_NEIGHBOURS = 5
_STRIDES = (2, 4)
_SMALLEST_SPECTRUM = 32  # pixels a side; below, a blur's own side lobes pass for peaks


def discriminator_wins(stats: Mapping[str, float]) -> float:
    """The share of right judgements, 0 to 1, from the mean signs of real and fake samples (1 is always right)."""
    return (2 + stats["sign_real"] + stats["sign_fake"]) / 4


def coverage(student_ND: Tensor, teacher_ND: Tensor) -> float:
    """The share of the teacher's samples that have a student's sample among their neighbours, 0 to 1.

    The recall of Naeem et al. (2020): near is what is nearer than the k-th other teacher's sample. Balls around the
    student's samples, as in the older recall, grow with its noise, so that a bad student would recall everything.
    """
    if len(teacher_ND) <= _NEIGHBOURS:
        raise DataError(f"coverage needs more than {_NEIGHBOURS} probe samples, not {len(teacher_ND)}; give it more")
    student, teacher = student_ND.double(), teacher_ND.double()
    # The nearest is the sample itself, at distance 0.
    radius_N = torch.cdist(teacher, teacher).kthvalue(_NEIGHBOURS + 1, dim=1).values
    return float((torch.cdist(teacher, student).amin(1) <= radius_N).double().mean())


def colour_shift(outputs: Tensor, teacher_outputs: Tensor) -> float:
    """The largest difference of a channel's mean or deviation, in deviations of the teacher's channel: (N, C, ...)."""
    ours, theirs = (x.double().transpose(0, 1).flatten(1) for x in (outputs, teacher_outputs))
    # A channel that the teacher leaves all but constant is measured by the others.
    deviation = torch.maximum(theirs.std(1), 0.01 * theirs.std())
    shift = (ours.mean(1) - theirs.mean(1)).abs() / deviation
    spread = (ours.std(1) / deviation - 1).abs()
    return float(torch.maximum(shift, spread).max())


def checkerboard(outputs: Tensor, teacher_outputs: Tensor) -> float:
    """How much higher the outputs' spectrum peaks at the frequencies of strides 2 and 4 than the teacher's does.

    The largest ratio over those frequencies; 1 for equal spectra, 0 where the samples are too small to tell. Images
    (N, C, H, W), or sound (N, C, T), where the pattern is a whistle.
    """
    if min(outputs.shape[2:]) < _SMALLEST_SPECTRUM:
        return 0.0
    return float((_peaks(outputs) / _peaks(teacher_outputs)).max())


def shrunk(outputs: Tensor) -> Tensor:
    """The outputs averaged down to at most 8 positions a side, as rows."""
    x_NCHW = outputs.double() if outputs.dim() == 4 else outputs.double().unsqueeze(2)
    height, width = x_NCHW.shape[2:]
    return torch.nn.functional.adaptive_avg_pool2d(x_NCHW, (min(8, height), min(8, width))).flatten(1)


def _peaks(outputs: Tensor) -> Tensor:
    """Power at each frequency of the strides over the median around it, for the batch as a whole."""
    x = outputs.double()
    x = x.unsqueeze(2) if x.dim() == 3 else x
    sides = [side - side % max(_STRIDES) if side > 1 else 1 for side in x.shape[2:]]
    x = x[..., : sides[0], : sides[1]]
    x = x - x.mean((2, 3), keepdim=True)
    # A Hann window keeps what jumps from border to border out of the axes, where the peaks are; it widens a peak to
    # its next neighbours, so the surroundings are two steps away.
    for axis, side in zip((2, 3), sides, strict=True):
        window = torch.hann_window(side, dtype=x.dtype, device=x.device) if side > 1 else torch.ones(1).to(x)
        x = x * window.view(-1, *[1] * (3 - axis))
    power = torch.fft.fft2(x).abs().square().mean((0, 1))
    found = [
        power[row, column] / _around(power, row, column).clamp(min=1e-30)
        for row, column in _stride_frequencies(sides[0], sides[1])
    ]
    return torch.stack(found)


def _stride_frequencies(height: int, width: int) -> list[tuple[int, int]]:
    """The bins of all multiples of 1 / stride along rows, columns or both; a half of the plane, the other mirrors."""
    finest = max(_STRIDES)
    rows = [k * height // finest for k in range(finest)] if height > 1 else [0]
    columns = [k * width // finest for k in range(finest // 2 + 1)]
    return [(row, column) for row in rows for column in columns if (row, column) != (0, 0)]


def _around(power: Tensor, row: int, column: int) -> Tensor:
    """The median power two bins away, along either axis and across; a mean would be all low frequencies."""
    height, width = power.shape
    tall = range(-2, 3) if height > 1 else (0,)
    near = [(i, j) for i in tall for j in range(-2, 3) if max(abs(i), abs(j)) == 2]
    rows, columns = [(row + i) % height for i, _ in near], [(column + j) % width for _, j in near]
    return power[rows, columns].median()
