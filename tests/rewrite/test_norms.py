"""Instance norms by fixed statistics: exact where the pictures' are the same, else the best there is, or left alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress import rewrite
from compress.errors import DataError
from compress.rewrite import RewriteSettings
from tests.rewrite.nets import close, ops, traced


def normed(before: nn.Module, channels: int, affine: bool = True, after: nn.Module | None = None) -> nn.Sequential:
    """A net whose norm has scales and shifts that are not the trivial ones."""
    norm = nn.InstanceNorm2d(channels, affine=affine)
    if affine:
        norm.weight.data, norm.bias.data = 0.5 + torch.rand(channels), torch.randn(channels)
    return nn.Sequential(before, norm, after or nn.ReLU())


def alike(count: int = 3, size: int = 12) -> list[Tensor]:
    """Batches of one picture rolled around: the statistics of what pointwise layers see are the same in all of them."""
    picture = torch.randn(1, 3, size, size)
    return [torch.cat([picture.roll((i, j), (2, 3)) for j in range(2)]) for i in range(count)]


def unlike(count: int = 3) -> list[Tensor]:
    """Batches of pictures whose contrast differs by a factor of ten."""
    return [
        torch.randn(2, 3, 12, 12) * torch.logspace(-0.5, 0.5, 2 * count)[2 * i : 2 * i + 2].reshape(2, 1, 1, 1)
        for i in range(count)
    ]


BEFORE = [
    nn.Conv2d(3, 6, 1),
    nn.Conv2d(3, 6, 1, bias=False),
    nn.Conv2d(3, 6, 1, groups=3),
    nn.ConvTranspose2d(3, 6, 2, 2),
]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("before", BEFORE, ids=str)
def test_statistics_that_never_change_fold_exactly(before: nn.Module, affine: bool) -> None:
    net, batches = normed(before, 6, affine), alike()
    module, inputs = traced(net, 1, 3, 12, 12)
    plan = rewrite.plan(module, RewriteSettings(norms="fold", norm_error=1e-3), inputs, batches)
    made = rewrite.apply(module, plan, inputs)
    assert [site.form for site in plan.sites] == ["folded"]
    assert not any("instance_norm" in op for op in ops(made)) and len(ops(made)) == 2
    assert set(made.state_dict()) == {"0.weight", "0.bias"}
    for batch in batches:
        close(made(batch), net(batch), 1e-4)
    assert plan.after["output_error"] < 1e-4


def test_the_fixed_norm_is_the_best_and_its_error_is_what_the_plan_says() -> None:
    """The figure is the error on the batches relative to the spread; any other scale or shift does worse."""
    net, batches = normed(nn.Conv2d(3, 4, 3), 4, after=nn.Identity()), unlike()
    module, inputs = traced(net, 1, 3, 12, 12)
    plan = rewrite.plan(module, RewriteSettings(norms="fold", norm_error=2.0), inputs, batches)
    made, x = rewrite.apply(module, plan, inputs), torch.cat(batches)
    layer, norm = made.get_submodule("0"), net[1]
    with torch.no_grad():
        want = net(x)
        spread = (want - norm.bias.reshape(1, -1, 1, 1)).square().sum().sqrt()

        def missed() -> float:
            return float((made(x) - want).norm() / spread)

        best = missed()
        assert best == pytest.approx(plan.sites[0].values["error"], rel=1e-3) and best > 0.1
        for channel in range(4):
            for change in (0.97, 1.03):
                layer.weight[channel] *= change
                assert missed() > best
                layer.weight[channel] /= change
            for change in (-0.03, 0.03):
                layer.bias[channel] += change
                assert missed() > best
                layer.bias[channel] -= change


def test_each_norm_is_fixed_or_kept_by_its_own_error() -> None:
    """A norm of pictures with changing contrast stays; behind it the contrast is the same: the next one goes."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4), nn.Conv2d(4, 4, 1), nn.InstanceNorm2d(4))
    module, inputs = traced(net, 1, 3, 48, 48)
    batches = [torch.randn(2, 3, 48, 48) * scale for scale in (0.3, 1.0, 3.0)]
    plan = rewrite.plan(module, RewriteSettings(norms="fold", norm_error=0.15), inputs, batches)
    first, second = plan.sites
    assert first.form == "" and first.values["error"] > 0.3 and "above 0.15" in first.after
    assert second.form == "folded" and second.values["error"] < 0.15
    assert ops(rewrite.apply(module, plan, inputs)).count("aten.instance_norm.default") == 1


class Shared(nn.Module):
    """A convolution whose output is read beside its norm, so that nothing can be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return F.relu(self.norm(y)) + y


def test_without_a_layer_to_go_into_it_becomes_one_tap_per_channel() -> None:
    net, batches = Shared(), alike()
    net.norm.weight.data, net.norm.bias.data = torch.rand(4), torch.randn(4)
    module, inputs = traced(net, 1, 3, 12, 12)
    plan = rewrite.plan(module, RewriteSettings(norms="fold"), inputs, batches)
    made = rewrite.apply(module, plan, inputs)
    assert [site.form for site in plan.sites] == ["affine"] and ops(made).count("Conv2d") == 2
    close(made(batches[0]), net(batches[0]), 1e-4)


@pytest.mark.parametrize("batches", [None, []])
def test_norms_need_batches(batches) -> None:
    module, inputs = traced(normed(nn.Conv2d(3, 4, 1), 4), 1, 3, 12, 12)
    with pytest.raises(DataError, match="needs batches"):
        rewrite.plan(module, RewriteSettings(norms="fold"), inputs, batches)


def test_a_model_without_norms_needs_none() -> None:
    module, inputs = traced(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), 1, 3, 12, 12)
    assert rewrite.plan(module, RewriteSettings(norms="fold"), inputs).sites == ()
