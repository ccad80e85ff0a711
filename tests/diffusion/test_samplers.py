"""Samplers against closed forms and against diffusers; tables against the samplers that they were read off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from compress.bench.beds.mixture import Mixture
from compress.diffusion import (
    Denoiser,
    Discrete,
    Flow,
    SamplerTable,
    dpmpp,
    euler,
    euler_free_start,
    guided,
    heun,
    karras,
    karras_levels,
    preconditioning_of,
    renoise,
    table_of,
    table_of_scheduler,
)
from compress.errors import InputError

RING = Mixture.ring()
LEVELS = karras_levels(12, low=0.02, high=20.0)


def network(scaled: Tensor, time: Tensor) -> Tensor:
    """The ring's exact denoiser as a network with Karras et al.'s preconditioning."""
    level = torch.exp(4 * time)
    factors = karras()(level)
    x = scaled / factors.scale[:, None]
    return (RING.denoise(x, level) - factors.skip[:, None] * x) / factors.out[:, None]


def first(count: int = 64) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def fresh(number: int) -> Tensor:
    return torch.randn(64, 2, generator=torch.Generator().manual_seed(number + 1), dtype=torch.float64)


SAMPLERS = {
    "free": euler_free_start,
    "euler": euler,
    "heun": heun,
    "dpmpp1": dpmpp(1),
    "dpmpp2": dpmpp(2),
    "dpmpp3": dpmpp(3),
    "renoise": renoise,
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_table_does_what_its_sampler_does(name: str) -> None:
    table = table_of(name, SAMPLERS[name], LEVELS, karras())
    denoiser = Denoiser(network, karras())
    levels = [float(level) for level in LEVELS]

    def denoise(x: Tensor, level: float) -> Tensor:
        return denoiser(x, torch.tensor(level, dtype=torch.float64))

    wanted = SAMPLERS[name](denoise, levels[0] * first(), levels, fresh)
    found = table.run(network, first(), fresh=fresh)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert table.evaluations == {"heun": 2 * 12 - 1, "free": 11}.get(name, 12)
    wanted_levels = (
        [level for level in levels[:-1] for _ in range(2)][1:] if name == "heun" else levels[name == "free" : -1]
    )
    assert table.levels == pytest.approx(wanted_levels)
    again = SamplerTable.from_dict(table.to_dict())
    assert again == table
    inputs = table.inputs_along(network, first(), fresh)
    assert [len(pair) for pair in inputs] == [2] * table.evaluations
    assert float(inputs[0][1][0]) == pytest.approx(float(LEVELS[int(name == "free")].log() / 4))


def test_higher_orders_come_closer_to_the_flow() -> None:
    """On a Gaussian the probability flow has a closed form: x0 = x std / sqrt(std^2 + level^2)."""
    data = Mixture.gaussian(0.0, 0.5)
    x = 20 * first()[:, :1]
    exact = x * 0.5 / (0.5**2 + 20**2) ** 0.5
    levels = [float(level) for level in karras_levels(16, low=0.002, high=20.0)]
    denoise = data.denoise
    errors = {
        name: float((sampler(denoise, x, levels, fresh) - exact).abs().max())
        for name, sampler in SAMPLERS.items()
        if name not in ("renoise", "free")
    }
    assert errors["dpmpp1"] == pytest.approx(errors["euler"], rel=1e-6)
    assert errors["heun"] < 0.5 * errors["euler"]
    assert errors["dpmpp3"] < errors["dpmpp2"] < 0.5 * errors["dpmpp1"]


def test_dpmpp_and_ddim_are_those_of_diffusers() -> None:
    diffusers: Any = pytest.importorskip("diffusers", reason="diffusers is not installed (pip install diffusers)")
    betas = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    schedule = Discrete.of_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    predicts = preconditioning_of("epsilon", schedule)
    pairs = [
        (diffusers.DPMSolverMultistepScheduler(**betas, solver_order=2, final_sigmas_type="zero"), dpmpp(2)),
        (diffusers.DPMSolverMultistepScheduler(**betas, solver_order=3, final_sigmas_type="zero"), dpmpp(3)),
        (diffusers.DPMSolverMultistepScheduler(**betas, solver_order=1, final_sigmas_type="zero"), euler),
    ]
    for scheduler, sampler in pairs:
        theirs = table_of_scheduler(scheduler, 10, schedule)
        levels = [*scheduler.sigmas[:-1].double().tolist(), 0.0]
        ours = table_of("ours", sampler, levels, predicts)
        assert ours.evaluations == theirs.evaluations == 10
        for one, other in zip(ours.rows[:-1], theirs.rows[:-1], strict=True):
            assert one.time == pytest.approx(other.time, abs=0.6)  # they round to whole steps
        # Their samples are signal * x; ours are x. The last has signal 1 in both.
        scale = theirs.rows[0].start / (ours.rows[0].start * ours.rows[0].scale)
        assert scale == pytest.approx(1.0, rel=0.01) or theirs.rows[0].start == 1.0
        torch.testing.assert_close(
            torch.tensor(ours.rows[-1].outputs), torch.tensor(theirs.rows[-1].outputs), rtol=2e-3, atol=2e-3
        )


def test_any_deterministic_scheduler_becomes_a_table_and_others_are_refused() -> None:
    diffusers: Any = pytest.importorskip("diffusers", reason="diffusers is not installed (pip install diffusers)")
    schedule = Discrete.of_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    for kind in ("DDIMScheduler", "UniPCMultistepScheduler", "PNDMScheduler", "EulerDiscreteScheduler",
                 "HeunDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"):  # fmt: skip
        settings = {"clip_sample": False} if kind == "DDIMScheduler" else {}
        scheduler = getattr(diffusers, kind)(**settings)
        table = table_of_scheduler(scheduler, 6, Flow() if "Flow" in kind else schedule)
        assert table.evaluations >= 6 and kind in table.name and len(table.levels) == table.evaluations
    with pytest.raises(InputError, match="draws noise on the way or clips"):
        table_of_scheduler(diffusers.EulerAncestralDiscreteScheduler(), 6, schedule)


def test_levels_that_do_not_fall_to_zero_are_refused() -> None:
    for levels in ([1.0, 2.0, 0.0], [2.0, 1.0], [0.0]):
        with pytest.raises(InputError, match="fall and end at 0"):
            table_of("euler", euler, levels, karras())
    with pytest.raises(InputError, match="draws noise on the way"):
        table_of("renoise", renoise, LEVELS, karras()).run(network, first())
    table = table_of("euler", euler, [2.0, 1.0, 0.0], karras()).to_dict()
    for broken in ({}, {"name": "x", "rows": [{}]}, {**table, "rows": table["rows"][:-1]}, {"name": "x", "rows": 3}):
        with pytest.raises(InputError, match="no sampler table"):
            SamplerTable.from_dict(broken)


def test_guidance_of_one_asks_once_and_moves_away_from_nothing() -> None:
    asked = []

    def denoise(x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        asked.append(condition)
        return condition * torch.ones_like(x)

    x, level, condition = torch.zeros(2, 1), torch.ones(()), torch.tensor([[1.0], [2.0]])
    assert torch.equal(guided(denoise, 1.0, torch.zeros_like)(x, level, condition), condition)
    assert len(asked) == 1
    assert torch.equal(guided(denoise, 3.0, torch.zeros_like)(x, level, condition), 3 * condition)
