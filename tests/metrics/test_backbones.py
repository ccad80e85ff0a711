"""LPIPS convolutions as a backbone: which activations, under which name, and a distance measured on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.errors import DataError
from compress.metrics import Lpips, backbones, figure_name, frechet_distance, lpips_features

CHANNELS = (3, 6, 8, 8, 8, 5)


def metric(seed: int = 0) -> Lpips:
    """An AlexNet of few channels."""
    generator = torch.Generator().manual_seed(seed)
    convolutions = [
        (torch.randn(o, i, k, k, generator=generator) / (i * k * k) ** 0.5, torch.zeros(o))
        for i, o, k in zip(CHANNELS[:-1], CHANNELS[1:], (11, 5, 3, 3, 3), strict=True)
    ]
    return Lpips("alex", convolutions, [torch.ones(width) for width in CHANNELS[1:]])


def images(count: int, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, 48, 48, generator=torch.Generator().manual_seed(seed))


def test_rows_are_the_means_of_the_last_activations() -> None:
    features = lpips_features(metric(), last=2)
    assert features.name == "AlexNet conv4 + conv5 (ImageNet)"
    *_, fourth, fifth = metric().activations(images(2) * 2 - 1)
    wanted = torch.cat([fourth.flatten(2).mean(2), fifth.flatten(2).mean(2)], 1)
    assert torch.allclose(features.compute(images(2)), wanted, atol=1e-6)
    assert torch.equal(lpips_features(metric()).compute(images(2)), features.compute(images(2))[:, 8:])


def test_rows_keep_their_length_where_activations_for_lpips_do_not() -> None:
    """A backbone must tell a faint image from a strong one: LPIPS sets each position to length 1, rows do not."""
    net = metric()
    net.shift.zero_()
    features = lpips_features(net)
    strong = features.compute(images(2) / 2 + 0.5)
    faint = features.compute(images(2) / 4 + 0.5)  # half the signal of a network without biases
    assert torch.allclose(faint, strong / 2, atol=1e-6)
    unit = net.features(images(2))[-1].square().sum(1)
    assert bool((((unit - 1).abs() < 1e-5) | (unit == 0)).all())


def test_the_batches_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lpips_features(metric()).compute(images(7))
    monkeypatch.setattr(backbones, "_BATCH", 2)
    parts = lpips_features(metric()).compute(images(7))
    assert whole.shape == (7, 5) and torch.allclose(whole, parts, atol=1e-6)


def test_a_distance_on_the_backbone_sees_blur_grow() -> None:
    features, real = lpips_features(metric()), images(40)
    name = figure_name("Fréchet distance", features)
    assert name == "Fréchet distance on AlexNet conv5 (ImageNet)"
    found = []
    for width in (1, 3, 9):
        blurred = torch.nn.functional.avg_pool2d(images(40, 2), width, 1, width // 2)
        found.append(frechet_distance(features.compute(real), features.compute(blurred)))
    assert found[0] < found[1] < found[2]


def test_activations_that_are_not_there_are_refused() -> None:
    with pytest.raises(DataError, match="AlexNet has 5 activations to take, not 6"):
        lpips_features(metric(), last=6)
