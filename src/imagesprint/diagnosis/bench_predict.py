"""`bench predict`: how long a prediction takes, by runtime, precision, batch size and threads, and with decoding."""

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
from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.images.decoders import decoder_name
from imagesprint.inference.formats import (
    FORMATS,
    Infer,
    compiled,
    describe,
    graph,
    in_onnx_runtime,
    in_openvino,
    in_torch,
)
from imagesprint.inference.image_files import sample_images
from imagesprint.inference.onnx_files import OnnxFile, read_onnx, sealed
from imagesprint.inference.opening import is_onnx
from imagesprint.inference.prediction import ImageReader
from imagesprint.model.building import build_model
from imagesprint.recipes.library import load_recipe
from imagesprint.runs.ranks import choose_device

NUM_CLASSES: Final = 1000  # of a recipe's model, which is untrained: ImageNet's
PROGRAMS: Final = (  # runtime, precision
    ("eager", "fp32"),
    ("compiled", "fp32"),
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "int8"),
)
FROM_ONNX: Final = ("onnxruntime", "openvino")
ROUNDS: Final = 5
CALL_SECONDS: Final = 0.4  # of each kind of call in a round; two calls where they take longer
_PACKAGES: Final = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy", "pillow")
_FEWEST_CALLS: Final = 2


@dataclass(frozen=True)
class CallTimes:
    """Calls of a `runtime` in its `precision`, from pixels or `decoding` files: seconds by percentile of all rounds."""

    threads: int
    batch_size: int
    decoding: bool
    runtime: str
    precision: str
    p50: float
    p90: float
    p99: float
    images_per_second: float
    num_calls: int


@dataclass(frozen=True)
class PredictBench:
    """The result of `bench predict`, as --json prints it; `left_out` says why programs, runtime and precision, are."""

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


@dataclass(frozen=True)
class PredictWork:
    """What one runtime is to do in a pass: each of `batch_sizes`, for `seconds` with and without decoding.

    `subject` is as `bench_predict` takes it; `folder` has its model as PRECISION.onnx; `device` is cpu or cuda.
    """

    subject: str
    folder: Path
    batch_sizes: tuple[int, ...]
    threads: int
    device: str
    seconds: float


def bench_predict(
    subject: str, batch_sizes: Sequence[int], threads: Sequence[int], device: str, console: Console
) -> PredictBench:
    """Measure the model of a run or checkpoint, or a recipe's untrained one, in every runtime that is there.

    Of an exported .onnx file, in ONNX Runtime and OpenVINO. `threads` are numbers of threads to measure with, by
    default one and all cores; `device` is auto, cpu or cuda. Raises as `load_subject` and `read_onnx` do.
    """
    kind = choose_device(device).type
    counts = threads or sorted({1, len(os.sched_getaffinity(0))})
    calls: list[CallTimes] = []
    with tempfile.TemporaryDirectory() as folder:
        described, programs, left_out = _make_ready(subject, Path(folder), kind, console)
        for count in counts:
            work = PredictWork(subject, Path(folder), tuple(batch_sizes), count, kind, CALL_SECONDS)
            wanted: dict[str, Open] = {
                _name(*program): partial(predict_program, work, *program)
                for program in programs
                if _name(*program) not in left_out
            }
            samples, failed = run_rounds(wanted, set(wanted) - {"eager"}, ROUNDS, partial(_show, console, count))
            left_out.update(failed)
            calls += _call_times(work, {program: samples.get(_name(*program), []) for program in programs})
    if not calls:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise UsageError(
            f"nothing here runs {subject}: {reasons}", "pip install 'imagesprint[export]', or --device cpu"
        )
    console.live(f"measured {len(calls)} kinds of calls", last=True)
    return PredictBench(
        device=torch.cuda.get_device_name() if kind == "cuda" else processor(),
        versions=versions(*_PACKAGES),
        subject=subject,
        model=str(described["model"]),
        num_classes=len(described["classes"]),
        image_size=described["image_size"],
        decoder=decoder_name(),
        rounds=ROUNDS,
        left_out=left_out,
        calls=calls,
    )


def _make_ready(
    subject: str, folder: Path, device: str, console: Console
) -> tuple[Mapping[str, Any], tuple[tuple[str, str], ...], dict[str, str]]:
    """Put the ONNX files into `folder`; what `subject` is, its programs, and which are left out, and why."""
    if is_onnx(Path(subject)):
        held = read_onnx(Path(subject))
        programs = tuple((runtime, held.precision) for runtime in FROM_ONNX)
        (folder / f"{held.precision}.onnx").write_bytes(held.content)
        return held.description, programs, _left_out(programs, device)
    model = load_subject(subject)
    left_out = _left_out(PROGRAMS, device)
    console.live("exporting to ONNX")
    for precision in ("fp32", "int8"):
        names = {_name(*program) for program in PROGRAMS if program[0] in FROM_ONNX and program[1] == precision}
        if names <= left_out.keys():
            continue
        try:
            put_onnx(model, precision, folder)
        except ImagesprintError as error:
            left_out.update(dict.fromkeys(names, error.what))
    return describe(model), PROGRAMS, left_out


def _left_out(programs: tuple[tuple[str, str], ...], device: str) -> dict[str, str]:
    """Which programs cannot run here."""
    reasons = {}
    for runtime, precision in programs:
        if device == "cuda" and (runtime == "openvino" or precision == "int8"):
            reasons[_name(runtime, precision)] = "it is measured on the CPU alone"
        elif runtime in FROM_ONNX and find_spec(runtime) is None:
            reasons[_name(runtime, precision)] = "it is not installed"
    return reasons


def put_onnx(model: TrainedModel, precision: str, folder: Path) -> None:
    """Write PRECISION.onnx; in int8 one that is as fast as it would be right: its ranges are the sample images' alone.

    Raises RunError for a model that cannot be exported.
    """
    if precision == "fp32":
        content = FORMATS["onnx"].encode(model)
    else:
        from imagesprint.inference.quantising import quantised  # imports onnx

        with ImageReader(model.recipe.eval_image_size, model.recipe.eval_resize) as reader:
            pixels = np.stack(reader.decode(sample_images())[0])
        content = sealed(quantised(graph(model), [pixels]), describe(model) | {"precision": precision})
    (folder / f"{precision}.onnx").write_bytes(content)


def _name(runtime: str, precision: str) -> str:
    return runtime if precision == "fp32" else f"{runtime} {precision}"


def _show(console: Console, threads: int, name: str) -> None:
    console.live(f"measuring  {name}", f"threads {threads}")


def _call_times(work: PredictWork, passes: Mapping[tuple[str, str], list[PassTime]]) -> list[CallTimes]:
    found = []
    for batch_size, kind in itertools.product(work.batch_sizes, ("pixels", "files")):
        for (runtime, precision), rounds in passes.items():
            seconds = [second for one in rounds for second in one.extra[f"{batch_size} {kind}"]]
            if not seconds:
                continue
            p50, p90, p99 = np.percentile(seconds, (50, 90, 99)).tolist()
            speed = batch_size * len(seconds) / sum(seconds)
            row = (work.threads, batch_size, kind == "files", runtime, precision, p50, p90, p99, speed, len(seconds))
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


def predict_program(work: PredictWork, runtime: str, precision: str) -> Pass:
    """Return a pass of one of PROGRAMS: by batch size, with and without decoding, the seconds that each call took.

    A call is what a request needs, from pixels or from JPEG files to probabilities on the host, one after the other.
    """
    torch.set_num_threads(work.threads)
    if runtime in FROM_ONNX:
        held = read_onnx(work.folder / f"{precision}.onnx")
        recipe, infer = held.recipe, _open(held, runtime, work)
    else:
        model = load_subject(work.subject).to(work.device)
        run_in = compiled if runtime == "compiled" else in_torch
        recipe, infer = model.recipe, run_in(model, work.device)
    reader = ImageReader(recipe.eval_image_size, recipe.eval_resize, work.threads)
    images = sample_images()

    def run() -> Mapping[str, Any]:
        latencies = {}
        for batch_size in work.batch_sizes:
            files = [images[row % len(images)] for row in range(batch_size)]
            pixels = np.stack(reader.decode(files)[0])
            latencies[f"{batch_size} pixels"] = time_calls(lambda: softmax(infer(pixels)), work.seconds)  # noqa: B023
            latencies[f"{batch_size} files"] = time_calls(
                lambda: softmax(infer(np.stack(reader.decode(files)[0]))),  # noqa: B023
                work.seconds,
            )
        return latencies

    return run


def _open(held: OnnxFile, runtime: str, work: PredictWork) -> Infer:
    if runtime == "openvino":
        return in_openvino(held.content, held.recipe.eval_image_size, work.threads)
    return in_onnx_runtime(held.content, work.threads, work.device)


def softmax(logits: np.ndarray[Any, np.dtype[np.float32]]) -> object:
    """The probabilities, of logits [N, C]."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def time_calls(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, for about `seconds`."""
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) < _FEWEST_CALLS or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken
