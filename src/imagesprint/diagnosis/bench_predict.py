"""`bench predict`: how long a prediction takes, by runtime, batch size and threads, with and without decoding."""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from imagesprint.checkpoints.weights import TrainedModel, load_model
from imagesprint.console import Console
from imagesprint.diagnosis.contest import Open, Pass, PassTime, run_rounds
from imagesprint.diagnosis.machine import processor, versions
from imagesprint.errors import ImagesprintError
from imagesprint.images.decoders import decoder_name
from imagesprint.inference.formats import FORMATS, Infer, compiled, in_onnx_runtime, in_openvino, in_torch
from imagesprint.inference.image_files import sample_images
from imagesprint.inference.prediction import ImageReader
from imagesprint.model.building import build_model
from imagesprint.recipes.library import load_recipe
from imagesprint.runs.ranks import choose_device

NUM_CLASSES: Final = 1000  # of a recipe's model, which is untrained: ImageNet's
RUNTIMES: Final = ("eager", "compiled", "onnxruntime", "openvino")
FROM_ONNX: Final = ("onnxruntime", "openvino")
ROUNDS: Final = 5
CALL_SECONDS: Final = 0.4  # of each kind of call in a round; two calls where they take longer
_PACKAGES: Final = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy", "pillow")
_FEWEST_CALLS: Final = 2


@dataclass(frozen=True)
class CallTimes:
    """Calls of one `runtime`, from pixels or `decoding` files: seconds by percentile over all rounds."""

    threads: int
    batch_size: int
    decoding: bool
    runtime: str
    p50: float
    p90: float
    p99: float
    images_per_second: float
    num_calls: int


@dataclass(frozen=True)
class PredictBench:
    """The result of `bench predict`, as --json prints it; `left_out` says why runtimes are."""

    device: str
    versions: dict[str, str]
    subject: str
    model: str
    num_classes: int
    image_size: int
    decoder: str
    rounds: int
    left_out: dict[str, str]
    calls: list[CallTimes]
    bench: str = "predict"
    precision: str = "fp32"


@dataclass(frozen=True)
class PredictWork:
    """What one runtime is to do in a pass: each of `batch_sizes`, for `seconds` with and without decoding.

    `subject` is as `load_subject` takes it; `onnx` is its model as an ONNX file; `device` is cpu or cuda.
    """

    subject: str
    onnx: Path
    batch_sizes: tuple[int, ...]
    threads: int
    device: str
    seconds: float


def bench_predict(
    subject: str, batch_sizes: Sequence[int], threads: Sequence[int], device: str, console: Console
) -> PredictBench:
    """Measure the model of a run or checkpoint, or a recipe's untrained one, in every runtime that is there.

    `threads` are numbers of threads to measure with, by default one and all cores; `device` is auto, cpu or cuda.
    Raises as `load_subject` does.
    """
    kind = choose_device(device).type
    model = load_subject(subject)
    counts = threads or sorted({1, len(os.sched_getaffinity(0))})
    calls: list[CallTimes] = []
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder, "model.onnx")
        console.live("exporting to ONNX")
        left_out = _export(model, onnx) | ({"openvino": "it is measured on the CPU alone"} if kind == "cuda" else {})
        for count in counts:
            work = PredictWork(subject, onnx, tuple(batch_sizes), count, kind, CALL_SECONDS)
            programs: dict[str, Open] = {
                name: partial(predict_program, work, name) for name in RUNTIMES if name not in left_out
            }
            samples, failed = run_rounds(programs, set(RUNTIMES) - {"eager"}, ROUNDS, partial(_show, console, count))
            left_out.update(failed)
            calls += _call_times(work, samples)
    console.live(f"measured {len(calls)} kinds of calls", last=True)
    return PredictBench(
        device=torch.cuda.get_device_name() if kind == "cuda" else processor(),
        versions=versions(*_PACKAGES),
        subject=subject,
        model=model.recipe.model,
        num_classes=len(model.classes),
        image_size=model.recipe.eval_image_size,
        decoder=decoder_name(),
        rounds=ROUNDS,
        left_out=left_out,
        calls=calls,
    )


def _export(model: TrainedModel, file: Path) -> dict[str, str]:
    """Write the ONNX file; return the runtimes that have to do without, and why."""
    left_out = {name: "it is not installed" for name in FROM_ONNX if find_spec(name) is None}
    if len(left_out) == len(FROM_ONNX):
        return left_out
    try:
        file.write_bytes(FORMATS["onnx"].encode(model))
    except ImagesprintError as error:
        return dict.fromkeys(FROM_ONNX, error.what) | left_out
    return left_out


def _show(console: Console, threads: int, name: str) -> None:
    console.live(f"measuring  {name}", f"threads {threads}")


def _call_times(work: PredictWork, passes: dict[str, list[PassTime]]) -> list[CallTimes]:
    found = []
    for batch_size, kind in itertools.product(work.batch_sizes, ("pixels", "files")):
        for runtime, rounds in passes.items():
            seconds = [second for one in rounds for second in one.extra[f"{batch_size} {kind}"]]
            p50, p90, p99 = np.percentile(seconds, (50, 90, 99)).tolist()
            speed = batch_size * len(seconds) / sum(seconds)
            row = (work.threads, batch_size, kind == "files", runtime, p50, p90, p99, speed, len(seconds))
            found.append(CallTimes(*row))
    return found


def load_subject(subject: str) -> TrainedModel:
    """The model of a run or a checkpoint, or a recipe's untrained one (as fast as a trained one) for NUM_CLASSES.

    Raises as `load_model` and `load_recipe` do.
    """
    path = Path(subject)
    if path.is_dir() or path.suffix == ".pt":
        return load_model(path)
    recipe = load_recipe(subject)
    classes = tuple(str(label) for label in range(NUM_CLASSES))
    return TrainedModel(build_model(recipe, NUM_CLASSES), recipe, classes, num_train=0).eval()


def predict_program(work: PredictWork, runtime: str) -> Pass:
    """Return a pass of one of RUNTIMES: by batch size, with and without decoding, the seconds that each call took.

    A call is what a request needs, from pixels or from JPEG files to probabilities on the host, one after the other.
    """
    torch.set_num_threads(work.threads)
    model = load_subject(work.subject)
    infer = _open(work, runtime, model)
    reader = ImageReader(model.recipe.eval_image_size, model.recipe.eval_resize, work.threads)
    images = sample_images()

    def run() -> Mapping[str, Any]:
        latencies = {}
        for batch_size in work.batch_sizes:
            files = [images[row % len(images)] for row in range(batch_size)]
            pixels, _ = reader.decode(files)
            latencies[f"{batch_size} pixels"] = _time_calls(lambda: _softmax(infer(pixels)), work.seconds)  # noqa: B023
            latencies[f"{batch_size} files"] = _time_calls(
                lambda: _softmax(infer(reader.decode(files)[0])),  # noqa: B023
                work.seconds,
            )
        return latencies

    return run


def _open(work: PredictWork, runtime: str, model: TrainedModel) -> Infer:
    if runtime == "onnxruntime":
        return in_onnx_runtime(work.onnx.read_bytes(), work.threads, work.device)
    if runtime == "openvino":
        return in_openvino(work.onnx.read_bytes(), work.threads)
    model = model.to(work.device)
    return compiled(model, work.device) if runtime == "compiled" else in_torch(model, work.device)


def _softmax(logits: np.ndarray[Any, np.dtype[np.float32]]) -> object:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _time_calls(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, for about `seconds`."""
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) < _FEWEST_CALLS or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken
