"""A model ready to answer: of a run, a checkpoint or an exported .onnx file, in one of the runtimes, alike to a caller.

Who uses it, `predict` or a server, need know neither the runtime nor where the model came from. No transport is known
here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from imagesprint.checkpoints.cached import cached, last_of
from imagesprint.checkpoints.weights import TrainedModel, load_model
from imagesprint.console import Console
from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.evaluating.evaluation import evaluation_arithmetic, evaluation_precision
from imagesprint.inference import SUFFIXES
from imagesprint.inference.formats import (
    FORMATS,
    Infer,
    describe,
    graph,
    has_cuda_provider,
    in_onnx_runtime,
    in_openvino,
    in_torch,
)
from imagesprint.inference.int8 import data_of, to_int8
from imagesprint.inference.onnx_files import OnnxFile, read_onnx
from imagesprint.recipes.recipe import Recipe
from imagesprint.runs.ranks import choose_device, open_ranks
from imagesprint.storage.url import Place

InferEach = Callable[[Iterable[NDArray[np.uint8]]], NDArray[np.float32]]  # N images [H, W, 3] → logits [N, classes]

_PACKAGES: Final = {"openvino": "openvino", "onnx": "onnxruntime"}  # the fastest on a CPU first


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model that answers.

    `place` is as the user named it, `checkpoint` the very file that was opened. `name` is the recipe's model. The
    logits are in the order of `classes`; `class_texts` are the words that describe them. Images are wanted with their
    shorter side `resize` pixels long, cut to the centre of `shape` (`images.crops.evaluation_shapes` of `image_size`).
    `step` counts the steps trained. `runtime` is a package and its version, `precision` its arithmetic: fp32, tf32 or
    int8. `batch_size` is what evaluation takes at once. `infer` takes N ≥ 1 images, each uint8 RGB [H, W, 3], and gives
    float32 logits [N, classes]; one thread at a time may call it. `description` is that of `formats.describe`.
    """

    place: Place
    checkpoint: Place
    name: str
    classes: tuple[str, ...]
    class_texts: tuple[str, ...]
    image_size: int
    resize: int
    shape: str
    step: int
    runtime: str
    precision: str
    batch_size: int
    description: Mapping[str, Any]
    infer: InferEach


def is_onnx(place: Place) -> bool:
    """Whether `place` names an exported .onnx file."""
    return place.suffix.lower() == SUFFIXES["onnx"]


def open_model(
    place: Place, runtime: str, device: str, console: Console, *, int8: bool = False, threads: int = 0
) -> OpenModel:
    """Open the model of a run (its last checkpoint), a checkpoint, a .onnx file that `export` wrote, or of their URLs.

    `runtime` is one of RUNTIMES: torch is eager, as `evaluate` computes; auto is torch on a GPU, else the fastest that
    is installed. `device` is auto, cpu or cuda; `threads` work on a batch, by default one a core. With `int8` a run or
    a checkpoint is brought into int8 first, by the data that it was trained on. Raises UsageError for what does not go
    together and packages that are missing, CheckpointError for a file that is damaged or not ours, and as `load_model`,
    `data_of` and `to_int8` do.
    """
    checkpoint = last_of(place)
    with cached(checkpoint) as file:
        if is_onnx(checkpoint):
            held = read_onnx(file)
            if int8 and held.precision != "int8":
                raise UsageError(
                    f"{place} is in {held.precision}, and needs its run and images to be brought into int8",
                    "name the run, or export it with --int8",
                )
            chosen = _choose(runtime, device, checkpoint, held.precision)
        else:
            chosen = _choose(runtime, device, checkpoint, "int8" if int8 else "fp32")
            model = load_model(file)
            if chosen == "torch":
                return open_trained(model, place, checkpoint, device, threads)
            held = _exported(model, checkpoint, chosen, int8, console)
    return _open_file(held, place, checkpoint, chosen, device, threads)


def _exported(model: TrainedModel, checkpoint: Place, runtime: str, int8: bool, console: Console) -> OnnxFile:
    FORMATS["onnx"].check_packages()
    console.line(f"exporting   {checkpoint} to ONNX, for {_PACKAGES[runtime]}")
    content = to_int8(model, data_of(checkpoint, console), console) if int8 else graph(model)
    return OnnxFile(content, describe(model) | {"precision": "int8" if int8 else "fp32"}, model.recipe)


def _open_file(held: OnnxFile, place: Place, checkpoint: Place, runtime: str, device: str, threads: int) -> OpenModel:
    """Open it in ONNX Runtime or OpenVINO."""
    version = f"{_PACKAGES[runtime]} {_version(_PACKAGES[runtime])}"
    on = "cuda" if runtime == "onnx" and held.precision != "int8" and _runs_on_cuda(device) else "cpu"
    try:
        if runtime == "openvino":
            of_squares = held.recipe.eval_shape == "square"
            infer = in_openvino(held.content, held.recipe.eval_image_size if of_squares else 0, threads)
        else:
            infer = in_onnx_runtime(held.content, threads, on)
    except ImagesprintError:
        raise
    except Exception as error:  # theirs, of an operation that this version does not know
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{version} cannot run {place}: {reason}", "choose another --runtime, or update it") from error
    precision = "tf32" if (held.precision, on) == ("fp32", "cuda") else held.precision
    return _opened(place, checkpoint, held.description, held.recipe, version, precision, infer)


def open_trained(model: TrainedModel, place: Place, checkpoint: Place, device: str, threads: int = 0) -> OpenModel:
    """Open a model in memory: eager in PyTorch, in the arithmetic of `evaluate`; the rest is as of `open_model`."""
    with open_ranks(device) as ranks:
        on = ranks.device
    if threads:
        torch.set_num_threads(threads)
    run = in_torch(model.to(on), on)

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with evaluation_arithmetic(on):
            return run(images)

    version = f"torch {torch.__version__}"
    precision = evaluation_precision(on)
    return _opened(place, checkpoint, describe(model), model.recipe, version, precision, infer)


def _choose(runtime: str, device: str, checkpoint: Place, precision: str) -> str:
    """Which of RUNTIMES but auto; raises UsageError where `runtime` cannot run it, or not there."""
    if runtime == "torch" and (is_onnx(checkpoint) or precision == "int8"):
        what = checkpoint if is_onnx(checkpoint) else "a model in int8"
        raise UsageError(f"PyTorch does not run {what} here", "choose --runtime onnx or openvino")
    if device == "cuda" and (runtime == "openvino" or precision == "int8"):
        raise UsageError("OpenVINO, and any model in int8, runs on the CPU here", "choose --device cpu")
    if runtime != "auto":
        return runtime
    on_gpu = precision != "int8" and choose_device(device).type == "cuda"
    if on_gpu:
        return "onnx" if is_onnx(checkpoint) else "torch"
    installed = [name for name, package in _PACKAGES.items() if find_spec(package) is not None]
    if is_onnx(checkpoint) or precision == "int8":
        return installed[0] if installed else "onnx"  # whose absence is then told
    return installed[0] if installed and find_spec("onnxscript") is not None else "torch"


def _runs_on_cuda(device: str) -> bool:
    """Whether ONNX Runtime is to use a GPU."""
    return device == "cuda" or (choose_device(device).type == "cuda" and has_cuda_provider())


def _version(package: str) -> str:
    """The version of the package that is imported as `package`."""
    distributions = metadata.packages_distributions().get(package, [package])
    return metadata.version(distributions[0])


def _opened(
    place: Place,
    checkpoint: Place,
    description: Mapping[str, Any],
    recipe: Recipe,
    runtime: str,
    precision: str,
    infer: Infer,
) -> OpenModel:
    classes = description["classes"]
    return OpenModel(
        place=place,
        checkpoint=checkpoint,
        name=recipe.model,
        classes=tuple(entry["name"] for entry in classes),
        class_texts=tuple(entry["text"] for entry in classes),
        image_size=recipe.eval_image_size,
        resize=recipe.eval_resize,
        shape=recipe.eval_shape,
        step=description["step"],
        runtime=runtime,
        precision=precision,
        batch_size=recipe.eval_batch_size,
        description=description,
        infer=by_shape(infer),
    )


def by_shape(infer: Infer) -> InferEach:
    """`infer` of images that may have several shapes: those of each shape at once."""

    def infer_each(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        alike: dict[tuple[int, ...], list[int]] = {}
        every = list(images)
        for row, image in enumerate(every):
            alike.setdefault(image.shape, []).append(row)
        logits = np.concatenate([infer(np.stack([every[row] for row in rows])) for rows in alike.values()])
        return logits[np.argsort([row for rows in alike.values() for row in rows])]

    return infer_each
