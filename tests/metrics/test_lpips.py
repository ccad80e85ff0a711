"""LPIPS: its formula written out for one layer, what the heads do, and weights that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import DataError
from compress.metrics import Lpips

CHANNELS = (3, 6, 8, 8, 8, 8)
KERNELS = (11, 5, 3, 3, 3)


def weights(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """An AlexNet of few channels."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(o, i, k, k, generator=generator) / (i * k * k) ** 0.5, torch.randn(o, generator=generator) * 0.1)
        for i, o, k in zip(CHANNELS[:-1], CHANNELS[1:], KERNELS, strict=True)
    ]


def heads(*used: int) -> list[Tensor]:
    """Heads of which only those in `used` count."""
    return [torch.full((width,), float(number in used)) for number, width in enumerate(CHANNELS[1:])]


def images(seed: int) -> Tensor:
    return torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_first_layer_by_hand() -> None:
    found = Lpips("alex", weights(), heads(0))(images(1), images(2))
    weight, bias = weights()[0]
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    units = []
    for seed in (1, 2):
        x = (images(seed) - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1)
        units.append(F.normalize(F.conv2d(x, weight, bias, 4, 2).relu(), dim=1))
    wanted = (units[0] - units[1]).square().sum(1).mean((1, 2))
    assert torch.allclose(found, wanted, atol=1e-6)


def test_equal_images_have_no_distance_and_each_head_adds_its_own() -> None:
    metric = Lpips("alex", weights(), heads(0, 1, 2, 3, 4))
    a, b = images(1), images(2)
    assert metric(a, a).tolist() == [0.0, 0.0]
    parts = sum(Lpips("alex", weights(), heads(number))(a, b) for number in range(5))
    assert torch.allclose(metric(a, b), parts, atol=1e-6) and metric(a, b).min() > 0
    assert Lpips("alex", weights(), heads())(a, b).tolist() == [0.0, 0.0]


def test_more_noise_is_further_away() -> None:
    metric, clean = Lpips("alex", weights(), heads(0, 1, 2, 3, 4)), images(1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    little, much = metric(clean + 0.05 * noise, clean), metric(clean + 0.5 * noise, clean)
    assert bool((little < much).all())


def test_weights_of_another_net_are_refused() -> None:
    with pytest.raises(DataError, match="13 convolutions and 5 heads; it was given 5 and 5"):
        Lpips("vgg", weights(), heads())
    with pytest.raises(DataError, match="has 3 weights for 8 channels"):
        Lpips("alex", weights(), [*heads()[:4], torch.ones(3)])
    with pytest.raises(DataError, match="no backbone 'resnet'"):
        Lpips("resnet", weights(), heads())
