"""Each monitor tells the ailment from health on made-up outputs; the guard is patient, acts once, and resumes."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import DataError
from compress.train.health import Guard, HealthLimits, LoopGuard
from compress.train.monitors import checkerboard, colour_shift, coverage, discriminator_wins

LIMITS = HealthLimits()
WINS, EVEN = {"sign_real": 1.0, "sign_fake": 0.96}, {"sign_real": 0.3, "sign_fake": 0.2}


def photos(count: int = 100, side: int = 32, seed: int = 0) -> Tensor:
    """Images with the falling spectrum of photos, around [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(side)
    falling = 1 / (frequency[:, None].square() + frequency.square()).sqrt().clamp(min=1 / side)
    noise = torch.fft.fft2(torch.randn(count, 3, side, side, generator=generator))
    images = torch.fft.ifft2(noise * falling).real
    return images / images.std() * 0.4


def stripes(stride: int, side: int = 32) -> Tensor:
    """A pattern as transposed convolutions leave it: every `stride`-th row and column a little brighter."""
    line = torch.zeros(side)
    line[::stride] = 1
    return line[:, None] * line


def test_always_right_is_one_and_guessing_is_half() -> None:
    assert discriminator_wins({"sign_real": 1.0, "sign_fake": 1.0}) == 1.0
    assert discriminator_wins({"sign_real": 0.0, "sign_fake": 0.0}) == 0.5
    assert discriminator_wins({"sign_real": 0.6, "sign_fake": 0.6}) == pytest.approx(0.8)


def modes(kept: int, seed: int, noise: float = 0.1) -> Tensor:
    """300 points around `kept` of ten places."""
    generator = torch.Generator().manual_seed(seed)
    places = 5 * torch.randn(10, 4, generator=torch.Generator().manual_seed(9))
    picks = torch.randint(kept, (300,), generator=generator)
    return places[picks] + noise * torch.randn(300, 4, generator=generator)


def test_coverage_counts_the_modes_that_are_left() -> None:
    whole = coverage(modes(10, seed=1), modes(10, seed=2))
    half = coverage(modes(5, seed=1), modes(10, seed=2))
    assert whole > 0.9 and half == pytest.approx(0.5, abs=0.08)
    assert coverage(torch.zeros(300, 4), modes(10, seed=2)) < 0.1


def test_noise_does_not_pass_for_coverage() -> None:
    assert coverage(modes(10, seed=1, noise=20.0), modes(10, seed=2)) < 0.1


def test_coverage_needs_more_samples_than_neighbours() -> None:
    with pytest.raises(DataError, match="needs more than 5 probe samples"):
        coverage(torch.zeros(5, 2), torch.zeros(5, 2))


def test_a_colour_cast_is_measured_in_the_teachers_deviations() -> None:
    x = photos()
    cast, flat = x.clone(), x.clone()
    cast[:, 1] += 0.3 * x[:, 1].std()
    flat[:, 2] = 0.6 * flat[:, 2]
    assert colour_shift(x, x) == 0 and colour_shift(photos(seed=1), x) < LIMITS.colour
    assert colour_shift(cast, x) == pytest.approx(0.3, rel=1e-4)
    assert colour_shift(flat, x) == pytest.approx(0.4, rel=1e-4)
    assert math.isnan(colour_shift(x * math.nan, x))


@pytest.mark.parametrize("stride", [2, 4])
def test_a_checkerboard_stands_out_of_photos(stride: int) -> None:
    x, y = photos(), photos(seed=1)
    assert checkerboard(x, x) == 1 and checkerboard(y, x) < 2
    assert checkerboard(y + 0.05 * stride * stripes(stride), x) > LIMITS.checkerboard
    # A softer student, or one that is brighter, has no checkerboard; neither has one whose teacher has the same.
    assert checkerboard(F.avg_pool2d(y, 3, 1, 1), x) < LIMITS.checkerboard
    assert checkerboard(y + 1, x) < 2
    assert checkerboard(y + 0.2 * stripes(stride), x + 0.2 * stripes(stride)) < 2


def test_the_checkerboard_of_a_transposed_convolution_is_found() -> None:
    x, coarse = photos(), F.avg_pool2d(photos(seed=1), 2)
    smooth = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    uneven = F.conv_transpose2d(coarse, torch.ones(3, 1, 3, 3) / 2.25, stride=2, padding=1, output_padding=1, groups=3)
    assert checkerboard(smooth, x) < LIMITS.checkerboard < checkerboard(uneven, x)


def test_sound_has_a_whistle_instead_and_tiny_images_have_none() -> None:
    x = torch.randn(50, 1, 256, generator=torch.Generator().manual_seed(0))
    whistle = 0.5 * torch.tensor([1.0, 0.0, -1.0, 0.0]).repeat(64)
    assert checkerboard(x + whistle, x) > LIMITS.checkerboard
    assert checkerboard(torch.randn(9, 1, 8, 8), torch.randn(9, 1, 8, 8)) == 0


TEACHER = photos(10).repeat(10, 1, 1, 1) + 0.2 * photos(100, seed=2)  # ten motifs, ten images of each


def student(motifs: int = 10, cast: float = 0.0) -> Tensor:
    """New images of the first so many of the teacher's motifs, brighter by `cast`."""
    return photos(10)[:motifs].repeat(10, 1, 1, 1)[torch.arange(100) % (10 * motifs)] + 0.2 * photos(100, seed=3) + cast


def kinds(guard: Guard, epoch: int, outputs: Tensor, stats: dict[str, float] = EVEN) -> dict[str, str]:
    return {f.what: f.action.kind for f in guard.look(epoch, stats, outputs, TEACHER)}


def test_a_healthy_training_has_no_findings_and_its_epochs_are_good() -> None:
    guard = Guard()
    assert [kinds(guard, epoch, student()) for epoch in range(4)] == [{}] * 4
    assert guard.last_good == 3


def test_a_winning_discriminator_is_slowed_after_window_and_patience() -> None:
    guard = Guard()
    seen = [guard.look(epoch, WINS, student(), TEACHER) for epoch in range(4)]
    assert [bool(found) for found in seen] == [False, False, True, True]  # three epochs fill the window
    assert seen[2][0].action.kind == "none"
    finding = seen[3][0]
    assert (finding.epoch, finding.what, finding.limit) == (3, "discriminator_wins", LIMITS.right_share)
    assert finding.value == pytest.approx(0.99)
    assert (finding.action.kind, finding.action.player, finding.action.factor) == ("lower_rate", "discriminator", 0.5)
    # It is given a whole window to show that it helped.
    assert [kinds(guard, epoch, student(), WINS) for epoch in (4, 5)] == [{}, {}]


def test_a_collapse_goes_back_to_the_last_good_epoch_at_lower_rates() -> None:
    guard = Guard()
    kinds(guard, 0, student())
    kinds(guard, 1, student())
    assert kinds(guard, 2, student(motifs=4))["mode_dropping"] == "none"  # it may have been an accident
    found = {f.what: f for f in guard.look(3, EVEN, student(motifs=4), TEACHER)}["mode_dropping"]
    assert (found.action.kind, found.action.epoch, found.action.factor) == ("rollback", 1, 0.5)
    assert found.value > found.limit == pytest.approx(0.33)


def test_a_student_that_has_not_arrived_yet_is_left_alone() -> None:
    guard = Guard()
    for epoch in range(6):
        assert kinds(guard, epoch, student(cast=0.5))["colour_shift"] == "none"
    assert guard.last_good == 5 and guard.actions == 0
    assert kinds(guard, 6, student()) == {}
    assert [kinds(guard, e, student(cast=0.5))["colour_shift"] for e in (7, 8)] == ["none", "rollback"]


def test_two_ailments_at_once_are_one_action() -> None:
    guard = Guard(HealthLimits(window=1))
    kinds(guard, 0, student())
    for epoch in (1, 2):
        found = guard.look(epoch, WINS, student(cast=0.5), TEACHER)
    assert {f.what for f in found} >= {"discriminator_wins", "colour_shift"}
    assert {f.action.kind for f in found if f.what in ("discriminator_wins", "colour_shift")} == {"rollback"}
    assert guard.actions == 1


def test_it_stops_after_so_many_actions() -> None:
    guard = Guard(HealthLimits(actions=2, patience=1))
    kinds(guard, 0, student())
    acted = [kinds(guard, epoch, student(cast=0.5))["colour_shift"] for epoch in range(1, 4)]
    assert acted == ["rollback", "rollback", "stop"]


def test_outputs_that_are_not_finite_are_a_finding_of_every_monitor() -> None:
    guard = Guard()
    kinds(guard, 0, student())
    found = guard.look(1, {}, student() * math.nan, TEACHER)
    assert {f.what for f in found} == {"mode_dropping", "colour_shift", "checkerboard"}


def test_it_resumes_from_plain_data() -> None:
    guard = Guard(HealthLimits(patience=3))
    for epoch, outputs in enumerate([student(), student(), student(cast=0.5), student(cast=0.5)]):
        guard.look(epoch, WINS, outputs, TEACHER)
    state = json.loads(json.dumps(guard.to_dict()))
    resumed = Guard(guard.limits)
    resumed.load_dict(state)
    first, second = (each.look(4, WINS, student(cast=0.5), TEACHER) for each in (guard, resumed))
    assert first == second and any(f.action.kind == "rollback" for f in first)
    assert state["beyond"]["colour_shift"] == 2  # what was written is not the guard's own


def test_outputs_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match="have to be equal"):
        Guard().look(0, {}, student()[:5], TEACHER)


def orders(guard: LoopGuard, epoch: int) -> list[tuple[str, str, float]]:
    row = {"stats": {"sign_real": 0.2, "sign_fake": 0.3, "noise_length": 10.0}}
    found = [(order.action, order.player, order.factor) for order in guard.after_epoch(epoch, row)]
    json.dumps(row, allow_nan=False)
    return found


def test_the_loop_gets_orders_and_never_takes_a_suspect_epoch_for_good() -> None:
    outputs = {"now": student()}
    guard = LoopGuard(Guard(), lambda: (outputs["now"], TEACHER), ("generator", "judge"), discriminator="judge")
    assert orders(guard, 0) == []
    outputs["now"] = student(cast=0.5)
    assert orders(guard, 1) == [("wait", "", 0.5)]  # changes nothing, and is an order
    first, *rates = orders(guard, 2)
    assert first[0] == "rollback" and rates == [("lower_rate", "generator", 0.5), ("lower_rate", "judge", 0.5)]
    outputs["now"] = student() * math.nan
    assert orders(guard, 3) == [("wait", "", 0.5)]


def test_the_loop_is_told_which_player_to_slow() -> None:
    guard = LoopGuard(Guard(HealthLimits(window=1, patience=1)), lambda: (student(), TEACHER), ("g", "d"), "d")
    row = {"stats": WINS}
    assert [kinds(guard.guard, 0, student(), EVEN)] == [{}]
    found = guard.after_epoch(1, row)
    assert ("lower_rate", "d", 0.5) in [(o.action, o.player, o.factor) for o in found]
    assert row["findings"] == [
        "discriminator wins: 0.99 (limit 0.95); the learning rate of the discriminator was multiplied by 0.5"
    ]
