"""`bench predict`: how long a prediction takes, by runtime, batch size and threads, with and without decoding."""

import os
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from imagesprint.console import Console
from imagesprint.errors import ImagesprintError
from imagesprint.images.decoders import decoder_name
from imagesprint.measuring.contest import Open, Sample, run_rounds
from imagesprint.measuring.machine import processor, versions
from imagesprint.measuring.predict_programs import FROM_ONNX, RUNTIMES, PredictWork, load_subject, predict_program
from imagesprint.model.weights import TrainedModel
from imagesprint.runs.ranks import choose_device
from imagesprint.using.formats import FORMATS

ROUNDS: Final = 5
CALL_SECONDS: Final = 0.4  # of each kind of call in a round; two calls where they take longer
_PACKAGES: Final = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy", "pillow")
_PERCENTILES: Final = (50, 90, 99)


def bench_predict(
    subject: str, batch_sizes: Sequence[int], threads: Sequence[int], device: str, console: Console
) -> dict[str, Any]:
    """Measure the model of a run or checkpoint, or a recipe's untrained one, in every runtime that is there.

    `threads` are numbers of threads to measure with, by default one and all cores; `device` is auto, cpu or cuda.
    Return the object that `imagesprint bench predict --json` prints. Raises as `load_subject` does.
    """
    kind = choose_device(device).type
    model = load_subject(subject)
    counts = threads or sorted({1, len(os.sched_getaffinity(0))})
    rows: list[dict[str, Any]] = []
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
            rows += _rows(work, samples)
    console.live(f"measured {len(rows)} kinds of calls", last=True)
    return {
        "bench": "predict",
        "device": torch.cuda.get_device_name() if kind == "cuda" else processor(),
        "precision": "fp32",
        "versions": versions(*_PACKAGES),
        "subject": subject,
        "model": model.recipe.model,
        "num_classes": len(model.classes),
        "image_size": model.recipe.eval_image_size,
        "decoder": decoder_name(),
        "rounds": ROUNDS,
        "left_out": left_out,
        "calls": rows,
    }


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


def _rows(work: PredictWork, samples: dict[str, list[Sample]]) -> list[dict[str, Any]]:
    """One row a runtime, batch size and kind of call: seconds by percentile over the calls of all rounds."""
    rows = []
    for batch_size in work.batch_sizes:
        for kind in ("pixels", "files"):
            for runtime, passes in samples.items():
                seconds = [second for one in passes for second in one.extra[f"{batch_size} {kind}"]]
                percentiles = np.percentile(seconds, _PERCENTILES).tolist()
                rows.append(
                    {
                        "threads": work.threads,
                        "batch_size": batch_size,
                        "decoding": kind == "files",
                        "runtime": runtime,
                        **{f"p{rank}": value for rank, value in zip(_PERCENTILES, percentiles, strict=True)},
                        "images_per_second": batch_size * len(seconds) / sum(seconds),
                        "num_calls": len(seconds),
                    }
                )
    return rows
