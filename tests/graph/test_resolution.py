"""A model at another resolution answers as it does on the scaled image; one that cannot work there is refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from compress.errors import ModelError
from compress.graph.cost import cost_of
from compress.graph.resolution import legal_sizes, resize_input
from compress.graph.surgery import apply_edits
from compress.graph.trace import trace
from compress.types import ChannelEdit, ResolutionEdit, edit_from_dict, edit_to_dict
from tests.models import Concatenating, TinyResNet, Upsampling, randomize_norms


def _resnet(height: int, width: int):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    x = torch.randn(1, 1, height, width)
    return trace(randomize_norms(TinyResNet()), (x,)), (x,)


def test_the_edited_model_is_the_model_on_the_scaled_image_at_a_quarter_of_the_macs() -> None:
    model, inputs = _resnet(16, 16)
    small = apply_edits(model, [ResolutionEdit((8, 8), (16, 16))], inputs)
    x = torch.randn(3, 1, 16, 16)
    scaled = F.interpolate(x, size=(8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(small(x), model(scaled))
    assert not torch.allclose(small(x), model(x), atol=1e-3)
    head = 32 * 4
    assert cost_of(small, inputs).macs - head == (cost_of(model, inputs).macs - head) / 4


def test_a_second_resize_takes_the_place_of_the_first() -> None:
    model, inputs = _resnet(16, 16)
    twice = apply_edits(apply_edits(model, [ResolutionEdit((12, 12), (16, 16))], inputs), [], inputs)
    resize_input(twice, (8, 8), inputs)
    once = apply_edits(model, [ResolutionEdit((8, 8), (16, 16))], inputs)
    assert torch.equal(twice(inputs[0]), once(inputs[0]))


def test_the_edit_comes_back_from_json_and_goes_with_cut_channels() -> None:
    model, inputs = _resnet(16, 16)
    edits = [ChannelEdit("block2.conv1", 16, (1, 2, 3)), ResolutionEdit((8, 8), (16, 16))]
    replayed = [edit_from_dict(edit_to_dict(edit)) for edit in edits]
    assert replayed == edits
    both = apply_edits(model, replayed, inputs)  # raises if the cut is not clean
    assert both.get_submodule("block2.conv1").out_channels == 13


def test_sizes_keep_the_shape_of_the_image() -> None:
    model, inputs = _resnet(32, 64)
    assert legal_sizes(model, inputs, 8, 0.5) == ((16, 32), (24, 48), (32, 64))
    assert legal_sizes(model, inputs, 8, 0.7) == ((24, 48), (32, 64))


def test_a_generator_and_a_model_with_its_size_built_in_are_refused_by_name() -> None:
    x = torch.randn(1, 3, 8, 8)
    generator, fixed = trace(Upsampling(), (x,)), trace(Concatenating(), (x,))
    assert legal_sizes(generator, (x,), 4, 0.1) == legal_sizes(fixed, (x,), 4, 0.1) == ()
    with pytest.raises(ModelError, match="output follows its input's size"):
        resize_input(generator, (4, 4), (x,))
    with pytest.raises(ModelError, match="cannot work at 4x4 pixels"):
        resize_input(fixed, (4, 4), (x,))
