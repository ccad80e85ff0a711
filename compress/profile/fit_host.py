"""Fits the host's profile to a benchmark run on this machine: python -m compress.profile.fit_host.

A few dozen small networks (chains of one kind of layer, residual and mobile networks at even and odd widths) run in
onnxruntime on one thread, float32 and int8, all in turns; the constants are then fitted as for any other unit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import date
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.profile.constants import Costs, Profile, write_profile
from compress.profile.features import Layout
from compress.profile.fit import fit_costs, report_line
from compress.profile.host_graphs import Layer, Net, to_onnx
from compress.profile.judge import Rows
from compress.profile.measure import cpu_name, measure_alternately
from compress.resources import data_folder
from compress.targets import load_target
from compress.types import Scheme

_WIDTHS = (8, 13, 16, 24, 27, 32, 48, 53, 64, 96, 128)
# Nothing of one machine holds on another: the interval is never narrower than a factor of about two.
_NARROWEST = log(2.0)
# Channels that onnxruntime's blocked kernels compute at once: AVX2 and Neon, AVX-512.
_BLOCKS = (8, 16)


class OnnxSession:
    """An ONNX file in onnxruntime on one thread."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._names = [entry.name for entry in self._session.get_inputs()]

    def run(self, *arrays: NDArray[Any]) -> list[NDArray[Any]]:
        """The outputs for `arrays`."""
        return list(self._session.run(None, dict(zip(self._names, arrays, strict=True))))


def benchmark_nets() -> tuple[Net, ...]:
    """The networks of the benchmark."""
    return tuple(_nets())


def _nets() -> Iterator[Net]:
    """Chains of one kind of layer, then whole small networks."""
    for size, widths in ((32, _WIDTHS[:9]), (16, _WIDTHS), (8, _WIDTHS)):
        for width in widths:
            layers = [Layer("conv", width, 3) for _ in range(3)]
            yield _net(f"conv3x3 {width} at {size}", "conv3x3", (width, size, size), layers)
            layers = [Layer("conv", width) for _ in range(4)]
            yield _net(f"conv1x1 {width} at {size}", "conv1x1", (width, size, size), layers)
    for size, width in ((56, 16), (56, 32), (28, 24), (28, 64), (14, 96), (14, 192), (7, 384)):
        layers = [Layer("conv", width, 3, groups=width), Layer("conv", width, 5, groups=width)]
        yield _net(f"depthwise {width} at {size}", "depthwise", (width, size, size), layers)
    for size, width in ((32, 32), (16, 64), (8, 128)):
        layers = [Layer("conv", width, 3, groups=8) for _ in range(3)]
        yield _net(f"grouped {width} at {size}", "grouped", (width, size, size), layers)
    for width in (32, 53, 128, 512):
        layers = [Layer("pool"), *(Layer("linear", width) for _ in range(4))]
        yield _net(f"linear {width}", "linear", (width, 4, 4), layers)
    for width in (8, 11, 13, 16, 24, 32):
        yield _net(f"residual {width}", "residual", (3, 32, 32), _residual(width))
        yield _net(f"mobile {width}", "mobile", (3, 64, 64), _mobile(width))
    for width in (8, 12, 16, 32):
        layers = [Layer("conv", width, 3), Layer("conv", 2 * width, 3, 2), Layer("conv", 2 * width, 3), Layer("pool")]
        yield _net(f"plain {width}", "plain", (1, 8, 8), [*layers, Layer("linear", 10)])


def _net(name: str, family: str, shape: tuple[int, int, int], layers: list[Layer]) -> Net:
    """A network of these layers."""
    return Net(name, family, shape, tuple(layers))


def _residual(width: int) -> list[Layer]:
    """A residual network for 32x32 images: three stages of three blocks."""
    layers = [Layer("conv", width, 3)]
    for stage, channels in enumerate((width, 2 * width, 4 * width)):
        for block in range(3):
            narrows = stage > 0 and block == 0
            layers += [Layer("conv", channels, 3, 2 if narrows else 1), Layer("conv", channels, 3)]
            layers += [] if narrows else [Layer("add", back=2)]
    return [*layers, Layer("pool"), Layer("linear", 10)]


def _mobile(width: int) -> list[Layer]:
    """A mobile network: inverted residual blocks that expand four times."""
    layers, inside = [Layer("conv", width, 3, 2)], width
    for channels, stride in ((width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1)):
        expanded = 4 * inside
        layers += [Layer("conv", expanded), Layer("conv", expanded, 3, stride, expanded), Layer("conv", channels)]
        layers += [Layer("add", back=3)] if stride == 1 and inside == channels else []
        inside = channels
    return [*layers, Layer("pool"), Layer("linear", 100)]


def benchmark(nets: tuple[Net, ...], scheme: Scheme, rounds: int) -> dict[str, float]:
    """Median latency (ms) of each network at `scheme`, all measured in turns."""
    sessions = {net.name: OnnxSession(to_onnx(net, scheme)) for net in nets}
    random = np.random.default_rng(0)
    inputs = {net.name: [random.random((1, *net.input_shape), dtype=np.float32)] for net in nets}
    taken = measure_alternately(sessions, inputs, rounds=rounds, max_seconds=600)
    return {name: float(measured.latency.value or 0.0) for name, measured in taken.items()}


def _fit(nets: tuple[Net, ...], measured_ms: dict[str, float], scheme: Scheme) -> Costs:
    """The costs that explain the measurements best, with the channel block that does so.

    The interval is made wide enough for other machines; the note says what odd widths cost on this one.
    """
    ops = {net.name: net.trace() for net in nets}
    families = {net.name: net.family for net in nets}
    value_bytes = 1.0 if scheme == "w8a8" else 4.0
    fits = []
    for block in _BLOCKS:
        layout = Layout(channels=block, value_bytes=value_bytes)
        rows = Rows.of(ops, measured_ms, layout, families)
        fits.append(fit_costs(rows, "cpu", layout, "benchmark of compress.profile.fit_host"))
    best = min(fits, key=lambda costs: costs.fitted_mape)
    odd = measured_ms["residual 13"] / measured_ms["residual 16"]
    note = f"a residual network of widths 13, 26, 52 took {odd:.2f} times as long as one of widths 16, 32, 64"
    spread = best.spread
    wide = spread.model_copy(
        update={"low": max(spread.low, _NARROWEST / spread.noise), "high": max(spread.high, _NARROWEST / spread.noise)}
    )
    return best.model_copy(update={"spread": wide, "notes": (note,)})


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark, writes the host's profile and prints one line for each scheme."""
    parser = argparse.ArgumentParser(prog="python -m compress.profile.fit_host", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="times each network is measured")
    chosen = parser.parse_args(arguments)
    import onnxruntime

    target, nets = load_target("host"), benchmark_nets()
    unit = target.unit("cpu")
    schemes: dict[Scheme, Costs] = {}
    for scheme in unit.schemes:
        schemes[scheme] = _fit(nets, benchmark(nets, scheme, chosen.rounds), scheme)
        print(report_line(f"host cpu {scheme}", schemes[scheme]))
    profile = Profile(
        target="host",
        unit="cpu",
        setting=f"one thread, {cpu_name()}",
        versions={"onnx": f"onnxruntime {onnxruntime.__version__}"},
        runtimes={"onnx": schemes},
        source="benchmark by compress.profile.fit_host on one machine",
        fit_command="python -m compress.profile.fit_host",
        date=date.today().isoformat(),
        notes=("fitted on one x86-64 machine with AVX-512; run the fit command to refit it on yours",),
    )
    write_profile(profile, data_folder("profiles") / unit.profile)


if __name__ == "__main__":
    main()
