"""Cases that cost nothing."""

from __future__ import annotations

from collections.abc import Callable

from compress.bench import Case


def stub(
    run: Callable[[int], tuple[float, float]], method: str = "r3gan", name: str = "stub", higher_is_better: bool = True
) -> Case:
    return Case(method, name, "with | without", "figure", "dB", higher_is_better, "it wins.", run)


KNOWN = {"r3gan": (119, "R3GAN"), "san": (69, "SAN")}
