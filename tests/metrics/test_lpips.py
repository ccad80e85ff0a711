"""LPIPS: one layer by hand, all of it against another implementation, its gradients, and weights that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchmetrics.functional.image.lpips as other
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import DataError, InputError, WeightsError
from compress.metrics import Lpips, load_lpips

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
    wrong = weights()
    wrong[2] = (wrong[2][0][:, :3], wrong[2][1])
    with pytest.raises(DataError, match=r"convolution 2 has weights \(8, 3, 3, 3\) with \(8,\) for 8 channels"):
        Lpips("alex", wrong, heads())


def test_images_that_cannot_be_compared_are_refused() -> None:
    metric = Lpips("alex", weights(), heads(0))
    with pytest.raises(DataError, match=r"\(2, 3, 48, 48\), the reference \(1, 3, 48, 48\)"):
        metric(images(1), images(2)[:1])
    with pytest.raises(DataError, match="31 pixels or more a side"):
        metric(images(1)[..., :30], images(2)[..., :30])
    with pytest.raises(DataError, match=r"RGB images \(N, 3, H, W\)"):
        metric(images(1)[:, :1], images(2)[:, :1])
    assert metric(images(1)[..., :31, :31], images(2)[..., :31, :31]).shape == (2,)


def test_gradients_flow_through_the_distance_and_not_through_the_measure() -> None:
    metric, reference = Lpips("alex", weights(), heads(0, 1, 2, 3, 4)), images(2)
    image = images(1).requires_grad_()
    assert not metric(image, reference).requires_grad
    (slope,) = torch.autograd.grad(metric.distance(image, reference).sum(), image)
    step = 1e-3 * slope / slope.norm()
    wanted = (metric(image + step, reference) - metric(image - step, reference)).sum() / (2e-3)
    assert float(wanted) == pytest.approx(float(slope.norm()), rel=0.02)
    assert all(
        torch.equal(f.detach(), g) for f, g in zip(metric.features(image), metric.features(images(1)), strict=True)
    )
    assert all(f.requires_grad for f in metric.features(image))


def test_no_nan_arises_where_nothing_is_active() -> None:
    """With biases far below 0 every position is silent; a root of a sum of squares would send NaN back from there."""
    silent = [(weight, bias - 100) for weight, bias in weights()]
    image = images(1).requires_grad_()
    with torch.autograd.set_detect_anomaly(True):
        distance = Lpips("alex", silent, heads(0, 1, 2, 3, 4)).distance(image, images(2))
        (slope,) = torch.autograd.grad(distance.sum(), image)
    assert distance.tolist() == [0.0, 0.0] and bool((slope == 0).all())


# Channels of each convolution in the real networks, and the pools ("M") between them.
LAYOUTS = {
    "alex": [(64, 11, 4, 2), "M", (192, 5, 1, 2), "M", (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)],
    "vgg": [
        entry if entry == "M" else (entry, 3, 1, 1)
        for entry in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
    ],
}


def network(backbone: str) -> nn.Sequential:
    """The convolutional part of the real network, as torchvision numbers its layers; random weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels, pool = 3, (3, 2) if backbone == "alex" else (2, 2)
    for entry in LAYOUTS[backbone]:
        if entry == "M":
            layers.append(nn.MaxPool2d(*pool))
        else:
            width, kernel, stride, padding = entry
            layers += [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_a_file_of_weights_against_another_implementation(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the published heads, under the names that they are published with, and a random backbone."""
    net = network(backbone)
    monkeypatch.setattr(other, "_get_tv_model_features", lambda name, pretrained: net)
    theirs = other._LPIPS(net=backbone)
    published = Path(other.__file__).parent / f"lpips_models/{backbone}.pth"
    tensors = {f"features.{name}": tensor for name, tensor in net.state_dict().items()}
    tensors |= torch.load(published, weights_only=True, map_location="cpu")
    save_file({**tensors, "classifier.6.bias": torch.zeros(1000)}, tmp_path / "lpips.safetensors")
    ours = load_lpips(tmp_path / "lpips.safetensors", backbone)
    a, b = images(1), images(2)
    assert torch.allclose(ours(a, b), theirs(a, b).flatten(), rtol=1e-4)
    assert not ours.training and ours(a, b).min() > 0


def named(tensors: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A small AlexNet's file."""
    found = {f"lin{number}.model.1.weight": head for number, head in enumerate(heads(0, 1, 2, 3, 4))}
    for place, (weight, bias) in zip((0, 3, 6, 8, 10), tensors, strict=True):
        found |= {f"features.{place}.weight": weight, f"features.{place}.bias": bias}
    return found


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "lpips.safetensors"
    with pytest.raises(InputError, match=r"no LPIPS weights at .*lpips\.safetensors"):
        load_lpips(path, "alex")
    path.write_bytes(b"not a header")
    with pytest.raises(WeightsError, match="damaged, or no safetensors"):
        load_lpips(path, "alex")
    save_file(named(weights()), path)
    assert torch.equal(
        load_lpips(path, "alex")(images(1), images(2)),
        Lpips("alex", weights(), heads(0, 1, 2, 3, 4))(images(1), images(2)),
    )
    with pytest.raises(WeightsError, match=r"lacks features.12.bias, .* 22 of 31"):
        load_lpips(path, "vgg")
    save_file({**named(weights()), "lin4.model.1.weight": torch.ones(3)}, path)
    with pytest.raises(WeightsError, match=r"lpips.safetensors: the LPIPS head behind convolution 4 has 3 weights"):
        load_lpips(path, "alex")
    with pytest.raises(DataError, match="no backbone 'resnet'"):
        load_lpips(path, "resnet")
