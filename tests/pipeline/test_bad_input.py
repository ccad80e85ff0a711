"""Every bad input is one clear line naming what is at fault, with its exit code, and leaves nothing half-written."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from compress.checkpoint import fit_weights, load_weights
from compress.errors import CompressError, DataError, InputError, ModelError, RecipeError, UnknownName, WeightsError
from compress.files import write_bytes
from tests.conftest import ROOT
from tests.models import TinyResNet
from tests.pipeline.conftest import RECIPE, go, recipe

ENTRY = "tests/pipeline/tiny.py"


def _refused(tmp_path: Path, kind: type[CompressError], match: str, code: int = 2, **changes: Any) -> None:
    with pytest.raises(kind, match=match) as caught:
        go(tmp_path / "run", recipe(**changes))
    assert caught.value.exit_code == code
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").rglob("*.part"))
    assert not list((tmp_path / "run").rglob("weights.safetensors"))


def test_missing_file_module_and_attribute(tmp_path: Path) -> None:
    _refused(tmp_path, InputError, r"no file tests/nowhere\.py", task={"entry": "tests/nowhere.py:task"})
    _refused(tmp_path, InputError, "cannot import no_such_package", task={"entry": "no_such_package:task"})
    _refused(tmp_path, UnknownName, "'taks'; did you mean task", task={"entry": f"{ENTRY}:taks"})
    _refused(tmp_path, InputError, "expected package.module:attribute", task={"entry": "tiny"})
    _refused(tmp_path, InputError, "must return a compress.Task", task={"entry": f"{ENTRY}:not_a_model"})
    _refused(tmp_path, ModelError, "must return a torch module", teacher={"entry": f"{ENTRY}:not_a_model"})
    _refused(tmp_path, InputError, "no file missing.safetensors",
             teacher={"entry": f"{ENTRY}:teacher", "weights": "missing.safetensors"})  # fmt: skip


def test_unknown_names_carry_the_nearest(tmp_path: Path) -> None:
    _refused(tmp_path, UnknownName, "'hsot'; did you mean host", target="hsot")
    _refused(tmp_path, UnknownName, "unknown unit 'cpuu'; did you mean cpu", unit="cpuu")
    go(tmp_path / "good", recipe(steps=[]))
    for step, match in (
        ({"prune": {"importance": "tailor"}}, "'tailor'; did you mean taylor"),
        ({"distill": {"method": "logits"}}, "'logits'; did you mean logit"),
    ):
        with pytest.raises(UnknownName, match=match):
            go(tmp_path / "good", recipe(steps=[step]))


def test_an_untraceable_model_names_the_users_line(tmp_path: Path) -> None:
    _refused(tmp_path, ModelError, r"tiny\.py:\d+: if x\.sum\(\) > 0", teacher={"entry": f"{ENTRY}:branching_teacher"})


def test_data_that_yields_nothing_or_the_wrong_shape(tmp_path: Path) -> None:
    _refused(tmp_path, DataError, "the train split holds no samples", task={"entry": f"{ENTRY}:empty_task"})
    _refused(tmp_path, DataError, r"does not take the task's inputs of shape \(1, 3, 8, 8\)", data={"channels": 3})
    _refused(tmp_path, InputError, "could not be called with data.colour", data={"colour": 1})


def test_a_teacher_cannot_be_trained_without_labels(tmp_path: Path) -> None:
    _refused(tmp_path, RecipeError, "no labels to learn from", task={"entry": f"{ENTRY}:unlabelled_task"})


def _weights(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> str:
    save_file(tensors, tmp_path / "w.safetensors")
    return str(tmp_path / "w.safetensors")


def test_weights_that_do_not_fit_name_the_first_keys(tmp_path: Path) -> None:
    good = TinyResNet(width=32).state_dict()
    renamed = {k.replace("stem", "stump"): v for k, v in good.items()}
    teacher = {"entry": f"{ENTRY}:teacher"}
    _refused(
        tmp_path, WeightsError, "the file lacks stem.weight", teacher=teacher | {"weights": _weights(tmp_path, renamed)}
    )
    narrow = dict(TinyResNet(width=16).state_dict())
    _refused(tmp_path, WeightsError, r"stem.weight: file \(16, 1, 3, 3\), model \(32, 1, 3, 3\)",
             teacher=teacher | {"weights": _weights(tmp_path, narrow)})  # fmt: skip


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_name_the_tensor(tmp_path: Path, bad: float) -> None:
    state = {k: v.clone() for k, v in TinyResNet(width=32).state_dict().items()}
    state["block1.conv2.weight"][0, 0, 0, 0] = bad
    _refused(tmp_path, WeightsError, "block1.conv2.weight holds 1 NaN or infinite",
             teacher={"entry": f"{ENTRY}:teacher", "weights": _weights(tmp_path, state)})  # fmt: skip


class Trap:
    """A pickle that would run code: it would make the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_that_is_not_plain_tensors_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "was-here"
    for name, write in (
        ("a.pth", lambda p: torch.save({"x": Trap(marker)}, p)),
        ("b.pt", lambda p: p.write_bytes(pickle.dumps(Trap(marker)))),
    ):
        write(tmp_path / name)
        with pytest.raises(WeightsError, match=f"{name}: refused"):
            load_weights(tmp_path / name)
    torch.save(TinyResNet(), tmp_path / "whole.pth")
    with pytest.raises(WeightsError, match="refused, it holds more than plain tensors"):
        load_weights(tmp_path / "whole.pth")
    assert not marker.exists()


def test_damaged_files_and_wrapped_state_dicts(tmp_path: Path) -> None:
    state = TinyResNet().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="damaged or truncated"):
        load_weights(tmp_path / "half.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "wrapped.pth")
    model = TinyResNet()
    fit_weights(model, load_weights(tmp_path / "wrapped.pth"), "wrapped.pth")
    assert torch.equal(model.stem.weight, state["stem.weight"])
    torch.save({"net": {"deep": dict(state)}}, tmp_path / "deep.pth")
    assert set(load_weights(tmp_path / "deep.pth", "net.deep")) == set(state)
    with pytest.raises(WeightsError, match=r"no key 'net.shallow'"):
        load_weights(tmp_path / "deep.pth", "net.shallow")


def test_a_training_that_diverges_says_where(tmp_path: Path) -> None:
    teacher = {"entry": f"{ENTRY}:teacher", "train": {"epochs": 2, "learning_rate": 1e9, "clip_norm": 0}}
    with pytest.raises(CompressError, match=r"became NaN or infinite at step \d+.*lower learning_rate") as caught:
        go(tmp_path / "run", recipe(teacher=teacher))
    assert caught.value.exit_code == 1


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    """A file size limit stands in for a full disk: the write fails in the middle."""
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from compress.files import write_bytes\n"
        "from compress.errors import RunFolderError\n"
        "try: write_bytes(Path(sys.argv[1]), b'x' * 5000)\n"
        "except RunFolderError as error: print('refused:', error)\n"
    )
    target = tmp_path / "w.bin"
    target.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", script, str(target)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("refused: cannot write") and "w.bin" in done.stdout
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["w.bin"]
    assert resource.RLIMIT_FSIZE >= 0


def test_no_space_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CompressError, match=r"the disk is full while writing .*; free some space") as caught:
        write_bytes(tmp_path / "w.bin", b"x")
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CompressError, match="cannot write") as caught:
        go(tmp_path / "file" / "run")
    assert caught.value.exit_code == 2
    if os.geteuid() == 0:
        return  # root writes into read-only folders; the refusal of EROFS is covered by the message below
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(CompressError, match="read-only; choose another with --out"):
        go(tmp_path / "locked" / "run")


def test_a_read_only_folder_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(CompressError, match="the folder is read-only; choose another with --out"):
        go(tmp_path / "run")


def test_the_command_line_prints_one_line_and_no_traceback(tmp_path: Path) -> None:
    bad = dict(RECIPE, target="hsot")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(bad))
    command = [sys.executable, "-m", "compress", "run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: unknown target 'hsot'")
    assert "Traceback" not in done.stderr
    verbose = subprocess.run([*command, "-v"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" in verbose.stderr
