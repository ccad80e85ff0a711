"""kill -9 at random moments, then --resume: the same weights as an undisturbed run. Real processes, really killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from compress.pipeline import RunResult
from tests.conftest import ROOT
from tests.pipeline.conftest import RECIPE

KILLS = 4


def _start(recipe: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "compress", "run", str(recipe), "--out", str(out), *flags]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_a_run_killed_again_and_again_ends_as_an_undisturbed_one(finished: RunResult, tmp_path: Path) -> None:
    # Longer trainings than the fixture's would only make this slower: the kills spread over all steps as it is.
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    out, dice, killed_in = tmp_path / "run", random.Random(os.environ.get("KILL_SEED", "1")), []
    for attempt in range(KILLS):
        process = _start(recipe, out, *(["--resume"] if (out / "recipe.json").is_file() else []))
        _wait_for_progress(process, out, dice)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed_in.append((attempt, process.returncode, len(list(out.glob("steps/*/record.json")))))
    last = _start(recipe, out, "--resume")
    _, said = last.communicate(timeout=300)
    assert last.returncode == 0, said
    assert any(code == -signal.SIGKILL for _, code, _ in killed_in), killed_in
    for weights in sorted(finished.folder.glob("steps/*/weights.safetensors")):
        name = weights.relative_to(finished.folder)
        assert (out / name).read_bytes() == weights.read_bytes(), f"{name} differs; killed in {killed_in}"
    mine, theirs = (json.loads((f / "report.json").read_text()) for f in (out, finished.folder))
    for figure in ("quality", "params", "macs", "size_bytes"):
        assert mine["student"][figure]["value"] == theirs["student"][figure]["value"]
    assert [a["sha256"] for a in mine["artifacts"]] == [a["sha256"] for a in theirs["artifacts"]]


def _wait_for_progress(process: subprocess.Popen[str], out: Path, dice: random.Random) -> None:
    """Wait until the process has begun a step it had not finished before, then a random while longer."""
    done, start = len(list(out.glob("steps/*/record.json"))), time.monotonic()
    while process.poll() is None and time.monotonic() - start < 120:
        begun = len(list(out.glob("steps/*/key")))
        if begun > done:
            break
        time.sleep(0.02)
    time.sleep(dice.uniform(0.0, 2.5))
