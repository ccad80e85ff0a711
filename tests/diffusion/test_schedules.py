"""Schedules invert their own clocks; what networks predict converts exactly, in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from compress.diffusion import Cosine, Denoiser, Discrete, Edm, Flow, Trig, karras, karras_levels, preconditioning_of
from compress.diffusion.preconditioning import consistency, trig
from compress.errors import DataError, RecipeError

LINEAR = Discrete.of_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
SCHEDULES = [Edm(), Flow(), Cosine(), Trig(), Trig(1.0), LINEAR]
PREDICTIONS = ["epsilon", "sample", "v_prediction", "flow_prediction", "karras", "consistency", "trig"]
LEVELS = torch.logspace(-1.8, 1.8, 41, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_the_time_of_a_level_has_that_level(schedule: Edm) -> None:
    times = schedule.time(LEVELS)
    assert bool((times.diff() > 0).all())
    torch.testing.assert_close(schedule.level(times), LEVELS, rtol=1e-10, atol=0)
    torch.testing.assert_close(schedule.signal_at(LEVELS) * LEVELS, schedule.noise(times), rtol=1e-10, atol=0)


def test_clocks_end_where_they_should() -> None:
    one = torch.ones((), dtype=torch.float64)
    assert float(Flow().time(one)) == 0.5 and float(Cosine().time(one)) == pytest.approx(0.5)
    assert float(Trig(0.5).time(0.5 * one)) == pytest.approx(math.pi / 4)
    whole = torch.tensor([0.0, 999.0], dtype=torch.float64)
    power = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[[0, -1]]
    torch.testing.assert_close(LINEAR.signal(whole) ** 2, power)
    assert float(LINEAR.time(1e6 * one)) == 999.0 and float(LINEAR.time(1e-6 * one)) == 0.0


@pytest.mark.parametrize(
    "prediction", ["epsilon", "sample", "v_prediction", "flow_prediction", "karras", "consistency", "trig"]
)
@pytest.mark.parametrize("schedule", [Cosine(), LINEAR], ids=lambda s: s.name)
def test_a_network_that_says_the_truth_denoises_to_it(prediction: str, schedule: Cosine) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(len(LEVELS), 3, generator=generator, dtype=torch.float64) for _ in range(2))
    x = clean + LEVELS[:, None] * noise
    found = preconditioning_of(prediction, schedule)
    truth = found.output_of(clean, x, LEVELS)
    seen = []

    def network(scaled: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen.append((scaled, time))
        return truth

    torch.testing.assert_close(Denoiser(network, found)(x, LEVELS), clean, rtol=1e-9, atol=1e-9)
    # ... and the truth is what the name of the prediction says, on the schedule's own sample
    if prediction in ("epsilon", "sample", "v_prediction"):
        time = schedule.time(LEVELS)
        signal, sigma = schedule.signal(time)[:, None], schedule.noise(time)[:, None]
        says = {"epsilon": noise, "sample": clean, "v_prediction": signal * noise - sigma * clean}[prediction]
        torch.testing.assert_close(seen[0][0], signal * clean + sigma * noise, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(seen[0][1], time)
    elif prediction == "flow_prediction":
        says = noise - clean
    else:
        return
    torch.testing.assert_close(truth, says, rtol=1e-6, atol=1e-6)


def test_karras_factors_keep_inputs_and_targets_at_unit_variance() -> None:
    factors = karras(0.5)(LEVELS)
    torch.testing.assert_close(factors.scale**2 * (0.25 + LEVELS**2), torch.ones_like(LEVELS))
    target = ((1 - factors.skip) ** 2 * 0.25 + (factors.skip * LEVELS) ** 2) / factors.out**2
    torch.testing.assert_close(target, torch.ones_like(LEVELS))
    torch.testing.assert_close(factors.time, LEVELS.log() / 4)


def test_a_flow_network_becomes_a_trigonometric_one_without_training() -> None:
    """SANA-Sprint's conversion (Chen et al., 2025), for data of standard deviation 0.5."""
    data_std, generator = 0.5, torch.Generator().manual_seed(0)
    times = 0.05 + 1.45 * torch.rand(1000, generator=generator, dtype=torch.float64)
    clean, noise = (data_std * torch.randn(1000, generator=generator, dtype=torch.float64) for _ in range(2))
    x = times.cos() * clean + times.sin() * noise
    flow_time = times.sin() / (times.sin() + times.cos())
    root = torch.sqrt(flow_time**2 + (1 - flow_time) ** 2)
    flow_x = x / data_std * root
    torch.testing.assert_close(flow_x, ((1 - flow_time) * clean + flow_time * noise) / data_std)
    velocity = (noise - clean) / data_std
    output = ((1 - 2 * flow_time) * flow_x + (1 - 2 * flow_time + 2 * flow_time**2) * velocity) / root
    level = data_std * times.tan()
    factors = trig(data_std)(level)
    ours = trig(data_std).output_of(clean, x / times.cos(), level)
    torch.testing.assert_close(ours, output, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(factors.time, times)


def test_a_consistency_network_says_its_input_at_the_lowest_level() -> None:
    factors = consistency(0.5, 0.002)(torch.tensor([0.002], dtype=torch.float64))
    assert factors.skip.tolist() == [1.0] and factors.out.tolist() == [0.0]


def test_karras_levels_fall_from_high_to_low_and_end_at_zero() -> None:
    levels = karras_levels(18)
    assert len(levels) == 19 and float(levels[0]) == pytest.approx(80) and float(levels[-2]) == pytest.approx(0.002)
    assert float(levels[-1]) == 0 and bool((levels.diff() < 0).all())
    assert karras_levels(1).tolist() == pytest.approx([80.0, 0.0])


def test_what_is_no_schedule_is_named() -> None:
    with pytest.raises(DataError, match="fall"):
        Discrete([0.5, 0.6])
    with pytest.raises(DataError, match="between 0 and 1"):
        Discrete([1.0, 0.5])
    with pytest.raises(RecipeError, match="'noise' is not known; known: epsilon"):
        preconditioning_of("noise")
