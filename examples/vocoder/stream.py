"""A sentence spoken piece by piece by the exported files of a run, held against the student that speaks it whole.

    python -m examples.vocoder.stream runs/vocoder

A phone does not wait for the end of a sentence: it turns each window of latents into sound as it comes. The windows
overlap by what the network sees to either side; with that much the pieces put together are the whole, sample by sample.
A file in integers is as far from the whole as it is from the model in each window: it rounds as its runtime does.
Writes teacher.wav, student.wav and one file per artifact into the run folder's `sounds/`, to listen to.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from compress import runtimes
from compress.checkpoint import load_weights, rebuild
from compress.console import Console
from compress.files import read_json
from compress.job import Job
from compress.pipeline import load_run
from compress.rewrite import ReceptiveField, receptive_field, tiled
from compress.steps.verify import runtime_predictor
from compress.tasks import write_wav
from compress.verify import compare
from examples.parity import hifigan
from examples.vocoder.task import FRAMES


def sentence_latents() -> Tensor:
    """The latents (1, 192, T) of the longest written sentence, T a multiple of what the network strides by."""
    latents = hifigan.latents_of(hifigan.encoder(), max(hifigan.SENTENCES, key=len))
    return latents[:, :, : latents.shape[2] // 8 * 8]


def streamed(predict: Callable[[Tensor], Tensor], latents: Tensor, reach: ReceptiveField) -> Tensor:
    """The sound (1, 1, S) of the pieces put together."""
    return tiled(predict, latents, (FRAMES,), reach.halo_px, reach.scale, reach.multiple_px)


def apart(whole: Tensor, pieces: Tensor) -> str:
    """How far the pieces are from what the student says in one go, in words."""
    found = compare(whole.numpy(), pieces.numpy())
    return f"largest difference from the whole in one go {found.max_error:.2g}, {found.sqnr_db:.0f} dB"


def main(folder: Path) -> None:
    recipe, recipe_folder = load_run(folder)
    job = Job(recipe, recipe_folder, folder, Console(quiet=True))
    records = [read_json(path) for path in sorted(folder.glob("steps/*/record.json"))]
    record = next(record for record in reversed(records) if record["plans"] is not None)
    weights = load_weights(job.step_folder(record["index"]) / "weights.safetensors")
    student = rebuild(job.base, record["plans"], weights, job.example_inputs)
    latents, sounds = sentence_latents(), folder / "sounds"
    sounds.mkdir(exist_ok=True)
    reach = receptive_field(student.model, job.example_inputs)
    print(f"{latents.shape[2]} frames in windows of {FRAMES}, {reach.halo_px[0]} of them on each side only for context")
    wholes = {"float32": student.model, recipe.scheme: student.final, "teacher": job.teacher}
    spoken = {name: job.predictor(model)(latents) for name, model in wholes.items()}
    for name, sound in (("teacher", spoken["teacher"]), ("student", spoken["float32"])):
        write_wav(sounds / f"{name}.wav", sound[0], hifigan.SAMPLE_RATE)
    for name in dict.fromkeys(("float32", recipe.scheme)):
        print(f"student {name} in torch: {apart(spoken[name], streamed(job.predictor(wholes[name]), latents, reach))}")
    exported = next(record for record in records if record["verb"] == "export")["outcome"]["extra"]["artifacts"]
    for artifact in exported:
        if runtimes.available(artifact["format"]) is not None:
            print(f"{artifact['format']} {artifact['scheme']}: not run here ({runtimes.available(artifact['format'])})")
            continue
        predict = runtime_predictor(folder / "artifacts" / artifact["path"], artifact["format"])
        pieces = streamed(predict, latents, reach)
        print(f"{artifact['format']} {artifact['scheme']}: {apart(spoken[artifact['scheme']], pieces)}")
        write_wav(sounds / f"{artifact['format']}-{artifact['scheme']}.wav", pieces[0], hifigan.SAMPLE_RATE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder of examples/vocoder/recipe.yaml")
    main(parser.parse_args().run)
