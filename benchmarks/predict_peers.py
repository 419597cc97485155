"""How long one photo takes, from its JPEG to probabilities, beside what a program has without imagesprint.

    python benchmarks/predict_peers.py
    python benchmarks/predict_peers.py RUN --rounds 20 --threads 2

The model is a run's, or baseline90's untrained ResNet-50, which is as fast. In turns, each in a process of its own:

- ours, decoded by `ImageReader`, in ONNX Runtime and OpenVINO, in fp32 and int8;
- the same in OpenVINO held to AVX2 (oneDNN's ONEDNN_MAX_CPU_ISA), for processors without AVX-512; ONNX Runtime's own
  kernels cannot be held, as they ask the processor alone;
- the same network, exported as everybody does it (float images [N, 3, H, W], normalised outside) and run with default
  options, behind Pillow: open, shorter side to size by BILINEAR, centre square, normalise in numpy;
- our int8 file behind Pillow.

"alone" is the runtime's own time: a call with pixels that are ready. Exits 3 unless the faster of ours in int8 takes at
most 14 ms from the JPEG, and in fp32 at most 1 ms more, from pixels, than ONNX Runtime alone.
"""

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from imagesprint.cli.output import table
from imagesprint.console import Console
from imagesprint.diagnosis.bench_predict import (
    PredictWork,
    load_subject,
    predict_program,
    put_onnx,
    softmax,
    time_calls,
)
from imagesprint.diagnosis.contest import Open, Pass, run_rounds
from imagesprint.diagnosis.machine import processor
from imagesprint.inference.image_files import sample_images
from imagesprint.inference.onnx_files import read_onnx

MOST_SECONDS = 0.014
MORE_SECONDS = 0.001
PLAIN = "plain.onnx"

Prepare = Callable[[bytes], NDArray[Any]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", nargs="?", default="baseline90", help="a run, a checkpoint or a recipe's name")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        programs = make_programs(args.subject, Path(folder), args.threads)
        samples, _ = run_rounds(programs, (), args.rounds, lambda name: console.live(f"measuring  {name}"))
    console.live("measured", last=True)
    seconds = {
        (name, kind): np.concatenate([one.extra[f"1 {kind}"] for one in rounds])
        for name, rounds in samples.items()
        for kind in ("pixels", "files")
    }
    rows = [
        [
            name,
            *(
                round(1e3 * np.percentile(seconds[name, kind], share), 2)
                for kind in ("files", "pixels")
                for share in (50, 90)
            ),
        ]
        for name in samples
    ]
    print(f"{processor()}, {args.threads} threads, {args.subject}, {args.rounds} rounds")
    print(table(["", "JPEG p50 ms", "p90 ms", "alone p50 ms", "p90 ms"], rows))
    medians = {key: float(np.median(values)) for key, values in seconds.items()}
    int8 = min(
        value
        for (name, kind), value in medians.items()
        if kind == "files" and name.startswith("ours") and "int8" in name
    )
    fp32 = min(
        value
        for (name, kind), value in medians.items()
        if kind == "pixels" and name.startswith("ours") and "fp32" in name
    )
    more = fp32 - medians["ONNX Runtime, Pillow, fp32", "pixels"]
    print(f"ours in int8 from the JPEG {1e3 * int8:.2f} ms; in fp32 {1e3 * more:+.2f} ms beside ONNX Runtime alone")
    return 0 if int8 <= MOST_SECONDS and more <= MORE_SECONDS else 3


def make_programs(subject: str, folder: Path, threads: int) -> dict[str, Open]:
    """Write the files that they need into `folder`."""
    model = load_subject(subject)
    put_onnx(model, "fp32", folder)
    put_onnx(model, "int8", folder)
    size = model.recipe.eval_image_size
    example = torch.zeros(1, 3, size, size)
    torch.onnx.export(model.network, (example,), folder / PLAIN, input_names=["images"], dynamo=True, verbose=False)
    work = PredictWork(subject, folder, (1,), threads, "cpu", 0.4)
    named = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    ours: dict[str, Open] = {
        f"ours, {name}, {precision}": partial(predict_program, work, runtime, precision)
        for precision in ("fp32", "int8")
        for runtime, name in named.items()
    }
    held: dict[str, Open] = {
        f"ours, OpenVINO by AVX2, {precision}": partial(
            held_to_avx2, partial(predict_program, work, "openvino", precision)
        )
        for precision in ("fp32", "int8")
    }
    theirs: dict[str, Open] = {
        f"{name}, Pillow, {precision}": partial(peer_program, work, runtime, precision)
        for precision in ("fp32", "int8")
        for runtime, name in named.items()
    }
    return ours | held | theirs


def held_to_avx2(program: Open) -> Pass:
    """The pass of `program`, whose oneDNN, not loaded yet, takes the processor for one without AVX-512."""
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    return program()


def peer_program(work: PredictWork, runtime: str, precision: str) -> Pass:
    """As `predict_program`, behind Pillow and with the runtime's default options, but for the number of threads."""
    recipe = read_onnx(work.folder / "fp32.onnx").recipe
    file = work.folder / (PLAIN if precision == "fp32" else "int8.onnx")
    infer = plain_session(file, runtime, work.threads)
    mean, std = (np.array(values, np.float32) for values in (recipe.mean, recipe.std))

    def prepare(encoded: bytes) -> NDArray[Any]:
        pixels = by_pillow(encoded, recipe.eval_resize, recipe.eval_image_size)
        if precision == "int8":
            return pixels[None]
        return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1)[None], np.float32)

    images = sample_images()
    ready = prepare(images[0])

    def run() -> Mapping[str, Any]:
        return {
            "1 pixels": time_calls(lambda: softmax(infer(ready)), work.seconds),
            "1 files": time_calls(lambda: softmax(infer(prepare(images[0]))), work.seconds),
        }

    return run


def plain_session(file: Path, runtime: str, threads: int) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    if runtime == "openvino":
        import openvino

        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        program = openvino.Core().compile_model(file, "CPU", settings)
        return lambda images: program(images)[0]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options)
    return lambda images: session.run(None, {"images": images})[0]


def by_pillow(encoded: bytes, resize: int, size: int) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    scale = resize / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


if __name__ == "__main__":
    sys.exit(main())
