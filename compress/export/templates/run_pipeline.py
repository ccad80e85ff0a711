"""Makes pictures from this folder alone: numpy and one runtime (onnxruntime, or ai-edge-litert), no torch.

    python run_pipeline.py --condition 3 --count 16 --out sheet.png
    python run_pipeline.py --prompt "a red heart" --out heart.png
    python run_pipeline.py --check

The model's files and the sampler's constants are named in pipeline.json. The sample before evaluation i is

    x_i = start_i * first_noise + sum_j outputs_ij * output_j + sum_j noises_ij * fresh_noise_j

and the model is given (scale_i * x_i, time_i[, until_i][, condition]); the last row is the picture, or where there is
a decoder, what it makes one of. A prompt becomes a condition by the text encoder. --check makes the samples of
golden.npz again and compares them.
"""

import argparse
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent


def load_model(path):
    """A function from input arrays of batch size 1 to the output array."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        return lambda *arrays: session.run(None, dict(zip(names, arrays)))[0]
    if path.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
        # LiteRT lists inputs in any order; their names end in the number of the argument.
        places = sorted(interpreter.get_input_details(), key=lambda detail: detail["name"])
        output = interpreter.get_output_details()[0]["index"]

        def run(*arrays):
            for place, array in zip(places, arrays):
                interpreter.set_tensor(place["index"], array.astype(place["dtype"]))
            interpreter.invoke()
            return interpreter.get_tensor(output)

        return run
    raise SystemExit(f"{path.name}: this runner knows .onnx and .tflite files")


def sample(model, rows, first, fresh, condition):
    """One sample (1, ...) of a first noise and the fresh noises that the sampler draws on the way."""
    outputs = []
    for row in rows:
        x = row["start"] * first
        for factor, output in zip(row.get("outputs", []), outputs):
            x = x + factor * output
        for factor, noise in zip(row.get("noises", []), fresh):
            x = x + factor * noise
        if "time" not in row:
            return x
        times = [np.array([row[key]], np.float32) for key in ("time", "until") if key in row]
        inputs = [(row["scale"] * x).astype(np.float32), *times]
        outputs.append(model(*inputs, *([] if condition is None else [condition])))


def companion(manifest, part, name):
    """The part's file of the same format, or None where the pipeline has no such part."""
    files = manifest["models"].get(part)
    if not files:
        return None
    same = [each for each in files if each.split()[0] == name.split()[0]]
    chosen = name if name in files else (same or [None])[0]
    if chosen is None:
        raise SystemExit(f"{part} has no file for {name}; there are: {', '.join(files)}")
    return load_model(FOLDER / files[chosen])


def condition_of(prompt, manifest, encoder):
    """The condition row (1, K) of a text."""
    from wordpiece import pieces

    text = manifest["text"]
    numbers = {piece: number for number, piece in enumerate(text["vocabulary"])}
    return encoder(np.array([pieces(prompt, numbers, text["length"])], np.int64))


def decibels(wanted, made):
    """How far apart two arrays are, and their largest difference."""
    error = made - wanted
    return 10 * np.log10(np.mean(wanted**2) / max(np.mean(error**2), 1e-20)), np.abs(error).max()


def write_png(path, pixels):
    """Write pixels (H, W) or (H, W, 3), 0 to 255, as a PNG file."""
    height, width = pixels.shape[:2]
    kind = 0 if pixels.ndim == 2 else 2
    lines = b"".join(b"\0" + pixels[y].astype(np.uint8).tobytes() for y in range(height))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    data = b"".join(
        struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body)) for tag, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def sheet(samples, columns):
    """Samples (N, C, H, W) in [-1, 1] side by side: pixels (rows H, columns W[, 3])."""
    count, channels, height, width = samples.shape
    rows = -(-count // columns)
    canvas = np.zeros((rows * height, columns * width, channels))
    for number, picture in enumerate(samples):
        y, x = divmod(number, columns)
        canvas[y * height : (y + 1) * height, x * width : (x + 1) * width] = picture.transpose(1, 2, 0)
    pixels = np.clip((canvas + 1) * 127.5, 0, 255)
    return pixels[..., 0] if channels == 1 else pixels


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="which file, such as 'litert w8a8'; by default the first that can run")
    parser.add_argument("--condition", type=int, help="number of the condition; by default each in turn")
    parser.add_argument("--prompt", help="a text, where the pipeline has a text encoder")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    parser.add_argument("--check", action="store_true", help="compare with golden.npz instead")
    given = parser.parse_args()
    manifest = json.loads((FOLDER / "pipeline.json").read_text())
    files = manifest["models"]["denoiser"]
    runnable = [name for name in files if name.startswith(("onnx", "litert"))]
    name = given.model or (runnable or [""])[0]
    if name not in files:
        raise SystemExit(f"no model '{name}' here; there are: {', '.join(runnable)}")
    model, rows = load_model(FOLDER / files[name]), manifest["sampler"]["rows"]
    conditions, decoder = manifest["conditions"], companion(manifest, "decoder", name)
    if given.prompt is not None:
        if "text" not in manifest:
            raise SystemExit("this pipeline has no text encoder: use --condition")
        conditions = condition_of(given.prompt, manifest, companion(manifest, "text_encoder", name)).tolist()
    if given.check:
        golden = np.load(FOLDER / "golden.npz")
        made = [
            sample(model, rows, first[None], [noise[None] for noise in fresh], condition)
            for first, fresh, condition in zip(
                golden["first"], golden["fresh"], golden["condition"][:, None] if "condition" in golden else [None] * 99
            )
        ]
        ratio_db, worst = decibels(golden["samples"], np.concatenate(made))
        if decoder is not None:
            ratio_db, worst = decibels(golden["pictures"], np.concatenate([decoder(each) for each in made]))
        print(f"{name}: {ratio_db:.1f} dB from the float model on {len(made)} samples, largest error {worst:.2g}")
        sys.exit(0 if ratio_db > 10 else 1)
    random, shape = np.random.default_rng(given.seed), (1, *manifest["sample_shape"])
    noises = max(len(row.get("noises", [])) for row in rows)
    made = []
    for number in range(given.count):
        condition = None
        if conditions is not None:
            chosen = number % len(conditions) if given.condition is None else given.condition
            if not 0 <= chosen < len(conditions):
                raise SystemExit(f"there is no condition {chosen}; there are 0 to {len(conditions) - 1}")
            condition = np.array([conditions[chosen]], np.float32)
        first, *fresh = [random.standard_normal(shape, np.float32) for _ in range(1 + noises)]
        x = sample(model, rows, first, fresh, condition)
        made.append(x if decoder is None else decoder(x.astype(np.float32)))
    write_png(given.out, sheet(np.concatenate(made), min(given.count, 8)))
    print(f"{given.count} samples by {name}: {given.out}")


if __name__ == "__main__":
    main()
