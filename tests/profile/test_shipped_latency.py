"""The latency model in its properties on every shipped profile, and against a published network."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from random import Random

import pytest

from compress.errors import UnknownName
from compress.profile.constants import Costs
from compress.profile.features import amounts
from compress.profile.latency import ALIASES, STAND_INS, UnitLatency, load_latency_model
from compress.targets import list_targets, load_target
from compress.types import OpRecord, Scheme
from tests.profile.stated import attention, conv, costs_of, latency, linear, plain

UNITS = [(name, unit) for name in list_targets() for unit in load_target(name).units]
WIDTHS = range(1, 70)


def shipped(target: str, unit: str) -> Iterator[tuple[UnitLatency, Scheme]]:
    """Every runtime and scheme of a shipped profile."""
    loaded = load_target(target)
    first = load_latency_model(loaded, unit)
    assert isinstance(first, UnitLatency)
    for runtime, schemes in first.profile.runtimes.items():
        model = load_latency_model(loaded, unit, runtime)
        assert isinstance(model, UnitLatency)
        yield from ((model, scheme) for scheme in schemes)


def test_a_runtime_is_chosen_by_any_of_its_names_and_an_unknown_one_refused() -> None:
    target, ops = load_target("galaxy-s25"), [conv(64, 64, 56)]
    first = latency(load_latency_model(target, "npu"), ops)
    assert latency(load_latency_model(target, "npu", "litert"), ops) == first
    for alias, name in ALIASES.items():
        assert latency(load_latency_model(target, "npu", alias), ops) == latency(
            load_latency_model(target, "npu", name), ops
        )
    assert latency(load_latency_model(target, "npu", "qnn_dlc"), ops) != first
    with pytest.raises(UnknownName, match="runtime of galaxy-s25 npu"):
        load_latency_model(target, "npu", "coreml")


@pytest.mark.parametrize(("target", "unit"), UNITS)
def test_more_channels_never_cost_less(target: str, unit: str) -> None:
    makers = [
        lambda n: [conv(n, 16)], lambda n: [conv(16, n)], lambda n: [conv(n, n, kernel=1)],
        lambda n: [conv(n + 1, n + 1, groups=n + 1)], lambda n: [conv(16 * n, 16 * n, groups=8)],
        lambda n: [conv(n + 1, n + 1, 112, 5, n + 1, stride=2)], lambda n: [conv(3, n, 112), conv(n, n, 112)],
        lambda n: [linear(n, 10)], lambda n: [attention(2, 64, n)],
        lambda n: [plain("elementwise", (1, n, 8, 8))], lambda n: [plain("norm", (1, 16, n))],
    ]  # fmt: skip
    for model, scheme in shipped(target, unit):
        for make in makers:
            costs = [latency(model, make(n), scheme) for n in WIDTHS]
            cheaper = [n for n in WIDTHS[1:] if costs[n - 1] < costs[n - 2] * (1 - 1e-12)]
            assert not cheaper


@pytest.mark.parametrize(("target", "unit"), UNITS)
def test_an_odd_width_costs_what_the_full_block_costs(target: str, unit: str) -> None:
    random = Random(0)
    for model, scheme in shipped(target, unit):
        costs = costs_of(model, scheme)
        layout = costs.layout
        assert model.blocks[scheme] % layout.channels == 0
        for _ in range(50):
            fan_in, fan_out, size = (random.randint(1, most) for most in (300, 300, 40))
            full_in, full_out = (-(-width // layout.channels) * layout.channels for width in (fan_in, fan_out))
            odd, full = (op_ns(costs, conv(*widths, size)) for widths in ((fan_in, fan_out), (full_in, full_out)))
            if fan_in < layout.window_channels:  # an image's channels share their block with the window
                assert odd <= full * (1 + 1e-12)
            else:
                assert odd == pytest.approx(full)


def op_ns(costs: Costs, op: OpRecord) -> float:
    """What an op takes by itself: what goes in and out of a model counts as it is, only inside are blocks full."""
    return sum(amount * costs.ns_per[name] for name, amount in amounts(op, costs.layout).items())


@pytest.mark.parametrize(("target", "unit"), UNITS)
def test_every_prediction_has_an_interval_around_it(target: str, unit: str) -> None:
    ops = [conv(3, 16, 32), conv(16, 16, 32, groups=16), plain("norm"), plain("pool"), linear(16, 10), plain("other")]
    for model, scheme in shipped(target, unit):
        for count in range(len(ops) + 1):
            prediction = model.predict(ops[:count], scheme)
            number = prediction.latency
            assert number.interval is not None and number.value is not None and number.value > 0
            assert 0 < number.interval[0] < number.value < number.interval[1]
            assert number.value == pytest.approx(sum(cost.latency_ms for cost in prediction.by_op))
        assert prediction.uncovered[-1:] == ("p",), "an op of no known kind is never covered"


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
