"""A cropped kernel answers as the full one with its outer taps at zero; what cannot be cropped is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from compress.errors import CheckFailed, ModelError
from compress.graph import surgery
from compress.graph.cost import cost_of
from compress.graph.kernels import kernel_sizes, mask_kernel
from compress.graph.surgery import apply_edits
from compress.graph.trace import trace
from compress.types import ChannelEdit, KernelEdit, edit_from_dict, edit_to_dict


class Kernels(nn.Module):
    """Convolutions of every kind of padding: own, strided and dilated, reflected, "same", none, even."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Conv2d(3, 8, 7, 1, 3)
        self.strided = nn.Conv2d(8, 8, 5, 2, 4, dilation=2, groups=8)
        self.mirrored = nn.Conv2d(8, 8, 5, padding=2, padding_mode="reflect")
        self.same = nn.Conv2d(8, 8, 5, padding="same")
        self.bare = nn.Conv2d(8, 8, 3)
        self.even = nn.Conv2d(8, 4, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mirrored(self.strided(torch.relu(self.own(x))).relu()).relu()
        return self.even(self.bare(self.same(x)))


def _traced() -> tuple[fx.GraphModule, tuple[Tensor]]:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 24, 24)
    return trace(Kernels(), (x,)), (x,)


def test_sizes_are_those_that_the_padding_allows() -> None:
    model, _ = _traced()
    assert kernel_sizes(model) == {"own": (3, 5, 7), "strided": (3, 5), "mirrored": (3, 5), "same": (3, 5)}
    assert kernel_sizes(model, least=5) == {"own": (5, 7)}


@pytest.mark.parametrize(
    ("layer", "before", "size"), [("own", 7, 3), ("strided", 5, 3), ("mirrored", 5, 1), ("same", 5, 3)]
)
def test_the_cropped_model_is_the_masked_one_at_fewer_macs(layer: str, before: int, size: int) -> None:
    model, inputs = _traced()
    edit = KernelEdit(layer, size, before)
    cropped = apply_edits(model, [edit], inputs)
    full: Any = model.get_submodule(layer)
    assert cropped.get_submodule(layer).weight.shape == (*full.weight.shape[:2], size, size)
    macs = {op.where: op.macs for op in cost_of(model, inputs).ops}[layer]
    assert {op.where: op.macs for op in cost_of(cropped, inputs).ops}[layer] * before**2 == macs * size**2
    x = torch.randn(2, 3, 24, 24)
    plain = model(x)
    ring = (before - size) // 2
    with torch.no_grad():
        kept = full.weight[..., ring:-ring, ring:-ring].clone()
        full.weight.zero_()
        full.weight[..., ring:-ring, ring:-ring] = kept
    torch.testing.assert_close(cropped(x), model(x), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(cropped(x), plain, atol=1e-3)


def test_kernels_channels_and_json_go_together() -> None:
    model, inputs = _traced()
    edits = [ChannelEdit("own", 8, (1, 2)), KernelEdit("own", 3, 7), KernelEdit("strided", 3, 5)]
    assert [edit_from_dict(edit_to_dict(edit)) for edit in edits] == edits
    cut = apply_edits(model, edits, inputs)  # raises if it is not clean
    assert cut.get_submodule("own").weight.shape == (6, 3, 3, 3)
    assert cut.get_submodule("strided").weight.shape == (6, 1, 3, 3)


def test_the_check_sees_a_crop_that_is_not_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = _traced()
    monkeypatch.setattr(surgery, "mask_kernel", lambda masked, edit: mask_kernel(masked, KernelEdit("own", 5, 7)))
    with pytest.raises(CheckFailed, match="differs from the masked one"):
        apply_edits(model, [KernelEdit("own", 3, 7)], inputs)


def test_the_original_and_its_pad_are_left_alone() -> None:
    model, inputs = _traced()
    before = model(inputs[0])
    apply_edits(model, [KernelEdit("mirrored", 3, 5), KernelEdit("own", 5, 7)], inputs)
    assert torch.equal(model(inputs[0]), before)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (KernelEdit("nowhere", 3, 5), "'nowhere', which this model does not have"),
        (KernelEdit("own", 3, 5), "'own' to have kernels of 5; this model has 7"),
        (KernelEdit("own", 4, 7), "only odd sizes up to 7"),
        (KernelEdit("bare", 1, 3), "too little padding"),
        (KernelEdit("even", 3, 4), "4x4, not square and odd"),
    ],
)
def test_what_cannot_be_cropped_is_refused_by_name(edit: KernelEdit, reason: str) -> None:
    model, inputs = _traced()
    with pytest.raises(ModelError, match=reason):
        apply_edits(model, [edit], inputs)
