"""The latency model, to the digit on stated costs."""

from __future__ import annotations

from dataclasses import replace
from math import exp, sqrt

import pytest

from compress.errors import RecipeError, UnknownName
from compress.profile.constants import MOST_LOWERED, Spread
from compress.profile.latency import load_latency_model
from compress.targets import load_target
from compress.types import LatencyPrediction, OpRecord
from tests.profile.stated import (
    BLOCKS_OF_4,
    UNSEEN,
    activation,
    attention,
    conv,
    latency,
    linear,
    plain,
    stated,
)  # fmt: skip

# conv(4, 4): 9216 MACs, 2048 bytes of maps, 576 of weights.
MACS, MAPS, WEIGHTS = 4 * 4 * 9 * 64, 2 * 4 * 64 * 4, 4 * 4 * 9 * 4
UNSURE = Spread(noise=0.1, low=1.0, high=2.0, directions=({"bytes.pool": 0.5, "macs.conv": 0.1}, {"calls": 0.2}))


def relative(prediction: LatencyPrediction) -> tuple[float, float]:
    number = prediction.latency
    assert number.interval is not None and number.value is not None
    return number.interval[0] / number.value, number.interval[1] / number.value


def test_an_op_takes_its_amounts_times_their_costs() -> None:
    (cost, call) = stated().predict([conv(4, 4)], "float32").by_op
    assert cost.latency_ms == pytest.approx((MACS + MAPS + WEIGHTS + 1000) * 1e-6)
    assert (cost.bound, call.name, call.latency_ms) == ("compute", "(calls)", 0.01)
    (cost, _) = stated(bytes_conv=10.0).predict([conv(4, 4)], "float32").by_op
    assert cost.latency_ms == pytest.approx((MACS + 10 * MAPS + WEIGHTS + 1000) * 1e-6)
    assert cost.bound == "memory"
    (cost, _) = stated(ops_layer=1e6).predict([conv(4, 4)], "float32").by_op
    assert cost.bound == "overhead"


def test_a_call_is_charged_for_what_goes_in_and_out_apart_from_its_ops() -> None:
    model = stated(pixels_in=5.0, bytes_in=3.0, bytes_out=7.0)
    prediction = model.predict([conv(3, 4), conv(4, 4), linear(4, 10)], "float32")
    ends = {cost.name: (cost.latency_ms, cost.bound) for cost in prediction.by_op[3:]}
    assert ends == {
        "(calls)": (0.01, "overhead"), "(pixels in)": (pytest.approx(5 * 64e-6), "overhead"),
        "(bytes in)": (pytest.approx(3 * 3 * 64 * 4e-6), "overhead"),
        "(bytes out)": (pytest.approx(7 * 10 * 4e-6), "overhead"),
    }  # fmt: skip
    assert prediction.latency.value == pytest.approx(
        latency(stated(), [conv(3, 4), conv(4, 4), linear(4, 10)]) + sum(time for time, _ in ends.values()) - 0.01
    )
    named = [cost.name for cost in stated(bytes_out=7.0).predict([linear(4, 10)], "float32").by_op]
    assert named == ["l", "(calls)", "(bytes out)"], "what costs nothing is not listed"


def test_every_kind_has_its_own_cost() -> None:
    base = latency(stated(), [conv(8, 8, groups=8)])
    assert latency(stated(macs_depthwise_conv=3.0), [conv(8, 8, groups=8)]) == pytest.approx(base + 8 * 9 * 64e-6)
    assert latency(stated(macs_conv=3.0), [conv(8, 8, groups=8)]) == base
    assert latency(stated(bytes_pool=2.0), [plain("pool")]) == pytest.approx(0.0105 + 2 * 2 * 512 * 4e-6)
    assert latency(stated(bytes_transcendental=2.0), [activation("relu")]) < latency(
        stated(bytes_transcendental=2.0), [activation("gelu")]
    )
    gated = stated(bytes_self_gated=2.0)
    assert latency(gated, [activation("gelu")]) == pytest.approx(latency(stated(), [activation("gelu")]) + 2 * 4096e-6)
    assert latency(gated, [activation("sigmoid")]) == latency(stated(), [activation("sigmoid")])
    average, most = (replace(plain("pool"), op=op, kernel=(5, 5)) for op in ("avg_pool2d", "max_pool2d"))
    assert latency(stated(taps_average=2.0), [average]) == pytest.approx(latency(stated(), [average]) + 2 * 25 * 512e-6)
    assert latency(stated(taps_average=2.0), [most]) == latency(stated(), [most]) == latency(stated(), [average])


def test_widths_count_as_the_next_full_block() -> None:
    full = latency(stated(), [conv(4, 8)])
    assert latency(stated(), [conv(3, 5)]) == pytest.approx(full) == latency(stated(), [conv(1, 8)])
    assert latency(stated(), [conv(8, 8)]) == pytest.approx(latency(stated(), [conv(5, 6)]))
    assert latency(stated(), [conv(5, 5, groups=5)]) == pytest.approx(latency(stated(), [conv(8, 8, groups=8)]))
    assert latency(stated(), [plain("pool", (1, 5, 8, 8))]) == pytest.approx(latency(stated(), [plain("pool")]))


def test_a_chain_costs_its_steps_on_a_parallel_unit_only() -> None:
    parallel = stated(replace(BLOCKS_OF_4, parallel=True), steps_window=100.0)
    assert latency(parallel, [conv(4, 4)]) == pytest.approx(latency(stated(), [conv(4, 4)]) + 36 * 1e-4)
    assert latency(stated(steps_window=100.0), [conv(4, 4)]) == latency(stated(), [conv(4, 4)])


def test_the_total_is_the_sum_of_the_ops() -> None:
    ops = [conv(4, 4), plain("pool"), conv(4, 8)]
    for spread in (None, UNSURE):
        prediction = stated(spread=spread).predict(ops, "float32")
        assert prediction.latency.value == pytest.approx(sum(cost.latency_ms for cost in prediction.by_op))
        assert len(prediction.by_op) == 4
    assert latency(stated(), ops) == pytest.approx(sum(latency(stated(), [op]) for op in ops) - 2 * 0.01), "one call"


def test_fused_linked_and_reshaping_ops_are_free() -> None:
    alone = latency(stated(), [conv(4, 4)])
    fused = replace(plain("norm"), fused_into="c")
    assert latency(stated(), [conv(4, 4), fused, plain("reshape")]) == alone
    linking = stated(replace(BLOCKS_OF_4, linked=("activation",)))
    assert latency(linking, [conv(4, 4), activation("relu")]) == alone
    assert latency(stated(), [conv(4, 4), activation("relu")]) > alone
    assert stated().predict([fused, plain("reshape")], "float32").uncovered == ()


@pytest.mark.parametrize(
    "op", [plain("other"), plain("pool", macs=None), plain("never heard of"), plain("gather"), linear(4, 4)]
)
def test_an_uncovered_op_is_charged_named_and_widens_the_interval(op: OpRecord) -> None:
    known = stated().predict([conv(4, 4)], "float32")
    unsure = stated().predict([conv(4, 4), op], "float32")
    assert known.uncovered == () and unsure.uncovered == (op.name,)
    (low, high), (low_known, high_known) = relative(unsure), relative(known)
    assert low < low_known and high > high_known
    assert unsure.latency.value > known.latency.value  # type: ignore[operator]
    assert {cost.name: cost.bound for cost in unsure.by_op}[op.name] == "unknown"


def test_a_kind_that_the_fit_saw_is_covered_and_one_without_a_name_never_is() -> None:
    everything = stated(unseen=frozenset())
    assert everything.predict([linear(4, 4), plain("gather")], "float32").uncovered == ()
    assert everything.predict([plain("other"), plain("pool", macs=None)], "float32").uncovered == ("p", "p")
    assert stated(unseen=UNSEEN | {"macs.matmul"}).predict([attention(2, 8, 8)], "float32").uncovered == ("a",)


def test_the_interval_is_that_of_the_fit_inside_its_range_and_wider_outside() -> None:
    inside = relative(stated().predict([conv(4, 4)], "float32"))
    assert inside == pytest.approx((0.8, 1.25))
    ranges = [(low, 1e9) for low in (2 * MACS, 4 * MACS, 8 * MACS)]
    outside = [relative(stated(macs_range=given).predict([conv(4, 4)], "float32")) for given in ranges]
    assert outside == [pytest.approx((0.8**wider, 1.25**wider)) for wider in (1.25, 1.5, 1.75)]
    assert relative(stated(macs_range=(1, MACS / 2)).predict([conv(4, 4)], "float32")) == pytest.approx(outside[0])


def unsure_by(ops: list[OpRecord]) -> float:
    """The variance that `UNSURE` gives the latency of ops: of each direction, times the shares of its costs."""
    total = latency(stated(), ops)
    pool = sum(2 * 512 * 4e-6 for op in ops if op.kind == "pool") / total
    macs = sum((op.macs or 0) * 1e-6 for op in ops) / total
    return (0.5 * pool + 0.1 * macs) ** 2 + (0.2 * 0.01 / total) ** 2


def test_the_interval_is_wider_where_it_rests_on_costs_that_are_unsure() -> None:
    """Deviation: the noise, and each direction times the shares of its costs."""
    ops = [conv(4, 4), plain("pool")]
    prediction = stated(spread=UNSURE).predict(ops, "float32")
    deviation = sqrt(0.1**2 + unsure_by(ops))
    assert relative(prediction) == pytest.approx((exp(-deviation), exp(2 * deviation)))
    without = stated(spread=UNSURE).predict([conv(4, 4)], "float32")
    assert relative(without)[1] < relative(prediction)[1]


def test_a_figure_that_rests_on_unsure_costs_is_lower_by_their_variance() -> None:
    """Not by the noise, which is that of every model; so the smallest relative error is to be expected."""
    for ops in ([conv(4, 4)], [plain("pool")], [conv(4, 4), plain("pool")]):
        assert latency(stated(spread=UNSURE), ops) == pytest.approx(latency(stated(), ops) * exp(-unsure_by(ops)))
        noisy = Spread(noise=2.0, low=1.0, high=1.0)
        assert latency(stated(spread=noisy), ops) == latency(stated(), ops)
    parts = [[cost.latency_ms for cost in stated(spread=s).predict(ops, "float32").by_op] for s in (UNSURE, None)]
    assert parts[0] == pytest.approx([part * exp(-unsure_by(ops)) for part in parts[1]]), "each part alike"


def test_how_unsure_a_cost_is_lowers_a_figure_by_so_much_at_most() -> None:
    ops = [plain("pool", (1, 64, 56, 56))]
    guessed = Spread(noise=0.1, low=1.0, high=1.0, directions=({"bytes.pool": 3.0},))
    assert latency(stated(spread=guessed), ops) == pytest.approx(latency(stated(), ops) * exp(-MOST_LOWERED))
    share = 2 * 64 * 56**2 * 4e-6 / latency(stated(), ops)
    low, _ = relative(stated(spread=guessed).predict(ops, "float32"))
    assert low == pytest.approx(exp(-sqrt(0.1**2 + (3.0 * share) ** 2))), "the interval still says all of it"


def test_a_prediction_says_what_it_is() -> None:
    number = stated().predict([], "float32").latency
    assert (number.value, number.unit, number.origin, number.n) == (0.01, "ms", "predicted", 9)
    assert number.interval is not None and "held-out" in number.source and "10%" in number.source
    assert "version 1" in number.source


def test_a_scheme_that_was_never_fitted_is_refused() -> None:
    with pytest.raises(UnknownName, match="scheme of t cpu 'w8a8'"):
        stated().predict([], "w8a8")


def test_a_unit_without_a_profile_is_refused() -> None:
    target = load_target("pixel-4")
    bare = target.model_copy(update={"units": {"npu": target.unit("cpu").model_copy(update={"profile": ""})}})
    with pytest.raises(RecipeError, match="unit 'npu' has no latency profile"):
        load_latency_model(bare, "npu")
    with pytest.raises(UnknownName, match="unknown unit"):
        load_latency_model(target, "dsp")


def test_a_missing_profile_names_its_file() -> None:
    target = load_target("pixel-4")
    gone = target.model_copy(update={"units": {"cpu": target.unit("cpu").model_copy(update={"profile": "no.json"})}})
    with pytest.raises(RecipeError, match=r"no\.json: cannot read the profile"):
        load_latency_model(gone, "cpu")
