"""A recipe is checked once, at birth: every refusal names file, line, key and the nearest legal name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.errors import RecipeError
from compress.recipe import FORMATS, STEPS, Recipe, check_order, load_recipe, make_recipe

WHOLE = """\
name: small
teacher: {entry: "task.py:teacher"}
task: {entry: "task.py:task"}
budget:
  latency_ms: 2.0
  size_bytes: 60_000
steps:
  - search: {trials: 4}
  - prune:
      importance: taylor
      ratio: auto
  - distill: {epochs: 3}
  - quantize: {}
  - export: {formats: [onnx, litert]}
  - verify
  - profile: {}
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a recipe file and returns its path."""

    def written(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def refusal(path: Path, *overrides: str) -> str:
    """The message a recipe is refused with: one line."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def line_of(message: str) -> int:
    """The line number that a message names after the file."""
    found = re.search(r"recipe\.yaml:(\d+): ", message)
    assert found, message
    return int(found.group(1))


def record(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load(WHOLE), **changes}


# What is read


def test_a_whole_recipe_reads(write: Any) -> None:
    recipe = load_recipe(write(WHOLE))
    assert [step.verb for step in recipe.steps] == [verb for verb in STEPS if verb not in ("rewrite", "solver")]
    assert recipe.budget.size_bytes == 60000
    assert recipe.steps[1].settings.importance == "taylor"
    assert recipe.steps[4].settings.formats == ("onnx", "litert")
    assert (recipe.target, recipe.unit, recipe.seed) == ("host", "cpu", 0)


def test_a_step_by_itself_takes_its_defaults(write: Any) -> None:
    recipe = load_recipe(write(WHOLE))
    assert recipe.steps[5].settings == STEPS["verify"]()
    assert make_recipe(record(steps=["export"])).steps[0].settings.formats == FORMATS


def test_a_recipe_reads_back_from_its_own_data(write: Any) -> None:
    recipe = load_recipe(write(WHOLE))
    assert make_recipe(recipe.to_dict()) == recipe
    assert make_recipe(yaml.safe_load(yaml.safe_dump(recipe.to_dict()))) == recipe


def test_the_scheme_is_the_one_the_student_ends_in() -> None:
    assert make_recipe(record()).scheme == "w8a8"
    assert make_recipe(record(steps=["prune"])).scheme == "float32"


def test_a_recipe_is_frozen() -> None:
    recipe = make_recipe(record())
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1


def test_a_number_is_taken_for_the_precision() -> None:
    assert make_recipe(record(train={"precision": 32})).train.precision == "32"


def test_repeated_formats_are_written_once() -> None:
    assert make_recipe(record(steps=[{"export": {"formats": ["onnx", "onnx"]}}])).steps[0].settings.formats == ("onnx",)


def test_files_of_measurements_may_be_one_or_several() -> None:
    def measured(value: Any) -> Any:
        recipe = make_recipe(record(steps=["export", {"profile": {"measured": value}}]))
        assert make_recipe(recipe.to_dict()) == recipe
        return recipe.steps[1].settings.measured

    assert measured("mine.csv") == ("mine.csv",)
    assert measured(["mine.csv", "other/more.csv", "mine.csv"]) == ("mine.csv", "other/more.csv")
    assert make_recipe(record()).steps[-1].settings.measured == ()


# Files that are no recipe


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path / "recipe.yaml")
    assert "recipe.yaml" in message and "No such file" in message


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(tmp_path)


def test_broken_yaml_is_refused_with_its_line(write: Any) -> None:
    message = refusal(write("name: small\nteacher: {entry: x\ntask: y\n"))
    assert "not valid YAML" in message and line_of(message) == 3


@pytest.mark.parametrize("text", ["", "- prune\n", "just words\n"], ids=["empty", "list", "words"])
def test_what_is_no_mapping_is_refused(write: Any, text: str) -> None:
    assert "a recipe is a mapping" in refusal(write(text))


# Keys


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "near"),
    [
        ("budget:", "budgt:", 4, "budgt", "budget"),
        ("  latency_ms:", "  latency:", 5, "budget.latency", "latency_ms"),
        ("      importance:", "      importanse:", 10, "steps.1.prune.importanse", "importance"),
        ("{trials: 4}", "{trails: 4}", 8, "steps.0.search.trails", "trials"),
        ("{epochs: 3}", "{epoch: 3}", 12, "steps.2.distill.epoch", "epochs"),
        ('{entry: "task.py:teacher"}', '{entry: "task.py:teacher", train: {epoch: 1}}', 2, "train.epoch", "epochs"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(
    write: Any, old: str, new: str, line: int, key: str, near: str
) -> None:
    assert old in WHOLE
    message = refusal(write(WHOLE.replace(old, new, 1)))
    assert line_of(message) == line
    assert f"{key}: unknown key; did you mean " in message
    assert near in message.partition("did you mean")[2]


def test_a_key_like_no_other_lists_the_legal_ones(write: Any) -> None:
    message = refusal(write(WHOLE + "zzz: 1\n"))
    assert line_of(message) == 17
    assert "zzz: unknown key; known: name, teacher, student, task" in message


@pytest.mark.parametrize("key", ["name", "teacher", "task"])
def test_a_missing_key_is_named(write: Any, key: str) -> None:
    lines = [line for line in WHOLE.splitlines() if not line.startswith(f"{key}:")]
    assert f"{key}: this key is missing" in refusal(write("\n".join(lines)))


def test_a_missing_inner_key_has_its_parents_line(write: Any) -> None:
    message = refusal(write(WHOLE.replace('{entry: "task.py:task"}', "{}")))
    assert "task.entry: this key is missing" in message and line_of(message) == 3


# Values


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("latency_ms: 2.0", "latency_ms: -1", 5, "greater than 0 (got -1)"),
        ("latency_ms: 2.0", "latency_ms: fast", 5, "valid number"),
        ("ratio: auto", "ratio: 1.5", 11, "a share in [0, 1)"),
        ("ratio: auto", "ratio: automatic", 11, "ratio"),
        ("{trials: 4}", "{trials: 0}", 8, "greater than or equal to 1"),
        ("{trials: 4}", "{space: widths}", 8, "did you mean width"),
        ("quantize: {}", "quantize: {scheme: w8a9}", 13, "w8a8"),
        ("[onnx, litert]", "[onnx, lite]", 14, "did you mean litert"),
        ("[onnx, litert]", "[]", 14, "at least one format"),
        ("profile: {}", "profile: {measured: 3}", 16, "steps.6.profile.measured"),
        ("profile: {}", "profile: {measured: [mine.csv, 3]}", 16, "steps.6.profile.measured.1"),
        ("profile: {}", "profile: {measuerd: mine.csv}", 16, "did you mean measured"),
        ("name: small", "name: small/er", 1, "name"),
        ("name: small", "name: small\nseed: -1", 2, "seed"),
        ("name: small", "name: small\ntrain: {strategy: dpp}", 2, "did you mean ddp"),
        ("budget:", "budget: 3\nunused:", 4, "budget"),
    ],
)
def test_an_illegal_value_is_named(write: Any, old: str, new: str, line: int, said: str) -> None:
    assert old in WHOLE
    message = refusal(write(WHOLE.replace(old, new, 1)))
    assert said in message
    assert line_of(message) == line


# Searches


def search(**settings: Any) -> Any:
    return make_recipe(record(steps=[{"search": settings}])).steps[0].settings


def test_a_search_is_one_of_trials_unless_it_says_otherwise() -> None:
    assert search(trials=4) == search(method="trials", trials=4)
    assert search().training is None and (search().trials, search().space) == (40, "width_depth")


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "supernet", "space": "width_depth_kernel", "training": {"epochs": 2}, "randoms": 1},
        {"method": "supernet", "training": {}, "in_place": True, "max_peak_activation_bytes": 1_000_000},
        {"method": "ladder", "training": {"ema": 0.9}, "widths": [0.5, 1], "alpha": 20},
    ],
)
def test_a_search_that_trains_reads_back_from_its_own_data(settings: dict[str, Any]) -> None:
    recipe = make_recipe(record(steps=[{"search": settings}]))
    assert make_recipe(recipe.to_dict()) == recipe and recipe.steps[0].settings.training.optimizer == "sgd"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "supernet"}, "method: supernet trains; say how with training, such as {epochs: 20"),
        ({"method": "ladder"}, "method: ladder trains; say how with training"),
        ({"training": {"epochs": 2}}, "training goes with method: supernet or ladder, not with trials; leave it out"),
        ({"max_peak_activation_bytes": 9}, "max_peak_activation_bytes goes with method: supernet or ladder"),
        ({"randoms": 1}, "randoms goes with method: supernet, not with trials"),
        ({"method": "supernet", "training": {}, "alpha": 2}, "alpha goes with method: ladder, not with supernet"),
        ({"method": "supernet", "training": {}, "storage": "sqlite:///a.db"}, "storage goes with method: trials"),
        ({"method": "ladder", "training": {}, "space": "depth"}, "space goes with method: trials or supernet"),
        ({"method": "ladder", "training": {}, "widths": [0.5, 0.25, 1]}, "widths must rise from above 0 to 1"),
        ({"method": "ladder", "training": {}, "widths": []}, "widths must rise from above 0 to 1"),
        ({"method": "ladder", "training": {}, "widths": [0.5, 0.75]}, "widths must end with 1, with a narrower"),
        ({"method": "ladder", "training": {}, "widths": [1]}, "widths must end with 1, with a narrower"),
        ({"method": "supernet", "training": {"epoch": 2}}, "training.epoch: unknown key; did you mean epochs"),
        ({"method": "supernets", "training": {}}, "did you mean supernet"),
        ({"space": "kernels"}, "did you mean kernel"),
        ({"space": "width_kernel"}, "space: width_kernel: the refit fits no cropped kernels; set refit: false"),
    ],
)
def test_a_search_whose_keys_do_not_go_together_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        search(**settings)
    assert said in str(caught.value) and "\n" not in str(caught.value)


# Steps and their order


def test_an_unknown_step_is_named_with_the_nearest(write: Any) -> None:
    assert "unknown step 'prun'; did you mean prune?" in refusal(write(WHOLE.replace("- prune:", "- prun:")))


@pytest.mark.parametrize(
    "steps", ["prune", [{"prune": {}, "distill": {}}], [["prune"]], [3]], ids=["word", "two verbs", "list", "number"]
)
def test_steps_of_another_form_are_refused(steps: Any) -> None:
    with pytest.raises(RecipeError, match=r"prune: \{ratio: auto\}"):
        make_recipe(record(steps=steps))


def test_a_step_whose_settings_are_no_mapping_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"steps\.0\.prune"):
        make_recipe(record(steps=[{"prune": 0.5}]))


@pytest.mark.parametrize(
    ("verbs", "said"),
    [
        (["export", "prune"], "prune after export would change"),
        (["export", "search"], "search after export"),
        (["export", "quantize"], "quantize after export"),
        (["quantize", "prune"], "prune after quantize cannot work: the ranges belong to the channels"),
        (["quantize", "search"], "search after quantize"),
        (["quantize", "distill"], "use quantize.qat_epochs"),
        (["quantize", "quantize"], "quantize can stand in a recipe once"),
        (["verify"], "verify needs the files that export writes"),
        (["prune", "profile", "export"], "profile needs the files"),
        (["export", "export"], "export can stand in a recipe once"),
        (["export", "verify", "verify"], "verify can stand in a recipe once"),
        (["export", "profile", "profile"], "profile can stand in a recipe once"),
        (["search", "prune", "search"], "search can stand in a recipe once"),
    ],
    ids="-".join,
)
def test_an_order_that_cannot_work_is_refused_with_the_reason(verbs: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_order(verbs)
    with pytest.raises(RecipeError, match=said):
        make_recipe(record(steps=verbs))


@pytest.mark.parametrize(
    "verbs",
    [
        [],
        ["distill"],
        ["prune", "distill", "prune", "distill", "quantize", "export"],
        ["distill", "search", "prune"],
        ["quantize", "export", "profile", "verify"],
    ],
    ids=lambda verbs: "-".join(verbs) or "none",
)
def test_orders_that_make_sense_are_taken(verbs: list[str]) -> None:
    assert [step.verb for step in make_recipe(record(steps=verbs)).steps] == verbs


# Overrides


def loaded(path: Path, *overrides: str) -> Recipe:
    return load_recipe(path, overrides)


def test_overrides_reach_every_kind_of_key(write: Any) -> None:
    path = write(WHOLE)
    recipe = loaded(path, "seed=7", "budget.latency_ms=1.5", "distill.epochs=9", "verify.samples=3", "data.path=a/b")
    assert recipe.seed == 7
    assert recipe.budget.latency_ms == 1.5 and recipe.budget.size_bytes == 60000
    assert recipe.steps[2].settings.epochs == 9
    assert recipe.steps[5].settings.samples == 3  # a step that was written as a bare word
    assert recipe.data == {"path": "a/b"}
    assert loaded(path, "export.formats=[coreml]").steps[4].settings.formats == ("coreml",)
    assert loaded(path, "budget.latency_ms=null").budget.latency_ms is None
    assert loaded(path, "teacher.train.epochs=2").teacher.train.epochs == 2  # type: ignore[union-attr]


def test_an_override_of_a_repeated_step_reaches_all_of_them(write: Any) -> None:
    text = WHOLE.partition("steps:")[0] + "steps: [prune, distill, {prune: {batches: 2}}]\n"
    recipe = loaded(write(text), "prune.max_ratio=0.5")
    assert [step.settings.max_ratio for step in recipe.steps if step.verb == "prune"] == [0.5, 0.5]
    assert recipe.steps[2].settings.batches == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distill.epochs", "expected key=value"),
        ("=3", "expected key=value"),
        ("budget.latency_ms={", "not valid YAML"),
        ("name.first=x", "'name' holds a value, not keys"),
        ("distill.epoch=3", "steps.2.distill.epoch: unknown key; did you mean epochs"),
        ("distill.epochs=many", "distill.epochs"),
        ("nonsense=1", "nonsense: unknown key"),
    ],
)
def test_a_wrong_override_is_named(write: Any, override: str, said: str) -> None:
    assert said in refusal(write(WHOLE), override)


def test_an_override_of_a_step_that_is_not_there_is_refused(write: Any) -> None:
    text = WHOLE.partition("steps:")[0] + "steps: [prune]\n"
    assert "--set distill.epochs: the recipe has no distill step" in refusal(write(text), "distill.epochs=3")


def test_a_misspelt_required_key_is_named_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\ntaecher: {entry: 'a:b'}\ntask: {entry: 'a:b'}\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:2: taecher: unknown key; did you mean teacher"):
        load_recipe(path)
