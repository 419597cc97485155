"""`export`: a trained model in a file for other programs, checked in the runtime that will run it."""

import json
import math
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from imagesprint.checkpoints.weights import TrainedModel, load_model
from imagesprint.console import Console
from imagesprint.errors import CheckError, UsageError
from imagesprint.files import write_atomically, write_text
from imagesprint.images.decoding import open_rgb
from imagesprint.inference import SUFFIXES
from imagesprint.inference.formats import FORMATS, Format, Infer, describe, in_onnx_runtime, in_torch
from imagesprint.inference.image_files import sample_images
from imagesprint.inference.int8 import Int8Accuracy, judge_int8, to_int8
from imagesprint.inference.onnx_files import sealed
from imagesprint.inference.prediction import ImageReader
from imagesprint.records.dataset import open_root
from imagesprint.storage.url import Place

LIMIT: Final = 1e-3  # between logits; probabilities then differ by half of it at most


@dataclass(frozen=True)
class ToInt8:
    """That a file be in int8, by the images of `data`, with at most `max_drop` points less of top-1."""

    data: Place
    max_drop: float


@dataclass(frozen=True)
class Exported:
    """A file that was written, its size in bytes, and how far its logits were from ours at most, in `runtime`.

    `int8` says what it came to where it is in int8.
    """

    file: Path
    format: str
    bytes: int
    max_difference: float
    runtime: str
    precision: str = "fp32"
    int8: Int8Accuracy | None = None


def format_of(file: Path, name: str | None) -> str:
    """The name of the format: `name`, else by the file's suffix. Raises UsageError where that says nothing."""
    if name is not None:
        return name
    for known, suffix in SUFFIXES.items():
        if file.suffix.lower() == suffix:
            return known
    raise UsageError(
        f"the name {file.name} does not say which format is meant",
        f"give --format {', '.join(SUFFIXES)}, or let it end in {', '.join(SUFFIXES.values())}",
    )


def export(model_place: Place, file: Path, name: str | None, console: Console, into: ToInt8 | None = None) -> Exported:
    """Write the model of a run or checkpoint, or of the URL of one, to `file`; safetensors gets FILE.json beside it.

    The file takes its name only after it was read again in its own runtime and gave our logits; in int8, which no logit
    survives to the bit, after every validation image was judged by it. Raises CheckError where logits differ by more
    than LIMIT, or top-1 drops by more than is allowed, UsageError for a file that cannot be written or a package that
    is missing, RunError for a model that cannot be exported, and as `load_model`, `open_root` and `evaluate` do.
    """
    name = format_of(file, name)
    if into is not None and name != "onnx":
        raise UsageError(f"--int8 writes ONNX, not {name}", "let the name of the file end in .onnx")
    made = FORMATS[name]
    if file.is_dir() or not file.parent.is_dir():
        wrong = "it is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise UsageError(f"cannot write {file}: {wrong}", "choose another file")
    made.check_packages()
    model, int8 = load_model(model_place), None
    console.line(f"exporting   {model.recipe.model}, {len(model.classes):,} classes, after step {model.step:,}")
    if into is None:
        content = made.encode(model)
    else:
        content, int8 = _in_int8(model, into, file, console)
    differences: list[float] = []

    def write(stream: BinaryIO) -> None:
        stream.write(content)
        stream.flush()
        differences.append(_check(model, made, Path(stream.name), file, LIMIT if int8 is None else math.inf))

    try:
        write_atomically(file, write)
        if name == "safetensors":
            write_text(file.with_name(f"{file.name}.json"), json.dumps(describe(model), indent=2) + "\n")
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror}", "see to its space and permissions, or choose another"
        ) from error
    runtime = f"{made.runtime} {metadata.version(made.runtime)}"
    precision = "fp32" if int8 is None else "int8"
    return Exported(file, name, file.stat().st_size, differences[0], runtime, precision, int8)


def _in_int8(model: TrainedModel, wanted: ToInt8, file: Path, console: Console) -> tuple[bytes, Int8Accuracy]:
    """The content of an ONNX file in int8, and what it came to. Raises CheckError for too great a drop."""
    root = open_root(wanted.data)
    graph = to_int8(model, root, console)
    judged = judge_int8(model, in_onnx_runtime(graph), root, console)
    if not judged.drop <= wanted.max_drop:
        raise CheckError(
            f"{file} was not written: in int8 top-1 is {judged.top1:.2f}%, {judged.drop:.2f} points less than "
            f"{judged.fp32_top1:.2f}%, more than --max-drop {wanted.max_drop:g}",
            "raise --max-drop, or leave --int8 out",
        )
    return sealed(graph, describe(model) | {"precision": "int8", "int8": asdict(judged)}), judged


def _check(model: TrainedModel, made: Format, written: Path, file: Path, limit: float) -> float:
    """How far what was `written`, and is to become `file`, is from the model. Raises CheckError above `limit`."""
    try:
        difference = greatest_difference(model, made.open(written, model))
    except Exception as error:  # whatever somebody else's runtime finds wrong with it
        reason = " ".join(str(error).split())[:300]
        raise CheckError(
            f"{file} was not written: {made.runtime} cannot run it: {type(error).__name__}: {reason}",
            "try another --format, or another version of that package",
        ) from error
    if not difference <= limit:  # also where it is not a number
        raise CheckError(
            f"{file} was not written: read again, its logits differ from the model's by up to {difference:.2g}, "
            f"more than {limit:g}",
            "is the checkpoint sound? Try another --format; --verbose shows more",
        )
    return difference


def greatest_difference(model: TrainedModel, infer: Infer) -> float:
    """How far the logits of `infer` are from those of `model` at most, on two images.

    They come as a batch at the size of evaluation, and one alone in another shape, which is a cut-out as it is.
    """
    files, size = sample_images(), model.recipe.eval_image_size
    with ImageReader(size, model.recipe.eval_resize) as reader:
        batch = np.stack(reader.decode(files)[0])
    cut_out = np.asarray(open_rgb(files[0]))[None, : size + 16, : size + 48]
    ours = in_torch(model)
    shapes = (batch, np.ascontiguousarray(cut_out))
    return float(np.max([np.abs(infer(images) - ours(images)).max() for images in shapes]))  # NaN where one is
