"""The operator cases: whole, deterministic, and each about something."""

from __future__ import annotations

import pytest
import torch

from compress.conformance import CASES, FAMILIES, find_cases
from compress.conformance.case import KINDS, Case, Framed
from compress.errors import UnknownName


def test_names_are_unique_and_every_family_and_kind_has_cases() -> None:
    assert len(CASES) == sum(len(cases) for cases in FAMILIES.values()) > 250
    assert all(case.family in FAMILIES and set(case.kinds) <= set(KINDS) and case.kinds for case in CASES.values())
    assert {kind for case in CASES.values() for kind in case.kinds} == set(KINDS)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_case_computes_something_that_depends_on_every_input(family: str) -> None:
    """A constant output, or an input that is not read, would pass whatever a runtime does."""
    for case in FAMILIES[family]:
        module, (first, second) = case.module(), case.inputs(2)
        with torch.no_grad():
            output = module(*first)
            assert isinstance(output, torch.Tensor) and output.dtype == torch.float32, case.name
            assert torch.isfinite(output).all() and output.std() > 1e-4, case.name
            for place in range(len(first)):
                mixed = [second[i] if i == place else first[i] for i in range(len(first))]
                other = module(*mixed)
                assert other.shape != output.shape or (other - output).abs().max() > 1e-5, f"{case.name}, input {place}"


def test_weights_and_inputs_are_the_same_every_time_and_differ_between_cases() -> None:
    case, other = CASES["conv2d"], CASES["conv2d_no_bias"]
    torch.manual_seed(1)
    first, again = case.module().state_dict(), case.module().state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert torch.equal(case.inputs(1)[0][0], case.inputs(2)[0][0])
    assert not torch.equal(case.inputs(1)[0][0], other.inputs(1)[0][0])


def test_asking_for_a_module_leaves_torchs_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    CASES["group_norm"].module()
    CASES["group_norm"].inputs(1)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", ["batch_norm2d", "group_norm", "instance_norm2d_affine", "instance_norm2d_tracked"])
def test_a_norm_that_forgets_its_scale_or_statistics_shows(name: str) -> None:
    """Neutral values would hide a runtime that drops them."""
    case = CASES[name]
    module, inputs = case.module(), case.inputs(1)[0]
    with torch.no_grad():
        right = module(*inputs)
        for key, value in module.named_parameters():
            if "operator" in key and key.endswith(("weight", "bias")):
                kept = value.clone()
                value.fill_(1.0 if key.endswith("weight") else 0.0)
                assert (module(*inputs) - right).abs().max() > 0.01, key
                value.copy_(kept)
        for key, buffer in module.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                kept = buffer.clone()
                buffer.fill_(float(key.endswith("var")))
                assert (module(*inputs) - right).abs().max() > 0.01, key
                buffer.copy_(kept)


def test_an_operator_stands_between_two_layers() -> None:
    framed = CASES["softmax"].module()
    assert isinstance(framed, Framed)
    assert isinstance(framed.stem, torch.nn.Linear) and isinstance(framed.head, torch.nn.Linear)
    assert isinstance(CASES["cat"].module().stem, torch.nn.Conv2d)


def test_cases_are_found_by_name_and_by_family() -> None:
    assert [case.name for case in find_cases("conv2d")] == ["conv2d"]
    assert {case.family for case in find_cases("norms")} == {"norms"}
    assert len(find_cases("*")) == len(CASES)
    with pytest.raises(UnknownName, match="softmax"):
        find_cases("softmx")
    assert isinstance(find_cases("prelu*")[0], Case)
