"""The core stands by itself: without an extra, what needs it says which line brings it, and all else works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.house.source import ROOT

# Import names of what the extras bring.
EXTRAS = (
    "litert_torch ai_edge_litert ai_edge_quantizer litert_converter executorch torchao coremltools nncf timm sklearn "
    "PIL pandas pyarrow scipy jax transformers"
).split()

WITHOUT = f"""
import importlib, importlib.machinery, sys
class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {EXTRAS!r}
        return None if hidden else super().find_spec(name, path, target)
at = sys.meta_path.index(importlib.machinery.PathFinder)
sys.meta_path[at] = Without
"""


def core_only(code: str) -> str:
    """What `code` prints where no extra can be imported."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_room_imports_without_the_extras() -> None:
    """The files that are an extra's own (a runtime, an exporter) are the only ones that may need it."""
    code = """
import pkgutil, compress
blocked = {}
for found in pkgutil.walk_packages(compress.__path__, "compress."):
    if "templates" in found.name or found.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError as error:
        blocked[found.name] = error.name
import json
print(json.dumps(blocked))
"""
    blocked = json.loads(core_only(code).splitlines()[-1])
    for module, missing in blocked.items():
        assert missing.partition(".")[0] in EXTRAS, f"{module} needs {missing}, which nothing brings"
        room = module.split(".")[1]
        assert room in ("export", "runtimes"), f"{module} imports {missing} at its top; import it where it is used"
        assert module.rpartition(".")[2].startswith(("litert", "executorch", "coreml", "tflite")), module


def test_formats_say_what_to_install() -> None:
    shown = core_only("from compress.cli import main; assert main(['formats', '--json']) == 0")
    rows = {row["format"]: row for row in json.loads(shown)}
    assert rows["onnx"] == {"format": "onnx", "write": "yes", "run": "yes"}
    for name in ("litert", "executorch", "coreml"):
        assert f"pip install -e '.[{name}]'" in rows[name]["write"]


def test_an_exporter_that_is_missing_is_exit_code_4() -> None:
    code = """
from compress.errors import ToolMissing
from compress.export import EXPORTERS, export
for format in ("litert", "executorch", "coreml"):
    try:
        export(None, format, "float32", "nowhere", "x")
    except ToolMissing as error:
        print(error.exit_code, error.extra)
"""
    assert core_only(code).splitlines() == ["4 litert", "4 executorch", "4 coreml"]


@pytest.mark.slow
def test_a_real_core_install_compresses_a_model(tmp_path: Path) -> None:
    """Installs the core alone from the checkout and runs the recipe that `compress init` writes (minutes)."""
    venv.create(tmp_path / "venv", with_pip=True)
    bin_ = tmp_path / "venv" / "bin"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([bin_ / "pip", "install", "--quiet", str(ROOT)], check=True, env=environment)

    def compress(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(bin_ / "compress"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    tools = {tool["name"]: tool["version"] for tool in json.loads(compress("doctor", "--json").stdout)["tools"]}
    assert tools["torch"] and not tools["litert-torch"] and not tools["executorch"] and not tools["coremltools"]
    assert compress("init", "demo").returncode == 0
    done = compress("run", "demo/recipe.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert [row["format"] for row in json.loads(done.stdout)["artifacts"]] == ["onnx", "onnx"]
    done = compress("run", "demo/recipe.yaml", "--set", "export.formats=[litert]")
    assert done.returncode == 4
    assert "pip install -e '.[litert]'" in done.stderr and "Traceback" not in done.stderr
