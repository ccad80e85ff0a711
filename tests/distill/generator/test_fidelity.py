"""Fidelity: the encoder stays bit for bit, and one number leads from the first stage's network to the second's."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from compress.distill.generator.fidelity import Fidelity, interpolate, matched
from compress.distill.generator.taps import Features
from compress.errors import ModelError, RecipeError
from tests.distill.generator.small import INPUTS, LIGHT, batch_of, learner_of, pair, paired, pictures, state, taught


def built(**options: Any) -> tuple[Fidelity, fx.GraphModule]:
    """The method for a network of the first stage, and the copy that the second trains."""
    teacher, student = pair(cut=False)
    given = {"adversary": LIGHT, "target": {"pixel": 1.0, "perceptual": 0.0}, **options}
    return Fidelity(teacher, student, INPUTS, Fidelity.options_from(given), paired()), student


def test_the_encoder_stays_bit_for_bit_and_the_decoder_learns(tmp_path: Path) -> None:
    method, student = built()
    before = state(student)
    history = taught(method, student, tmp_path, 2).history
    changed = {key for key, value in student.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if key.startswith("decoder.")}  # statistics of norms are among the keys
    assert "student.gan" in history[0] and "student.target pixel" in history[0]


def test_without_frozen_layers_everything_moves(tmp_path: Path) -> None:
    method, student = built(frozen=())
    before = state(student)
    taught(method, student, tmp_path, 1)
    assert all(not torch.equal(value, before[key]) for key, value in student.state_dict().items())


def test_the_ends_of_the_knob_are_the_two_networks() -> None:
    first, second = (state(pair(cut=False, seed=seed)[0]) for seed in (0, 1))
    second["encoder.1.num_batches_tracked"] += 7
    for a, end in ((0.0, first), (1.0, second)):
        mixed = interpolate(first, second, a)
        assert all(torch.allclose(mixed[k], end[k]) for k in end if not k.endswith("num_batches_tracked"))
    half = interpolate(first, second, 0.25)
    weights = [each["decoder.0.weight"] for each in (half, first, second)]
    assert torch.allclose(weights[0], 0.75 * weights[1] + 0.25 * weights[2])
    assert int(half["encoder.1.num_batches_tracked"]) == int(first["encoder.1.num_batches_tracked"])


def test_a_mixed_state_shares_no_memory_with_the_two() -> None:
    first, second = (state(pair(cut=False, seed=seed)[0]) for seed in (0, 1))
    kept = {key: value.clone() for key, value in first.items()}
    for value in interpolate(first, second, 0.0).values():
        value.zero_()
    assert all(torch.equal(first[key], kept[key]) for key in first)


def test_the_knob_turns_evenly_and_the_code_stays(tmp_path: Path) -> None:
    """From a = 0 to 1 the outputs move away from the first stage's at every step; the encoder's code never does."""
    method, student = built(gan=1.0, target={"pixel": 0.3, "perceptual": 0.0})
    first = state(student)
    taught(method, student, tmp_path, 4, 3e-3)
    second, x = state(student), pictures(16, 3)
    codes, away = [], []
    with torch.no_grad():
        for a in (0.0, 0.25, 0.5, 0.75, 1.0):
            student.load_state_dict(interpolate(first, second, a))
            features = Features(student, ["encoder.4"])
            away.append(float((features(x) - method.teacher(x)).abs().mean()))
            codes.append(features.caught["encoder.4"])
    assert away[0] == 0 and all(before < after for before, after in pairwise(away))
    assert all(torch.equal(code, codes[0]) for code in codes)


def test_patterns_name_layers_with_weights_or_statistics() -> None:
    _, student = pair(cut=False)
    assert matched(student, ("encoder.*",)) == ["encoder.0", "encoder.1", "encoder.3", "encoder.4"]
    assert matched(student, ("*.0",)) == ["encoder.0", "decoder.0"]
    with pytest.raises(RecipeError, match=r"no layer fits 'enc\.\*'; the student has encoder\.0"):
        built(frozen=("enc.*",))


def test_what_does_not_fit_is_refused() -> None:
    first = state(pair(cut=False)[0])
    with pytest.raises(RecipeError, match="within 0 and 1"):
        interpolate(first, first, 1.5)
    with pytest.raises(ModelError, match=r"differ in decoder\.0\.weight"):
        interpolate(first, {**first, "decoder.0.weight": torch.zeros(2)}, 0.5)
    with pytest.raises(ModelError, match="differ in other"):
        interpolate(first, {**first, "other": torch.zeros(2)}, 0.5)


def test_the_frozen_norms_run_as_in_use_during_training() -> None:
    method, student = built()
    learner = learner_of(method, student)
    learner.train()
    method.loss(learner, batch_of(method.task))
    assert not student.get_submodule("encoder.1").training and student.training
