"""The regression: it finds stated costs again, knows how sure it is of them, and predicts what the model predicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress.errors import DataError
from compress.profile.constants import MOST_LOWERED, Spread
from compress.profile.features import COSTS
from compress.profile.priors import Kind, as_matrix, priors
from compress.profile.regression import Floats, Solution, design_of, solve
from tests.profile.stated import BLOCKS_OF_4, activation, attention, conv, costs_of, linear, plain, stated

KINDS: tuple[Kind, ...] = ("cpu", "gpu", "npu")
KNOWN = np.zeros((len(COSTS), len(COSTS)))  # the covariance of costs that are known exactly


def priors_of(kind: Kind) -> tuple[Floats, Floats]:
    return as_matrix(priors(kind, np.array([0.05, 0.1, 0.2]), 4.0))


def true_costs(kind: Kind, seed: int = 0) -> Floats:
    """Log costs that lie about as far from what the priors expect as the priors say they may."""
    rows, targets = priors_of(kind)
    expected = np.linalg.lstsq(rows, targets, rcond=None)[0]
    return np.asarray(expected + np.random.default_rng(seed).uniform(-0.7, 0.7, len(COSTS)))


def designs(log_costs: Floats, count: int = 300, seed: int = 1) -> Floats:
    """Models of 0.1 to 100 ms; a few costs make up most of each, other ones in each."""
    random = np.random.default_rng(seed)
    shares = random.gamma(0.1, 1.0, (count, len(COSTS)))
    shares /= shares.sum(axis=1, keepdims=True)
    return np.asarray(shares * 10 ** random.uniform(-1, 2, (count, 1)) * 1e6 / np.exp(log_costs))


def fitted(kind: Kind, noise: float, design: Floats | None = None, seed: int = 2) -> tuple[Solution, Floats, Floats]:
    """The solution for models of true costs measured with this noise, the true costs and the design."""
    true = true_costs(kind)
    design = designs(true) if design is None else design
    measured, _ = Solution(true, KNOWN).predict(design)
    measured = measured * np.exp(noise * np.random.default_rng(seed).standard_normal(len(measured)))
    return solve(design, measured, priors_of(kind), max(noise, 0.02)), true, design


@pytest.mark.parametrize("kind", KINDS)
def test_stated_costs_are_found_again(kind: Kind) -> None:
    solution, true, design = fitted(kind, noise=0.0)
    assert np.abs(solution.log_costs - true).max() < 0.05
    expected, _ = Solution(true, KNOWN).predict(design)
    assert solution.predict(design)[0] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_moves_the_costs_by_as_much_as_the_covariance_says(kind: Kind) -> None:
    solution, true, _ = fitted(kind, noise=0.05)
    away = solution.log_costs - true
    assert np.abs(away).max() < 0.25
    in_deviations = away / np.sqrt(np.diag(solution.covariance))
    assert 0.6 < np.sqrt(np.mean(in_deviations**2)) < 1.4 and np.abs(in_deviations).max() < 4


def test_one_model_far_off_moves_the_costs_less_than_least_squares_would() -> None:
    """Fifty times too slow is 3.9 in the logarithm; the pull of that model grows no further than linearly."""
    true = true_costs("cpu")
    design = designs(true)
    measured, _ = Solution(true, KNOWN).predict(design)
    slow = measured * np.where(np.arange(len(measured)) == 7, 50.0, 1.0)
    moved = solve(design, slow, priors_of("cpu"), 0.05).log_costs - true
    assert np.abs(moved).max() < 0.35, "one outlier among 300"
    assert np.median(np.abs(moved)) < 0.05


def test_the_covariance_is_wide_for_a_cost_that_no_model_shows_and_narrow_for_one_that_all_show() -> None:
    design = designs(true_costs("cpu"))
    hidden, shown = COSTS.index("macs.conv3d"), COSTS.index("macs.conv")
    design[:, hidden] = 0.0
    latency, _ = Solution(true_costs("cpu"), KNOWN).predict(design)
    parts = np.random.default_rng(3).uniform(0.1, 3.0, len(latency)) * latency
    design[:, shown] += parts * 1e6 / np.exp(true_costs("cpu")[shown])
    solution, _, _ = fitted("cpu", 0.05, design)
    deviations = np.sqrt(np.diag(solution.covariance))
    prior_alone = np.sqrt(np.diag(np.linalg.inv(priors_of("cpu")[0].T @ priors_of("cpu")[0])))
    assert deviations[hidden] == pytest.approx(0.7, abs=0.02), "what the prior says of it, given its relative"
    assert deviations[shown] < 0.03 < 0.5 < prior_alone[shown]
    assert (deviations <= prior_alone + 1e-9).all(), "rows never make a cost less sure"
    relative = solution.log_costs[hidden] - solution.log_costs[shown]
    assert relative == pytest.approx(0.5, abs=1e-3), "unseen, it keeps its prior's distance to its relative"
    shares = np.eye(len(COSTS))[[hidden, shown]]
    assert solution.deviation(shares, 0.05) == pytest.approx(np.hypot(deviations[[hidden, shown]], 0.05))


def test_the_shares_are_the_derivative_of_the_log_latency() -> None:
    at = true_costs("npu")
    design = designs(at, count=6)
    design[0, COSTS.index("bytes.far")] = 0.0
    design[1, [COSTS.index(cost) for cost in ("bytes.far", "bytes.weights", "bytes.conv")]] = 0.0
    _, shares = Solution(at, KNOWN).predict(design)
    step = 1e-5
    numeric = np.empty_like(shares)
    for j, direction in enumerate(np.eye(len(COSTS))):
        above, below = (Solution(at + sign * step * direction, KNOWN).predict(design)[0] for sign in (1.0, -1.0))
        numeric[:, j] = (np.log(above) - np.log(below)) / (2 * step)
    assert shares == pytest.approx(numeric, abs=1e-7)
    assert shares.sum(axis=1) == pytest.approx(1.0)


def test_the_prediction_has_the_smallest_expected_relative_error() -> None:
    """Latencies drawn from the costs' own covariance: no other multiple of their median is less far off on average."""
    at, random = true_costs("cpu"), np.random.default_rng(4)
    design = designs(at, count=1)
    covariance = 0.04 * np.eye(len(COSTS))
    predicted, shares = Solution(at, covariance).predict(design)
    drawn = np.array([
        Solution(at + 0.2 * random.standard_normal(len(COSTS)), KNOWN).predict(design)[0][0] for _ in range(4000)
    ])  # fmt: skip
    tried = np.linspace(0.9, 1.1, 201)
    errors = [np.abs(times * predicted[0] / drawn - 1).mean() for times in tried]
    assert tried[int(np.argmin(errors))] == pytest.approx(1.0, abs=0.02)
    median, _ = Solution(at, KNOWN).predict(design)
    assert predicted == pytest.approx(median * np.exp(-0.04 * (shares**2).sum(axis=1)))
    lowest, _ = Solution(at, 100 * covariance).predict(design)
    assert lowest == pytest.approx(median * np.exp(-MOST_LOWERED)), "how unsure a cost is that nobody saw is a guess"


@pytest.mark.parametrize("directions", [(), ({"macs.conv": 0.3, "bytes.far": -0.4, "calls": 0.2}, {"bytes.pool": 2.0})])
def test_the_latency_model_predicts_what_the_regression_predicts(directions: tuple[dict[str, float], ...]) -> None:
    layout = replace(BLOCKS_OF_4, near_bytes=3000.0, parallel=True, rows=4)
    spread = Spread(noise=0.1, low=1.0, high=2.0, directions=directions)
    model = stated(
        layout, spread, bytes_far=2.0, pixels_in=40.0, bytes_in=0.3, bytes_out=0.7, bytes_self_gated=0.4,
        taps_average=0.2, steps_window=5.0, outputs=0.5, taps=0.1,
    )  # fmt: skip
    costs = costs_of(model)
    root = np.array([[direction.get(cost, 0.0) for cost in COSTS] for direction in directions]).reshape(-1, len(COSTS))
    solution = Solution(np.log([max(costs.ns_per[cost], 1e-300) for cost in COSTS]), root.T @ root)
    nets = [[conv(3, 13, 9), conv(13, 7, groups=1), plain("pool")], [attention(3, 17, 5), linear(9, 11)],
            [conv(5, 5, groups=5, stride=2), plain("softmax", (1, 3, 33, 33)), plain("other")],
            [activation("silu"), replace(plain("pool"), op="avg_pool2d", kernel=(5, 5))], []]  # fmt: skip
    expected, shares = solution.predict(design_of(nets, layout))
    predicted = [model.predict(ops, "float32") for ops in nets]
    assert [each.latency.value for each in predicted] == pytest.approx(expected.tolist())
    deviations = solution.deviation(shares, 0.1)
    for each, deviation in zip(predicted, deviations, strict=True):
        if not each.uncovered:
            assert each.latency.interval is not None and each.latency.value is not None
            assert np.log(each.latency.interval[1] / each.latency.value) >= 2.0 * deviation * (1 - 1e-9)
    spent = {cost.name: cost.latency_ms for cost in predicted[0].by_op}
    assert spent["(calls)"] == pytest.approx(shares[0, COSTS.index("calls")] * expected[0])


def test_the_regression_is_deterministic_and_needs_models() -> None:
    first, second = fitted("npu", 0.05)[0], fitted("npu", 0.05)[0]
    assert (first.log_costs == second.log_costs).all() and (first.covariance == second.covariance).all()
    with pytest.raises(DataError, match="no model has both"):
        design_of([], BLOCKS_OF_4)


def test_every_cost_has_a_prior_and_no_prior_hangs_in_the_air() -> None:
    for kind in KINDS:
        known = priors(kind, np.array([0.1]), 1.0)
        assert {prior.cost for prior in known} == set(COSTS)
        rows, _ = as_matrix(known)
        assert np.linalg.matrix_rank(rows) == len(COSTS)
