"""Pipeline folders as the real library writes them: loaded, traced, sampled as by the library, refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compress.diffusion import Denoiser, Discrete, Flow, preconditioning_of, table_of_scheduler
from compress.diffusion.pipelines import check_prediction, load_pipeline, meaning_of
from compress.errors import DataError, InputError
from compress.graph.trace import trace

diffusers: Any = pytest.importorskip("diffusers", reason="diffusers is not installed (pip install diffusers)")


def unet(**settings: Any) -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1, **settings,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    diffusers.DDIMPipeline(unet(), scheduler).save_pretrained(folder)
    return folder


def test_a_saved_pipeline_samples_as_the_library_does(saved: Path) -> None:
    found = load_pipeline(saved)
    assert found.sample_shape == (1, 8, 8) and found.preconditioning.name == "v_prediction on discrete"
    first = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    scheduler = found.scheduler
    scheduler.set_timesteps(5)
    x = first
    with torch.no_grad():
        for time in scheduler.timesteps:
            x = scheduler.step(found.denoiser.network(x, time).sample, time, x).prev_sample
    table = table_of_scheduler(scheduler, 5, found.schedule)
    with torch.no_grad():
        ours = table.run(found.denoiser, first)
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-4)


def test_the_network_traces_with_a_free_batch(saved: Path) -> None:
    found = load_pipeline(saved)
    traced = trace(found.denoiser, (torch.randn(1, 1, 8, 8), torch.tensor([3.0])))
    x, time = torch.randn(3, 1, 8, 8), torch.tensor([1.0, 500.0, 999.0])
    with torch.no_grad():
        torch.testing.assert_close(traced(x, time), found.denoiser(x, time), rtol=1e-4, atol=1e-5)


def test_text_and_flow_networks_take_their_conditions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    conditional = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1, cross_attention_dim=12, attention_head_dim=4,
    )  # fmt: skip
    conditional.save_pretrained(tmp_path / "unet")
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(tmp_path / "scheduler")
    index = {"_class_name": "X", "unet": ["diffusers", "UNet2DConditionModel"],
             "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}  # fmt: skip
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    found = load_pipeline(tmp_path)
    assert isinstance(found.schedule, Flow) and found.preconditioning.name == "flow"
    x, words = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12)
    with torch.no_grad():
        clean = Denoiser(found.denoiser, found.preconditioning)(x, torch.tensor(1.0), words)
        raw = conditional(x / 2, torch.tensor([500.0, 500.0]), words).sample
    torch.testing.assert_close(clean, x / 2 - raw / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("scheduler", "named"),
    [
        (lambda: diffusers.DDPMScheduler(), "epsilon on discrete"),
        (lambda: diffusers.DDPMScheduler(prediction_type="sample"), "sample on discrete"),
        (lambda: diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction"), "v_prediction on discrete"),
        (lambda: diffusers.EDMEulerScheduler(), "karras 0.5"),
        (lambda: diffusers.FlowMatchHeunDiscreteScheduler(), "flow"),
    ],
)
def test_schedulers_say_what_the_output_means(scheduler: Any, named: str) -> None:
    assert meaning_of(scheduler())[1].name == named


def test_broken_folders_are_refused_by_name(saved: Path, tmp_path: Path) -> None:
    def copied(change: Any) -> Path:
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved, folder)
        change(folder)
        return folder

    def index(folder: Path, **changes: Any) -> None:
        path = folder / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    weights = "unet/diffusion_pytorch_model.safetensors"
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda f: (f / "model_index.json").unlink(), InputError, "no model_index.json there"),
        (lambda f: (f / "model_index.json").write_text("{"), InputError, "no JSON"),
        (lambda f: shutil.rmtree(f / "unet"), InputError, "names unet, and there is no such folder"),
        (
            lambda f: (f / "unet/diffusion_pytorch_model.safetensors").rename(f / "unet/x.bin"),
            InputError,
            "no safetensors",
        ),
        (lambda f: index(f, scheduler=["diffusers", "MagicScheduler"]), DataError, "scheduler 'MagicScheduler'"),
        (lambda f: index(f, unet=["diffusers", "UNet9D"]), DataError, "class UNet9D is not known here"),
        (lambda f: index(f, text_encoder=["transformers", "CLIPTextModel"]), InputError, "names text_encoder"),
        (lambda f: (f / weights).write_bytes(b"x"), InputError, "cannot be loaded"),
    ]
    for change, error, message in cases:
        with pytest.raises(error, match=message):
            load_pipeline(copied(change))


def test_a_prediction_that_is_claimed_wrongly_is_found_out() -> None:
    schedule = Discrete.of_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    clean = 0.5 * torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(1))

    def network_of(truth: Any) -> Any:
        """The best linear denoiser of such samples, saying what `truth` means."""

        def network(scaled: Tensor, time: Tensor) -> Tensor:
            level = schedule.level(time)[:, None, None, None]
            x = scaled * torch.sqrt(1 + level**2)
            guess = x * 0.25 / (0.25 + level**2)
            return truth.output_of(guess, x, schedule.level(time))

        return network

    kinds = {name: preconditioning_of(name, schedule) for name in ("epsilon", "sample", "v_prediction")}
    for name, truth in kinds.items():
        check_prediction(network_of(truth), truth, schedule, clean)
        for other, claimed in kinds.items():
            if other != name:
                with pytest.raises(DataError, match=f"does not predict {other} on discrete|does not denoise"):
                    check_prediction(network_of(truth), claimed, schedule, clean)
    with pytest.raises(DataError, match="does not denoise"):
        check_prediction(lambda x, time: 3 + 0 * x, kinds["sample"], schedule, clean)
