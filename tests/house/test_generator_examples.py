"""The examples for generators, as far as they can be tried without fetching anything: recipes, readers, tiles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress.distill import METHODS
from compress.distill.generator import GeneratorMethod
from compress.graph.cost import cost_of
from compress.graph.trace import trace
from compress.recipe import load_recipe
from compress.students import Imdn
from examples.eyes.classifier import train_classifier
from examples.eyes.model import CLASSES, LATENT, Generator
from examples.parity import hifigan
from examples.super_resolution.published import Compact, published
from examples.tiles import tiles
from examples.vocoder.task import shuffled
from tests.house.source import ROOT
from tests.house.test_parity_example import tfjs_folder

RECIPES = sorted(path for name in ("cartoongan", "super_resolution", "eyes", "vocoder")
                 for path in (ROOT / "examples" / name).glob("*.yaml"))  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_recipes_are_legal_and_name_methods_that_there_are(path: Path) -> None:
    recipe = load_recipe(path)
    settings = [step.settings for step in recipe.steps if step.verb == "distill"]
    assert settings
    for one in settings:
        kind = METHODS[one.method]
        assert issubclass(kind, GeneratorMethod)
        kind.options_from(one.options)
    assert {"export", "verify", "profile"} <= {step.verb for step in recipe.steps}


@pytest.mark.parametrize("name", ["recipe", "medium"])
def test_the_students_of_super_resolution_fit_their_budget(name: str) -> None:
    recipe = load_recipe(ROOT / "examples/super_resolution" / f"{name}.yaml")
    assert recipe.student is not None and recipe.student.entry == "compress.students:Imdn" and recipe.budget.macs
    inputs = (torch.rand(1, 3, 48, 48),)
    macs = cost_of(trace(Imdn(**recipe.student.arguments), inputs), inputs).macs
    assert 0.8 * recipe.budget.macs < macs <= recipe.budget.macs


def compact_folder(folder: Path, width: int, growth: int, blocks: int) -> Path:
    """A published student with weights drawn at random, in the layout of its package."""
    layers = {"F_m1": (3, 3, width), "F_0": (3, width, width), "GFF_1": (1, blocks * width, width),
              "GFF_2": (3, width, width), "UPN1": (5, width, 64), "UPN2": (3, 64, 32), "UPN3": (3, 32, 48),
              "SR": (3, 48, 3)}  # fmt: skip
    for number in range(1, blocks + 1):
        layers |= {f"F_{number}_1": (3, width, growth), f"LFF_{number}": (1, width + growth, width)}
    random = np.random.default_rng(0)
    entries = []
    for name, (kernel, inputs, outputs) in layers.items():
        for leaf, shape in (("kernel", [kernel, kernel, inputs, outputs]), ("bias", [outputs])):
            entry = {"name": f"{name}/{leaf}", "shape": shape, "dtype": "float32"}
            entries.append((entry, 0.1 * random.standard_normal(shape).astype(np.float32)))
    (folder / "models" / "x4").mkdir(parents=True)
    tfjs_folder(folder / "models" / "x4", entries)
    return folder


def test_a_published_student_has_the_size_of_its_weights(tmp_path: Path) -> None:
    model = published("slim", str(compact_folder(tmp_path, 8, 4, 2)))
    assert isinstance(model, Compact) and model(torch.rand(1, 3, 6, 6)).shape == (1, 3, 24, 24)
    stored = np.frombuffer(
        (tmp_path / "models/x4/one.bin").read_bytes() + (tmp_path / "models/x4/two.bin").read_bytes(), np.float32
    )
    first = stored[: 3 * 3 * 3 * 8].reshape(3, 3, 3, 8)  # (kH, kW, in, out) in the file
    np.testing.assert_array_equal(model.first.weight.detach().numpy(), first.transpose(3, 2, 0, 1))
    assert len(model.grow) == len(model.fuse) == 2


def test_tiles_of_a_users_folder_are_split_by_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(30):
        pixels = random.integers(0, 255, (70, 90, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"picture{number}.png")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    train, validation, test = tiles(64, (64,), (1, 1), str(tmp_path))
    assert len(train) + len(validation) + len(test) == 30 and min(map(len, (train, validation, test))) >= 2
    assert train[0].shape == (3, 64, 64) and train[0].dtype == torch.uint8


def test_the_generator_of_eyes_follows_its_class() -> None:
    torch.manual_seed(0)
    model = Generator(width=4).eval()
    noise, labels = torch.randn(2, LATENT), torch.eye(len(CLASSES))
    assert model(noise, labels[:2]).shape == (2, 3, 128, 128)
    assert not torch.equal(model(noise, labels[:2]), model(noise, labels[2:4]))


def test_the_classifier_of_eyes_learns_what_was_asked_for_and_the_same_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import examples.eyes.classifier as room

    class Painted(torch.nn.Module):
        """Every class is a shade of its own."""

        def forward(self, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            shade = (labels.argmax(1).float() / 4 - 1).view(-1, 1, 1, 1)
            return (shade + 0.05 * noise.mean()).expand(-1, 3, 32, 32)

    monkeypatch.setattr(room, "STEPS", 120)
    first, second = train_classifier(Painted()), train_classifier(Painted())
    classes = torch.arange(8)
    images = (Painted()(torch.zeros(8, LATENT), torch.eye(8)) + 1) / 2
    assert (first(images).argmax(1) == classes).float().mean() >= 0.75
    assert torch.equal(first(images), second(images))


def test_sentences_are_made_of_what_the_voice_can_say() -> None:
    made = shuffled(5)
    words = {word.strip(".,?") for sentence in hifigan.SENTENCES[:3] for word in sentence.split()}
    assert made == shuffled(5) and len(set(made)) == 5
    assert all(word.strip(".") in words for sentence in made for word in sentence.split())
    assert not any(sentence in hifigan.SENTENCES for sentence in made)


def test_the_recipes_say_how_to_make_them_longer() -> None:
    for path in RECIPES:
        assert "--set train.accelerator=cuda" in path.read_text(), path
    assert json.loads(json.dumps(load_recipe(RECIPES[0]).to_dict()))
