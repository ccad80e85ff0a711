"""The latency model, to the digit on stated costs."""

from __future__ import annotations

from dataclasses import replace
from math import exp, sqrt

import pytest

from compress.errors import RecipeError, UnknownName
from compress.profile.constants import Spread
from compress.profile.features import Overlap
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
    (*_, ends) = stated(bytes_io=3.0).predict([conv(4, 4)], "float32").by_op
    assert (ends.name, ends.latency_ms) == ("(io)", pytest.approx(3 * MAPS * 1e-6))


def test_every_kind_has_its_own_cost() -> None:
    base = latency(stated(), [conv(8, 8, groups=8)])
    assert latency(stated(macs_depthwise_conv=3.0), [conv(8, 8, groups=8)]) == pytest.approx(base + 8 * 9 * 64e-6)
    assert latency(stated(macs_conv=3.0), [conv(8, 8, groups=8)]) == base
    assert latency(stated(bytes_pool=2.0), [plain("pool")]) == pytest.approx(0.0105 + 2 * 2 * 512 * 4e-6)
    assert latency(stated(bytes_transcendental=2.0), [activation("relu")]) < latency(
        stated(bytes_transcendental=2.0), [activation("gelu")]
    )


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
    for overlap in (None, engines(2.0)):
        prediction = stated(overlap=overlap).predict([conv(4, 4), plain("pool"), conv(4, 8)], "float32")
        assert prediction.latency.value == pytest.approx(sum(cost.latency_ms for cost in prediction.by_op))
        assert len(prediction.by_op) == 4


def engines(power: float) -> Overlap:
    return Overlap({"arithmetic": ("macs.conv",), "memory": ("bytes.conv",)}, power)


def test_equal_engines_take_the_root_of_two_at_power_two_and_both_times_at_power_one() -> None:
    alone = MACS * 1e-6
    rest = (WEIGHTS + 1000 + 10_000) * 1e-6
    equal = {"bytes_conv": MACS / MAPS}
    assert latency(stated(overlap=engines(1.0), **equal), [conv(4, 4)]) == pytest.approx(2 * alone + rest)
    assert latency(stated(overlap=engines(2.0), **equal), [conv(4, 4)]) == pytest.approx(sqrt(2) * alone + rest)
    assert latency(stated(overlap=engines(64.0), **equal), [conv(4, 4)]) == pytest.approx(alone * 2 ** (1 / 64) + rest)
    assert latency(stated(overlap=engines(1.0)), [conv(4, 4)]) == pytest.approx(latency(stated(), [conv(4, 4)]))


def test_engines_work_side_by_side_over_the_whole_model() -> None:
    """One op that only computes and one that only moves overlap, though neither could by itself."""
    model = stated(overlap=Overlap({"a": ("macs.conv",), "b": ("bytes.pool",)}, 2.0), bytes_conv=0.0, bytes_weights=0.0,
                   ops_layer=0.0, ops_other=0.0, calls=0.0)  # fmt: skip
    compute, memory = latency(model, [conv(4, 4)]), latency(model, [plain("pool")])
    both = model.predict([conv(4, 4), plain("pool")], "float32")
    assert both.latency.value == pytest.approx(sqrt(compute**2 + memory**2))
    assert both.by_op[0].latency_ms == pytest.approx(compute**2 / sqrt(compute**2 + memory**2)), "each its own part"


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


def test_the_interval_is_wider_where_it_rests_on_costs_that_are_unsure() -> None:
    """Deviation: the noise, and each direction times the shares of its costs."""
    spread = Spread(noise=0.1, low=1.0, high=2.0, directions=({"bytes.pool": 0.5, "macs.conv": 0.1}, {"calls": 0.2}))
    prediction = stated(spread=spread).predict([conv(4, 4), plain("pool")], "float32")
    total = prediction.latency.value
    assert total is not None
    pool, call = 2 * 512 * 4e-6 / total, 0.01 / total
    deviation = sqrt(0.1**2 + (0.5 * pool + 0.1 * MACS * 1e-6 / total) ** 2 + (0.2 * call) ** 2)
    assert relative(prediction) == pytest.approx((exp(-deviation), exp(2 * deviation)))
    without = stated(spread=spread).predict([conv(4, 4)], "float32")
    assert relative(without)[1] < relative(prediction)[1]


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
