"""The roofline: to the digit on stated constants, and in its properties on every shipped profile."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from random import Random

import pytest

from compress.errors import RecipeError, UnknownName
from compress.profile.constants import HeldOut, Profile, SchemeConstants
from compress.profile.roofline import STAND_INS, Roofline, load_latency_model
from compress.targets import list_targets, load_target
from compress.types import LatencyModel, OpRecord, Scheme

UNITS = [(name, unit) for name in list_targets() for unit in load_target(name).units]
WIDTHS = range(1, 70)


def conv(fan_in: int, fan_out: int, size: int = 8, kernel: int = 3, groups: int = 1, name: str = "c") -> OpRecord:
    weights = fan_in // groups * fan_out * kernel**2
    kind = "conv" if groups == 1 else "depthwise_conv" if groups == fan_in else "grouped_conv"
    shape = (1, fan_in, size, size)
    return OpRecord(name, "conv", kind, name, weights * size**2, weights, (shape,), (1, fan_out, size, size),
                    (fan_in, fan_out), (kernel, kernel), (1, 1), groups)  # fmt: skip


def linear(fan_in: int, fan_out: int) -> OpRecord:
    macs = fan_in * fan_out
    return OpRecord("l", "linear", "linear", "l", macs, macs, ((1, fan_in),), (1, fan_out), (fan_in, fan_out))


def plain(kind: str, shape: tuple[int, ...] = (1, 8, 8, 8), macs: int | None = 0, name: str = "p") -> OpRecord:
    return OpRecord(name, kind, kind, name, macs, 0, (shape,), shape)


def stated(**changes: object) -> Roofline:
    """A roofline of 1 GMAC/s, 1 GB/s, 0.001 ms per op, 0.01 ms per inference, blocks of 4."""
    held_out = HeldOut(split="families", n=9, families=3, mape=0.1, within_10_percent=0.5, spearman=0.9,
                       ratio_p05=0.8, ratio_p95=1.25)  # fmt: skip
    fields: dict[str, object] = {
        "gmacs_per_s": {"conv": 1.0, "depthwise_conv": 0.5}, "gbytes_per_s": {"default": 1.0},
        "overhead_ms": {"default": 0.001}, "invoke_ms": 0.01, "activation_bytes": 4, "weight_bytes": 4,
        "interval": (0.8, 1.25), "macs_range": (1000, 1e9), "n": 9, "fitted_mape": 0.1, "held_out": held_out,
        "rows": "none",
    }  # fmt: skip
    constants = SchemeConstants.model_validate(fields | changes)
    profile = Profile(target="t", unit="cpu", runtime="r", setting="s", channel_block={"float32": 4},
                      schemes={"float32": constants}, source="none", fit_command="none", date="2026-01-01")  # fmt: skip
    return Roofline("t cpu", 4, {"float32": 4}, profile)


def latency(model: LatencyModel, ops: list[OpRecord], scheme: Scheme = "float32") -> float:
    value = model.predict(ops, scheme).latency.value
    assert value is not None
    return value


def test_an_op_takes_the_longer_of_arithmetic_and_memory_and_its_overhead() -> None:
    (cost, invoke) = stated().predict([conv(4, 4)], "float32").by_op
    assert cost.latency_ms == pytest.approx(4 * 4 * 9 * 64 * 1e-6 + 0.001)
    assert (cost.bound, invoke.latency_ms) == ("compute", 0.01)
    slow = stated(gbytes_per_s={"default": 0.1})
    (cost, _) = slow.predict([conv(4, 4)], "float32").by_op
    assert cost.latency_ms == pytest.approx((2 * 4 * 64 + 144) * 4 / 0.1 * 1e-6 + 0.001)
    assert cost.bound == "memory"


def test_widths_count_as_the_next_full_block() -> None:
    full = latency(stated(), [conv(4, 8)])
    assert latency(stated(), [conv(3, 5)]) == latency(stated(), [conv(1, 8)]) == full
    assert latency(stated(), [conv(5, 8)]) == pytest.approx(2 * (full - 0.011) + 0.011)
    assert latency(stated(), [conv(5, 5, groups=5)]) == latency(stated(), [conv(8, 8, groups=8)])
    assert latency(stated(), [plain("pool", (1, 5, 8, 8))]) == latency(stated(), [plain("pool", (1, 8, 8, 8))])


def test_without_overlap_both_times_count_and_a_chain_costs_its_steps() -> None:
    compute, memory = 4 * 4 * 9 * 64 * 1e-6, (2 * 4 * 64 + 144) * 4 * 1e-6
    assert latency(stated(overlap=0.0), [conv(4, 4)]) == pytest.approx(compute + memory + 0.011)
    assert latency(stated(ns_per_chain_step=100.0), [conv(4, 4)]) == pytest.approx(compute + 36 * 1e-4 + 0.011)


def test_the_total_is_the_sum_of_the_ops() -> None:
    prediction = stated().predict([conv(4, 4), plain("pool"), conv(4, 8)], "float32")
    assert prediction.latency.value == pytest.approx(sum(cost.latency_ms for cost in prediction.by_op))


def test_fused_linked_and_reshaping_ops_are_free() -> None:
    alone = latency(stated(), [conv(4, 4)])
    fused = replace(plain("norm"), fused_into="c")
    assert latency(stated(), [conv(4, 4), fused, plain("reshape")]) == alone
    assert latency(stated(linked_kinds=("activation",)), [conv(4, 4), plain("activation")]) == alone
    assert latency(stated(), [conv(4, 4), plain("activation")]) > alone


@pytest.mark.parametrize("op", [plain("other"), plain("pool", macs=None), plain("never heard of"), linear(4, 4)])
def test_an_uncovered_op_is_charged_named_and_widens_the_interval(op: OpRecord) -> None:
    known = stated().predict([conv(4, 4)], "float32")
    unsure = stated().predict([conv(4, 4), op], "float32")
    assert known.uncovered == () and unsure.uncovered == (op.name,)
    (low, high), (low_known, high_known) = relative(unsure), relative(known)
    assert low < low_known and high > high_known
    assert unsure.latency.value > known.latency.value  # type: ignore[operator]


def relative(prediction: object) -> tuple[float, float]:
    number = prediction.latency  # type: ignore[attr-defined]
    return number.interval[0] / number.value, number.interval[1] / number.value


def test_the_interval_is_that_of_the_fit_inside_its_range_and_wider_outside() -> None:
    inside = relative(stated().predict([conv(4, 4)], "float32"))
    assert inside == pytest.approx((0.8, 1.25))
    widths = [relative(stated(macs_range=(low, 1e9)).predict([conv(4, 4)], "float32")) for low in (1e5, 1e6, 1e7)]
    assert inside[1] < widths[0][1] < widths[1][1] < widths[2][1]
    assert relative(stated(macs_range=(1, 100)).predict([conv(4, 4)], "float32"))[0] < 0.8


def test_a_prediction_says_what_it_is() -> None:
    number = stated().predict([], "float32").latency
    assert (number.unit, number.origin, number.n) == ("ms", "predicted", 9)
    assert number.interval is not None and "held-out" in number.source and "10%" in number.source


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


@pytest.mark.parametrize(("target", "unit"), UNITS)
def test_more_channels_never_cost_less(target: str, unit: str) -> None:
    loaded = load_target(target)
    model = load_latency_model(loaded, unit)
    makers = [
        lambda n: [conv(n, 16)], lambda n: [conv(16, n)], lambda n: [conv(n, n, kernel=1)],
        lambda n: [conv(n + 1, n + 1, groups=n + 1)], lambda n: [conv(16 * n, 16 * n, groups=8)],
        lambda n: [linear(n, 10)],
        lambda n: [plain("elementwise", (1, n, 8, 8))], lambda n: [plain("norm", (1, 16, n))],
    ]  # fmt: skip
    for scheme in loaded.unit(unit).schemes:
        for make in makers:
            costs = [latency(model, make(n), scheme) for n in WIDTHS]
            assert costs == sorted(costs)


@pytest.mark.parametrize(("target", "unit"), UNITS)
def test_an_odd_width_costs_what_the_full_block_costs(target: str, unit: str) -> None:
    loaded = load_target(target)
    model, random = load_latency_model(loaded, unit), Random(0)
    multiple = model.channel_multiple
    for scheme in loaded.unit(unit).schemes:
        for _ in range(50):
            fan_in, fan_out, size = random.randint(1, 300), random.randint(1, 300), random.randint(1, 40)
            odd = latency(model, [conv(fan_in, fan_out, size)], scheme)
            full_in, full_out = (-(-width // multiple) * multiple for width in (fan_in, fan_out))
            full = latency(model, [conv(full_in, full_out, size)], scheme)
            assert odd == pytest.approx(full)


@pytest.mark.parametrize(("target", "unit"), UNITS)
def test_every_prediction_has_an_interval_around_it(target: str, unit: str) -> None:
    loaded = load_target(target)
    model = load_latency_model(loaded, unit)
    ops = [conv(3, 16, 32), conv(16, 16, 32, groups=16), plain("norm"), plain("pool"), linear(16, 10), plain("other")]
    for scheme in loaded.unit(unit).schemes:
        for count in range(len(ops) + 1):
            number = model.predict(ops[:count], scheme).latency
            assert number.interval is not None and number.value is not None and number.value > 0
            assert 0 < number.interval[0] < number.value < number.interval[1]


@pytest.mark.parametrize("target", ["pixel-4", "galaxy-s10", "iphone-xs", "host"])
def test_int8_is_faster_than_float_on_a_cpu_for_a_large_network(target: str) -> None:
    model = load_latency_model(load_target(target), "cpu")
    ops = [conv(64, 64, 56, name=str(i)) for i in range(8)]
    assert latency(model, ops, "w8a8") < 0.8 * latency(model, ops)


def test_an_image_network_takes_on_the_phone_what_was_published() -> None:
    """A plain 3x3 stack as wide as ResNet-18's first stage, against its published per-MAC rate on that phone.

    ResNet-18 (1.81 GMACs) takes 122.5 ms on one big core of a Pixel 4 in float32 and 31.7 ms in int8
    (qed-usc/mobile-ml-benchmark, dataset/tflite_cnn_e2e.csv).
    """
    model = load_latency_model(load_target("pixel-4"), "cpu")
    ops = [conv(64, 64, 56, name=str(i)) for i in range(8)]
    share = sum(prod(op.output_shape) * 64 * 9 for op in ops) / 1.81e9
    assert latency(model, ops) == pytest.approx(122.5 * share, rel=0.2)
    assert latency(model, ops, "w8a8") == pytest.approx(31.7 * share, rel=0.25)


def test_a_scheme_without_measurements_is_predicted_by_its_stand_in_and_says_so() -> None:
    latency_model = load_latency_model(load_target("pixel-4"), "cpu")
    ops = [conv(16, 16, 8)]
    for scheme, known in STAND_INS.items():
        number = latency_model.predict(ops, scheme).latency
        assert number.value == latency_model.predict(ops, known).latency.value
        assert number.source.startswith(f"{scheme} was not measured here and is predicted as {known}; ")
