"""What every test shares: one thread, fixed seeds, and a folder to run in."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fake_phone import FakePhone

# Before anything imports torch, and for the processes that tests start.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Where a test's run goes; it does not exist yet."""
    return tmp_path / "run"


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    """A phone made of a folder, connected and well."""
    from tests.fake_phone import FakePhone

    return FakePhone(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test from the same random state, without importing what the test does not need."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
