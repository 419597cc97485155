"""The programs that `bench predict` compares: one runtime each, which times its own calls."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from imagesprint.measuring.contest import Pass
from imagesprint.model.building import build_model
from imagesprint.model.weights import TrainedModel, load_model
from imagesprint.recipes.library import load_recipe
from imagesprint.using.image_reader import ImageReader
from imagesprint.using.runtimes import Infer, compiled, in_onnx_runtime, in_openvino, in_torch
from imagesprint.using.sample_photos import sample_photos

NUM_CLASSES: Final = 1000  # of a recipe's model, which is untrained: ImageNet's
RUNTIMES: Final = ("eager", "compiled", "onnxruntime", "openvino")
FROM_ONNX: Final = ("onnxruntime", "openvino")
_FEWEST_CALLS: Final = 2


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
    reader = ImageReader(model.recipe, work.threads)
    photos = sample_photos()

    def run() -> Mapping[str, Any]:
        latencies = {}
        for batch_size in work.batch_sizes:
            files = [photos[row % len(photos)] for row in range(batch_size)]
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
        return in_onnx_runtime(work.onnx, work.threads, work.device)
    if runtime == "openvino":
        return in_openvino(work.onnx, work.threads)
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
