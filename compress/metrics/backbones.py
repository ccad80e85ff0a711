"""Backbones that turn images into feature rows, from weights that a user has brought for LPIPS."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.errors import DataError
from compress.metrics.frechet import Features
from compress.metrics.lpips import Lpips

_TITLES = {"alex": "AlexNet", "vgg": "VGG16"}
_LAYERS = {
    "alex": ("conv1", "conv2", "conv3", "conv4", "conv5"),
    "vgg": ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"),
}
_BATCH = 32  # images at a time, whatever is handed over


def lpips_features(metric: Lpips, last: int = 1) -> Features:
    """The backbone of an LPIPS metric as `Features`: its last activations, averaged over all positions.

    Images go in at their own size, at least 31 pixels a side for AlexNet and 16 for VGG16; figures on images of
    different size cannot be compared. A model that was trained with this backbone in its loss looks better on it than
    it is: judge it by another one.

    Args:
        metric: whose convolutions to use; moved to another device, it takes the features along.
        last: how many of the five activations that LPIPS reads to take, counted from the last; they are put side by
            side. The last alone has 256 features in AlexNet, 512 in VGG16.

    Raises:
        DataError: `last` is not from 1 to 5.
    """
    names = _LAYERS[metric.backbone]
    if not 1 <= last <= len(names):
        raise DataError(f"{_TITLES[metric.backbone]} has {len(names)} activations to take, not {last}")

    @torch.no_grad()
    def compute(images_N3HW: Tensor) -> Tensor:
        batches = [metric.activations(2 * batch - 1)[-last:] for batch in images_N3HW.split(_BATCH)]
        return torch.cat([torch.cat([x.mean((2, 3)) for x in layers], 1) for layers in batches])

    return Features(f"{_TITLES[metric.backbone]} {' + '.join(names[-last:])} (ImageNet)", compute)
