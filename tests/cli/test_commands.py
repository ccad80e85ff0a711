"""The commands that need no model: what they print, as text and as JSON."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

import compress
from compress import export, runtimes
from compress.cli import VERBS, app, main
from compress.doctor import examine, list_tools
from compress.recipe import STEPS, Recipe, load_recipe
from compress.targets import list_targets, load_target

FLAGS = Path(__file__).with_name("flags.txt")
Capture = pytest.CaptureFixture[str]


def json_of(capsys: Capture, *arguments: str, exit_code: int = 0) -> Any:
    """What a command prints on stdout, which must be JSON and nothing else."""
    capsys.readouterr()
    assert main(list(arguments)) == exit_code
    return json.loads(capsys.readouterr().out)


def commands_of(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its name, those of a group below it ("profile fit")."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{above}{name} ")
        else:
            yield above + name, command


def flags() -> list[str]:
    """One line per command: its name, arguments and flags, in the order `--help` has them."""
    group: Any = typer.main.get_command(app)
    lines = []
    for name, command in commands_of(group):
        arguments = [
            p.make_metavar(None) if p.metavar is None else p.metavar
            for p in command.params
            if not p.opts[0].startswith("-")
        ]
        options = [opt for p in command.params if p.opts[0].startswith("-") for opt in p.opts]
        lines.append(" ".join([f"{name}:", *arguments, *options]))
    return lines


def test_the_flags_are_frozen() -> None:
    """A flag is a promise: change flags.txt in the same commit, and say so in CHANGELOG.md."""
    assert flags() == FLAGS.read_text(encoding="utf-8").splitlines()


def test_every_step_is_a_verb_of_the_command_line() -> None:
    assert set(STEPS) | {"run", "report"} == set(VERBS)


def test_help_names_every_command_with_its_whole_sentence(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for line in flags():
        assert f" {line.partition(':')[0].split()[0]} " in shown
    assert "Exit codes: 0 done" in shown and "..." not in shown.partition("Commands:")[2]


def test_targets_lists_every_unit(capsys: Capture) -> None:
    rows = json_of(capsys, "targets", "--json")
    assert {(row["name"], row["unit"]) for row in rows} == {
        (name, unit) for name in list_targets() for unit in load_target(name).units
    }
    assert all(row["profile"] for row in rows)
    assert main(["targets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows) + 1
    for line, row in zip(lines[1:], rows, strict=True):
        assert row["name"] in line and row["soc"] in line and ", ".join(row["runtimes"]) in line


def test_a_measured_unit_says_what_its_predictions_rest_on(capsys: Capture) -> None:
    for row in json_of(capsys, "targets", "--json"):
        profile = load_target(row["name"]).unit(row["unit"]).profile
        assert ("models, error" in row["profile"]) == bool(profile)


def test_formats_says_what_is_missing(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    find = export.importlib.util.find_spec
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if "litert" in name else find(name))
    rows = {row["format"]: row for row in json_of(capsys, "formats", "--json")}
    assert list(rows) == list(export.EXPORTERS) == list(runtimes.RUNTIMES)
    assert "pip install -e '.[litert]'" in rows["litert"]["write"]
    assert "pip install -e '.[litert]'" in rows["litert"]["run"]
    assert main(["formats"]) == 0
    assert "'.[litert]'" in capsys.readouterr().out


def test_methods_lists_all_and_filters(capsys: Capture) -> None:
    assert len(json_of(capsys, "methods", "--json")) == 172
    rows = json_of(capsys, "methods", "--built", "--json")
    assert {"funmatch", "fitnets", "vkd"} <= {row["key"] for row in rows}
    assert all(row["where"] and row["test"] for row in rows)
    families = {row["family"] for row in json_of(capsys, "methods", "--family", "gan training", "--json")}
    assert families == {"GAN training"}
    assert main(["methods"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 173
    assert "172 methods" in captured.err


def test_an_unknown_family_is_named_with_the_nearest(capsys: Capture) -> None:
    assert main(["methods", "--family", "F2 featur KD"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: unknown family 'F2 featur KD'; did you mean F2 feature KD")


def test_doctor_says_version_or_how_to_get_it(capsys: Capture) -> None:
    state = json_of(capsys, "doctor", "--json")
    for tool in state["tools"]:
        assert bool(tool["version"]) != tool["install"].startswith("pip install -e ")
    assert state["cpu_threads"] >= 1 and state["cpu"] and state["disk_free_bytes"] > 0
    assert next(tool for tool in state["tools"] if tool["name"] == "torch")["version"]
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert all(tool.name in shown for tool in list_tools())


def test_doctor_names_the_extra_of_a_missing_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    lines = {tool["name"]: tool["install"] for tool in examine(tmp_path)["tools"]}
    assert lines["coremltools"] == "pip install -e '.[coreml]'"
    assert lines["torch"] == "pip install -e ."


def test_every_extra_that_is_named_exists(root: Path) -> None:
    import tomllib

    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for _, extra in runtimes.TOOLS.values()} | {extra for _, extra in export.TOOLS.values()}
    named |= {tool.install.partition("[")[2].partition("]")[0] for tool in list_tools() if "[" in tool.install}
    assert named and named <= set(extras)
    assert {"litert", "executorch", "coreml", "nncf", "mobile", "test"} <= set(extras)


# schema


def test_the_schema_has_every_key_of_a_recipe(capsys: Capture) -> None:
    schema = json_of(capsys, "schema")
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["additionalProperties"] is False
    forms = schema["properties"]["steps"]["items"]["oneOf"]
    assert forms[0]["enum"] == list(STEPS)
    for form, (verb, model) in zip(forms[1:], STEPS.items(), strict=True):
        reference = form["properties"][verb]["anyOf"][0]["$ref"].removeprefix("#/$defs/")
        definition = schema["$defs"][reference]
        assert set(definition["properties"]) == set(model.model_fields)
        assert definition["additionalProperties"] is False


def test_an_editor_takes_one_file_of_measurements_or_several(capsys: Capture) -> None:
    forms = json_of(capsys, "schema")["$defs"]["Profile"]["properties"]["measured"]["anyOf"]
    assert [form["type"] for form in forms] == ["string", "array"]


def test_every_reference_of_the_schema_leads_somewhere(capsys: Capture) -> None:
    schema = json_of(capsys, "schema")
    references: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            references.extend([value["$ref"]] if "$ref" in value else [])
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(schema)
    assert len(references) > 10
    assert {reference.removeprefix("#/$defs/") for reference in references} <= set(schema["$defs"])


# init


def test_init_writes_a_recipe_and_a_task(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "my-net"
    assert main(["init", str(folder)]) == 0
    assert str(folder / "recipe.yaml") in capsys.readouterr().out
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.name == "my-net"
    assert load_target(recipe.target).unit(recipe.unit)
    assert (folder / "recipe.yaml").read_text().count("#") > 10
    task = (folder / "task.py").read_text()
    assert "my-net" in task and "@NAME@" not in task
    assert len(task.splitlines()) <= 45
    for entry in (recipe.teacher.entry, recipe.task.entry):
        assert f"def {entry.partition(':')[2]}(" in task


def test_init_takes_a_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine"]) == 0
    assert load_recipe(tmp_path / "mine" / "recipe.yaml").name == "mine"


def test_init_never_overwrites_unless_told(tmp_path: Path, capsys: Capture) -> None:
    task = tmp_path / "mine" / "task.py"
    task.parent.mkdir()
    task.write_text("precious = 1\n")
    assert main(["init", str(task.parent)]) == 2
    assert f"{task} exists already; --force overwrites it" in capsys.readouterr().err
    assert task.read_text() == "precious = 1\n"
    assert not (task.parent / "recipe.yaml").exists()
    assert main(["init", str(task.parent), "--force"]) == 0
    assert "precious" not in task.read_text()


@pytest.mark.parametrize("name", ["-x-", "a b", "ä"], ids=["dash", "space", "umlaut"])
def test_init_refuses_a_name_no_recipe_can_have(tmp_path: Path, capsys: Capture, name: str) -> None:
    assert main(["init", str(tmp_path / name)]) == 2
    assert "cannot name a recipe" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_init_refuses_a_file(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine").write_text("")
    assert main(["init", str(tmp_path / "mine")]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


def test_init_in_a_read_only_folder(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("compress.files.os.replace", refuse)  # root may write everywhere
    assert main(["init", str(tmp_path / "mine")]) == 2
    assert "the folder is read-only; choose another" in capsys.readouterr().err
    assert list((tmp_path / "mine").iterdir()) == []


def test_the_written_task_is_one_that_can_be_learned(tmp_path: Path) -> None:
    import torch

    from compress.entry import load_entry

    folder = tmp_path / "mine"
    assert main(["init", str(folder)]) == 0
    recipe = load_recipe(folder / "recipe.yaml")
    model = load_entry(recipe.teacher.entry, folder)()
    task = load_entry(recipe.task.entry, folder)(**recipe.data)
    assert model.eval()(*task.example_inputs()).shape == (1, 4)
    with torch.no_grad():
        untrained = task.quality(model).value
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for start in range(0, 1200, task.batch_size):
        batch = task.train_batch(torch.arange(start, start + task.batch_size), generator)
        optimizer.zero_grad()
        task.loss(model(*batch.inputs), batch.target).backward()
        optimizer.step()
    with torch.no_grad():
        assert task.quality(model.eval()).value > max(0.9, untrained + 0.2)
        sample = task.samples({"teacher": model}, 2)[0]
    assert any(name in sample.outputs["teacher"] for name in task.classes)


def test_the_face_gives_its_names() -> None:
    from compress.errors import Infeasible
    from compress.types import Number

    assert compress.Infeasible is Infeasible and compress.Number is Number
    assert set(compress.__all__) <= set(dir(compress))
    for name in compress.__all__:
        assert getattr(compress, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        _ = compress.compres  # type: ignore[attr-defined]
