"""Which files a user's code is made of: what it imports and nothing that merely lies beside it."""

from __future__ import annotations

from pathlib import Path

import compress.students
from compress.entry import source_hash
from compress.sources import files_behind


def lay(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_what_is_imported_counts_and_what_lies_beside_does_not(tmp_path: Path) -> None:
    lay(tmp_path, task="from model import Net\nimport torch, json\n", model="import parts.small\n", other="1\n")
    lay(tmp_path / "parts", small="from . import large\n", large="def f():\n    import late\n")
    (tmp_path / "parts/__init__.py").write_text("")
    lay(tmp_path, late="2\n")
    names = [path.relative_to(tmp_path).as_posix() for path in files_behind(tmp_path / "task.py", [tmp_path])]
    assert names == ["late.py", "model.py", "parts/__init__.py", "parts/large.py", "parts/small.py", "task.py"]
    first = source_hash("task.py:x", tmp_path)
    lay(tmp_path, other="3\n")
    assert source_hash("task.py:x", tmp_path) == first
    lay(tmp_path, late="4\n")
    assert source_hash("task.py:x", tmp_path) != first


def test_imports_from_the_project_s_own_root_are_followed(tmp_path: Path) -> None:
    folder = lay(
        tmp_path / "examples/eyes", task="from examples.eyes.model import teacher\n", model="1\n", ablation="1\n"
    )
    lay(tmp_path, examples__fetch="2\n")
    first = source_hash("task.py:task", folder)
    lay(folder, ablation="2\n")
    assert source_hash("task.py:task", folder) == first
    lay(folder, model="from examples import fetch\n")
    second = source_hash("task.py:task", folder)
    lay(tmp_path, examples__fetch="3\n")
    assert len({first, second, source_hash("task.py:task", folder)}) == 3


def test_of_a_package_only_the_file_of_the_name_asked_for_counts() -> None:
    package = Path(compress.students.__file__)
    root = package.parents[2]
    assert [path.name for path in files_behind(package, [root], "Imdn")] == ["imdn.py"]
    assert len(files_behind(package, [root])) > 4


def test_code_that_does_not_parse_is_still_hashed(tmp_path: Path) -> None:
    lay(tmp_path, task="def (\n")
    first = source_hash("task.py:x", tmp_path)
    lay(tmp_path, task="def ((\n")
    assert source_hash("task.py:x", tmp_path) != first and source_hash("no.such.module:x", tmp_path)
