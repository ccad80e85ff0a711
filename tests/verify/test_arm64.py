"""Emulated ARM: what is run and how, what is noticed when it goes wrong, and, where it is set up, the real thing.

The stand-in emulator is a shell script that drops the emulator's own arguments and starts this Python in place of the
arm64 one: all of ours runs as it would there, only the processor is this machine's.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress import doctor
from compress.cli import main
from compress.errors import CheckFailed, RunFolderError, ToolError
from compress.export import available as can_export
from compress.export import export
from compress.graph.trace import export_static, trace
from compress.runtimes.arm64 import root as place
from compress.runtimes.arm64 import setup
from compress.runtimes.arm64.emulate import command, environment, run_artifact, start_runtime
from compress.runtimes.arm64.root import CPU, FORMATS, Root, find_root, problem, write_manifest
from compress.runtimes.arm64.samples import read_samples, write_samples
from compress.types import Artifact
from compress.verify.arm64 import verify_emulated
from tests.export.programs import float_program, int8_program, reference, samples

Capture = pytest.CaptureFixture[str]
SETUP = "compress verify --setup arm64"

# The arguments of the emulator are -cpu NAME -L FOLDER PYTHON -S -m MODULE ...
START = f'shift 5; exec "{sys.executable}" "$@"'
# A runtime that answers zeros whatever it is asked: the arm64 kernels that this test wants found out.
ZEROS = """
import numpy as np
__version__ = "9.9"
class SessionOptions: pass
class InferenceSession:
    def __init__(self, path, options, providers): pass
    def get_inputs(self): return [type("Entry", (), {"name": "x", "type": "tensor(float)"})]
    def run(self, names, feeds): return [np.zeros((1, 5), np.float32)]
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder the emulated system would lie in; it is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(place, "unfit_machine", lambda: None)
    monkeypatch.setattr(setup, "unfit_machine", lambda: None)
    return tmp_path / "cache" / "compress" / "arm64"


def make_root(folder: Path, script: str = START, packages: bool = True) -> Root:
    """A root whose emulator is a shell script; `packages`: with this interpreter's own as its wheels."""
    root = Root(folder / "root")
    root.python.parent.mkdir(parents=True)
    root.python.write_text("no program")
    (root.system / "lib").symlink_to("usr/lib")
    root.emulator.write_text(f"#!/bin/sh\n{script}\n")
    root.emulator.chmod(0o755)
    root.wheels.mkdir()
    if packages:
        for entry in Path(np.__file__).parents[1].iterdir():
            (root.wheels / entry.name).symlink_to(entry)
    write_manifest(root, "qemu-user 10.0.13", {"a.deb": "0" * 64}, {"onnx": "onnxruntime 1.2.3"})
    return root


@pytest.fixture(scope="module")
def onnx_artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    return export(float_program(), "onnx", "float32", folder, "net"), folder


# What is run


def test_the_command_and_what_it_may_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/lib/of/this/machine")
    monkeypatch.setenv("PYTHONHOME", "elsewhere")
    root = Root(tmp_path)
    assert command(root, "litert", Path("net.tflite"), Path("work")) == [
        f"{tmp_path}/emulator", "-cpu", "cortex-a76", "-L", f"{tmp_path}/system",
        f"{tmp_path}/system/usr/bin/python3.11", "-S", "-m", "compress.runtimes.arm64.inside",
        "litert", "net.tflite", "work",
    ]  # fmt: skip
    seen = environment(root, Path("work"))
    assert seen["PYTHONPATH"].split(os.pathsep) == [f"{tmp_path}/wheels", "work"]  # no packages of this machine
    assert seen["OMP_NUM_THREADS"] == "1" and not {"LD_LIBRARY_PATH", "PYTHONHOME"} & set(seen)


def test_samples_come_back_as_they_went(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    sent = [(np.full((1, 2), float(i), np.float32), np.arange(i + 1)) for i in range(12)]
    write_samples(path, sent)
    found = read_samples(path)
    assert len(found) == 12
    for left, right in zip(sent, found, strict=True):
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(left, right, strict=True))
    write_samples(path, [])
    assert read_samples(path) == []
    np.savez(path, **{"0_0": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match="allow_pickle"):
        read_samples(path)


def test_an_artifact_runs_and_says_on_what(cache: Path, onnx_artifact: tuple[Artifact, Path]) -> None:
    make_root(cache)
    artifact, folder = onnx_artifact
    given = samples(3)
    run = run_artifact(find_root(), folder / artifact.path, "onnx", given)
    assert run.ran_on.startswith("onnxruntime 1.") and run.ran_on.endswith(
        f" on arm64 (qemu-user 10.0.13, {CPU} emulated)"
    )
    wanted = [reference(float_program())(*x)[0] for x in given]
    assert len(run.outputs) == 3
    assert all(np.allclose(out, right, atol=1e-5) for (out,), right in zip(run.outputs, wanted, strict=True))
    assert start_runtime(find_root(), "onnx").startswith("onnxruntime 1.")


def test_a_right_artifact_passes_against_the_model_and_this_machine(
    cache: Path, onnx_artifact: tuple[Artifact, Path]
) -> None:
    make_root(cache)
    found = verify_emulated(find_root(), *onnx_artifact, reference(float_program()), samples(2))
    assert found.found.passed and found.found.samples == 2
    assert found.host is not None and found.host.max_error == 0.0  # the same kernels in the stand-in
    assert found.host_ran_on.startswith("onnxruntime ")
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["arch"] == "arm64" and record["host"]["sqnr_db"] == 300.0
    assert not [key for key in record if "latency" in key or key.endswith("_ms")]


def test_wrong_kernels_there_are_found_out(cache: Path, onnx_artifact: tuple[Artifact, Path]) -> None:
    root = make_root(cache)
    (root.wheels / "onnxruntime").unlink()
    (root.wheels / "onnxruntime.py").write_text(ZEROS)
    found = verify_emulated(root, *onnx_artifact, reference(float_program()), samples(2))
    assert not found.found.passed and "largest error is 1 of the range" in found.found.reason
    assert found.found.ran_on.startswith("onnxruntime 9.9 on arm64")
    # Against a reference that is as wrong, this machine's own runtime is what gives it away.
    found = verify_emulated(root, *onnx_artifact, lambda x: [np.zeros((1, 5), np.float32)], samples(2))
    assert found.host is not None and found.host.max_relative_error == 1.0
    assert not found.found.passed and found.found.reason.startswith("it differs from onnxruntime 1.")


def test_another_shape_is_no_match(cache: Path, onnx_artifact: tuple[Artifact, Path]) -> None:
    make_root(cache)
    turned: Callable[..., list[np.ndarray]] = lambda *x: [reference(float_program())(*x)[0].T]  # noqa: E731
    found = verify_emulated(find_root(), *onnx_artifact, turned, samples(1)).found
    assert not found.passed and "(1, 5)" in found.reason and "(5, 1)" in found.reason


# What goes wrong there


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo first >&2; echo 'illegal thing' >&2; kill -SEGV $$", r"crashed \(SIGSEGV\): illegal thing"),
        ("exit 132", r"crashed \(SIGILL\): it said nothing"),
        ("exit 3", r"crashed \(exit code 3\)"),
        ("exit 0", "crashed"),
        (START.replace("exec ", "") + "; exit 139", "SIGSEGV"),
    ],
    ids=["signal", "signal through a shell", "code", "nothing left", "results, then a crash"],
)
def test_a_crash_is_a_failure_in_one_line(
    cache: Path, onnx_artifact: tuple[Artifact, Path], script: str, words: str
) -> None:
    root = make_root(cache, script)
    artifact, folder = onnx_artifact
    with pytest.raises(ToolError, match=words) as caught:
        run_artifact(root, folder / artifact.path, "onnx", samples(1))
    assert "\n" not in str(caught.value)
    found = verify_emulated(root, artifact, folder, reference(float_program()), samples(1)).found
    assert not found.passed and found.ran_on == "not run there" and "crashed" in found.reason


def test_a_refused_file_is_named(cache: Path, tmp_path: Path) -> None:
    make_root(cache)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no model")
    with pytest.raises(ToolError, match=r"refused: .*broken\.onnx cannot be loaded"):
        run_artifact(find_root(), broken, "onnx", samples(1))


def test_outputs_that_are_missing_are_noticed(cache: Path, onnx_artifact: tuple[Artifact, Path]) -> None:
    says = """echo '{"name": "x", "version": "1"}' > about.json"""
    root = make_root(cache, says)
    artifact, folder = onnx_artifact
    with pytest.raises(CheckFailed, match="no readable outputs"):
        run_artifact(root, folder / artifact.path, "onnx", samples(1))
    (cache / "root" / "emulator").write_text(f"#!/bin/sh\n{says}; cp inputs.npz outputs.npz\n")
    assert len(run_artifact(root, folder / artifact.path, "onnx", samples(2)).outputs) == 2
    with pytest.raises(ToolError, match="no runtime on arm64"):
        run_artifact(root, folder / artifact.path, "coreml", samples(1))


def test_core_ml_and_changed_files_are_not_run(cache: Path, onnx_artifact: tuple[Artifact, Path]) -> None:
    root = make_root(cache, "echo must not be started >&2; exit 9")
    artifact, folder = onnx_artifact
    ask = (folder, reference(float_program()), samples(1))
    apple = verify_emulated(root, replace(artifact, format="coreml"), *ask).found
    assert apple.passed and apple.samples == 0 and "not run there" in apple.reason
    changed = verify_emulated(root, replace(artifact, sha256="0" * 64), *ask).found
    assert not changed.passed and "changed since it was exported" in changed.reason
    gone = verify_emulated(root, replace(artifact, path="nowhere.onnx"), *ask).found
    assert not gone.passed and "missing" in gone.reason


# Whether it is there and whole


def test_nothing_there_says_what_to_do(cache: Path, capsys: Capture, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: small\nteacher: {entry: 't.py:t'}\ntask: {entry: 't.py:k'}\nsteps: [export, verify]\n")
    assert main(["verify", str(recipe), "--arch", "arm64"]) == 4
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and told.err.startswith("error: arm64 is not set up")
    assert SETUP in told.err and not (tmp_path / "runs").exists()
    assert SETUP in doctor.examine(tmp_path)["arm64"]


def test_a_whole_root_is_found(cache: Path) -> None:
    root = make_root(cache)
    assert problem() is None and find_root() == root
    assert "onnxruntime 1.2.3 on arm64 (qemu-user 10.0.13" in doctor.examine(cache)["arm64"]


DAMAGES: dict[str, tuple[Callable[[Root], object], str]] = {
    "a shorter file": (lambda root: root.python.write_text("no"), "python3.11 has changed"),
    "a file that is gone": (lambda root: root.emulator.unlink(), "emulator is missing"),
    "a link that is gone": (lambda root: (root.system / "lib").unlink(), "lib is missing"),
    "no manifest": (lambda root: (root.folder / "manifest.json").unlink(), "no readable manifest"),
    "half a manifest": (lambda root: os.truncate(root.folder / "manifest.json", 40), "no readable manifest"),
    "an empty manifest": (lambda root: _rewrite(root, files={}), "names no files"),
    "another version": (lambda root: _rewrite(root, pins="of old"), "another version"),
}


def _rewrite(root: Root, **changes: object) -> None:
    path = root.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_root_is_noticed(cache: Path, kind: str) -> None:
    spoil, words = DAMAGES[kind]
    spoil(make_root(cache, packages=False))
    with pytest.raises(ToolError, match=words) as caught:
        find_root()
    assert SETUP in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("machine", "system", "words"),
    [("aarch64", "linux", "is arm64 itself"), ("arm64", "darwin", "itself"), ("x86_64", "darwin", "x86-64 Linux only")],
)
def test_other_machines_are_told_why(machine: str, system: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", system)
    assert words in (place.problem() or "")
    with pytest.raises(ToolError, match=words):
        setup.set_up(lambda line: None)


def test_wrong_arguments_are_named(capsys: Capture) -> None:
    assert main(["verify", "recipe.yaml", "--arch", "arm46"]) == 2
    assert "unknown architecture 'arm46'; did you mean arm64?" in capsys.readouterr().err
    assert main(["verify", "--setup", "riscv"]) == 2
    assert main(["verify"]) == 2
    assert "Missing argument 'RECIPE'" in capsys.readouterr().err


# Setting it up, with stand-ins for the programs that fetch


APT = """
case "$*" in *indextargets*) echo http://archive.invalid/debian/; exit 0;; *" update") exit ${APT_EXIT:-0};; esac
[ -n "$APT_SAYS" ] && { echo "$APT_SAYS"; exit 100; }
for word in "$@"; do case $word in Dir::Cache=*) folder=${word#Dir::Cache=}/archives;; esac; done
case "$*" in *qemu-user*) name=qemu-user_10_amd64;; *) name=python3.11_1_arm64;; esac
[ -f $folder/$name.deb ] || { echo "Get:1 $name"; echo package > $folder/$name.deb; }
"""
DPKG = """
mkdir -p $3/usr/bin
case $2 in
  *qemu*) cp $EMULATOR $3/usr/bin/qemu-aarch64; : > $3/usr/bin/qemu-other;;
  *) echo python > $3/usr/bin/python3.11;;
esac
"""
# Says its version, and that each runtime has started: what the ninth argument, the format, names.
EMULATOR = """
[ "$1" = --version ] && { echo qemu-aarch64 version 10.0.99; exit 0; }
[ "$9" = CRASHES ] && exit 139
echo "{\\"name\\": \\"$9\\", \\"version\\": \\"1\\"}" > about.json
"""
PIP = """
while [ $# -gt 0 ]; do case $1 in --dest) dest=$2;; --target) target=$2;; esac; shift; done
[ -n "$PIP_SAYS" ] && { echo "$PIP_SAYS"; exit 1; }
[ -n "$dest" ] && { echo "Downloading numpy-2-cp311-cp311-linux.whl (15 MB)"; echo wheel > $dest/numpy.whl; }
[ -n "$target" ] && { mkdir -p $target/numpy; echo code > $target/numpy/__init__.py; }
exit 0
"""


@pytest.fixture
def programs(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand-ins for apt-get, dpkg-deb and pip, that fetch nothing and leave small files."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in {"apt-get": APT, "dpkg-deb": DPKG, "pip": PIP, "emulator": EMULATOR}.items():
        (folder / name).write_text(f"#!/bin/sh{script}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("EMULATOR", str(folder / "emulator"))
    (tmp_path / "keys.gpg").touch()
    monkeypatch.setattr(setup, "KEYRING", tmp_path / "keys.gpg")
    monkeypatch.setattr(setup.sys, "executable", str(folder / "pip"))  # -m pip ... are words it passes over
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    yield folder


def test_setting_up_makes_a_whole_root(programs: Path, cache: Path) -> None:
    said: list[str] = []
    root = setup.set_up(said.append)
    assert root == find_root() and root.describe() == f"arm64 (qemu-user 10.0.99, {CPU} emulated)"
    assert root.manifest["runtimes"] == {format: f"{format} 1" for format in FORMATS}
    assert set(root.manifest["packages"]) == {"python3.11_1_arm64.deb", "qemu-user_10_amd64.deb", "numpy.whl"}
    assert all(len(digest) == 64 for digest in root.manifest["packages"].values())
    assert {"emulator", "system/usr/bin/python3.11", "wheels/numpy/__init__.py"} == set(root.manifest["files"])
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "root"]  # nothing half-made, no downloads
    assert any("Get:1 python3.11" in line for line in said) and "  Downloading numpy-2 (15 MB)" in said
    said.clear()
    assert setup.set_up(said.append) == root and "already" in said[0] and len(said) == 1


def test_a_failed_setup_leaves_no_root_and_goes_on(
    programs: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_SAYS", "ERROR: Could not find a version that satisfies numpy==2.4.6")
    with pytest.raises(ToolError, match=r"fetching the wheels failed .*satisfies numpy"):
        setup.set_up(lambda line: None)
    assert not (cache / "root").exists() and problem() is not None
    kept = cache / "downloads" / "bookworm" / "cache" / "archives" / "python3.11_1_arm64.deb"
    assert kept.is_file()
    monkeypatch.delenv("PIP_SAYS")
    (cache / "root.part" / "system").mkdir(parents=True)  # as a killed run leaves it
    said: list[str] = []
    setup.set_up(said.append)
    assert problem() is None
    assert not [line for line in said if "Get:" in line]  # what was fetched was not fetched again


def test_a_runtime_that_does_not_start_leaves_no_root(programs: Path, cache: Path) -> None:
    emulator = programs / "emulator"
    emulator.write_text(emulator.read_text().replace("CRASHES", "litert"))
    with pytest.raises(ToolError, match="emulated litert runtime crashed"):
        setup.set_up(lambda line: None)
    assert not (cache / "root").exists()


@pytest.mark.parametrize(
    ("variable", "says", "words"),
    [
        ("APT_SAYS", "E: Failed to fetch http://archive.invalid  Temporary failure resolving", "Temporary failure"),
        ("PIP_SAYS", "ERROR: Connection broken", "is there a network?"),
        ("APT_EXIT", "100", "package lists failed"),
    ],
)
def test_no_network_is_one_line_and_exit_code_4(
    programs: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, variable: str, says: str, words: str
) -> None:
    monkeypatch.setenv(variable, says)
    assert main(["verify", "--setup", "arm64", "--json"]) == 4
    told = capsys.readouterr()
    error = json.loads(told.out)
    assert error["exit_code"] == 4 and words in error["error"] and SETUP in error["error"]
    assert [line for line in told.err.splitlines() if line.startswith("error:")] == [f"error: {error['error']}"]


def test_a_full_disk_says_so(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_SAYS", "ERROR: [Errno 28] No space left on device")
    with pytest.raises(RunFolderError, match="disk is full while fetching the wheels"):
        setup.set_up(lambda line: None)


def test_missing_tools_are_named(programs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(setup, "KEYRING", tmp_path / "nowhere.gpg")
    with pytest.raises(ToolError, match="install debian-archive-keyring"):
        setup.set_up(lambda line: None)
    monkeypatch.setattr(setup, "KEYRING", tmp_path / "keys.gpg")
    (programs / "apt-get").write_text("#!/bin/sh\necho http://archive.invalid/ubuntu/\n")
    with pytest.raises(ToolError, match="COMPRESS_DEBIAN_MIRROR"):
        setup.set_up(lambda line: None)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(ToolError, match="apt-get is missing"):
        setup.set_up(lambda line: None)


def test_two_at_once_are_refused(programs: Path, cache: Path) -> None:
    import fcntl

    cache.mkdir(parents=True)
    with open(cache / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ToolError, match="another process is setting up"):
            setup.set_up(lambda line: None)


def test_apt_works_in_its_own_folder_and_pip_takes_pins_only(tmp_path: Path) -> None:
    apt = setup.apt_command(tmp_path, "update")
    assert apt[0] == "apt-get" and apt[-1] == "update"
    given = dict(word.split("=", 1) for word in apt if "=" in word)
    for name in ("Dir::State", "Dir::State::status", "Dir::Cache", "Dir::Etc::SourceList"):
        assert given[name].startswith(str(tmp_path))
    assert given["APT::Architecture"] == "arm64" and given["Dir::Etc::SourceParts"] == "-"
    pip = setup.pip_command("download")
    assert {"--only-binary=:all:", "--no-deps", "--require-hashes"} <= set(pip)
    assert "manylinux_2_28_aarch64" in pip and not [word for word in pip if "x86" in word]


def test_every_wheel_is_pinned_with_its_hash() -> None:
    lines = [line for line in place.WHEELS_FILE.read_text().splitlines() if line and not line.startswith("#")]
    named = {line.partition("==")[0] for line in lines}
    assert {"numpy", "onnxruntime", "ai-edge-litert", "executorch"} <= named
    for line in lines:
        assert "==" in line and len(line.partition("--hash=sha256:")[2]) == 64, line


# The whole way

RECIPE = """\
name: tiny
teacher: {entry: "tests/pipeline/tiny.py:teacher", train: {epochs: 1}}
task: {entry: "tests/pipeline/tiny.py:task"}
train: {threads: 1}
steps:
  - prune: {ratio: 0.3, batches: 1}
  - quantize: {calibration_batches: 1}
  - export: {formats: [onnx]}
  - verify: {samples: 3, min_sqnr_db: 15}
"""


def test_a_run_is_verified_on_this_machine_and_there(cache: Path, tmp_path: Path, capsys: Capture) -> None:
    root, out = make_root(cache), tmp_path / "run"
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    asked = ["verify", str(tmp_path / "recipe.yaml"), "--out", str(out), "--arch", "arm64"]
    assert main([*asked, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [(row["format"], row["scheme"]) for row in record["rows"]] == [("onnx", "float32"), ("onnx", "w8a8")]
    assert all(row["passed"] and row["samples"] == 3 and row["host"]["max_error"] == 0.0 for row in record["rows"])
    assert json.loads((out / "arm64.json").read_text())["rows"] == record["rows"]
    steps = {path: path.stat().st_mtime_ns for path in out.glob("steps/*/record.json")}
    (root.wheels / "onnxruntime").unlink()
    (root.wheels / "onnxruntime.py").write_text(ZEROS.replace("(1, 5)", "(1, 4)"))
    write_manifest(root, "qemu-user 10.0.13", {}, {})
    assert main(["verify", str(out), "--arch", "arm64"]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 3 and "FROM THIS HOST" in shown[0] and "onnxruntime 9.9 on arm64" in shown[1]
    assert "the limit" in shown[1] and "the limit" in shown[2]
    assert {path: path.stat().st_mtime_ns for path in out.glob("steps/*/record.json")} == steps  # no step done over


# The real thing


@pytest.mark.skipif(problem() is not None, reason=str(problem()))
@pytest.mark.parametrize(
    ("format", "scheme"),
    [("onnx", "float32"), ("litert", "float32"), ("onnx", "w8a8"), ("litert", "w8a8"), ("executorch", "w8a8")],
)
def test_arm_kernels_compute_what_the_model_does(format: str, scheme: str, tmp_path: Path) -> None:
    reason = can_export(format)
    if reason:
        pytest.skip(reason)
    program = int8_program() if scheme == "w8a8" else float_program()
    artifact = export(program, format, scheme, tmp_path, "net")
    found = verify_emulated(find_root(), artifact, tmp_path, reference(program), samples(2))
    assert found.found.passed, found.found.reason
    assert " on arm64 (qemu-user " in found.found.ran_on and f"{CPU} emulated)" in found.found.ran_on
    assert found.host is not None
    if scheme == "float32":
        assert found.host.max_relative_error < 1e-5


@pytest.mark.skipif(problem() is not None, reason=str(problem()))
def test_an_instance_norm_is_right_there_run_after_run(tmp_path: Path) -> None:
    """The old runtime that is there has a kernel that adds to what the run before left: none of its own is used."""
    if reason := can_export("executorch"):
        pytest.skip(reason)
    norm = torch.nn.InstanceNorm2d(3, affine=True).eval()
    given = [(x + 2,) for (x,) in samples(3)]
    x = torch.from_numpy(given[0][0])
    program = export_static(trace(norm, (x,)), (x,))
    artifact = export(program, "executorch", "float32", tmp_path, "net")
    found = verify_emulated(find_root(), artifact, tmp_path, reference(program), given)
    assert found.found.passed and found.found.samples == 3, found.found.reason
