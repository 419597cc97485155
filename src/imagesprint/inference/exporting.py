"""`export`: a trained model in a file for other programs, checked in the runtime that will run it."""

import json
from dataclasses import dataclass
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
from imagesprint.inference.formats import FORMATS, Format, Infer, describe, in_torch
from imagesprint.inference.image_files import sample_images
from imagesprint.inference.prediction import ImageReader
from imagesprint.storage.url import Place

LIMIT: Final = 1e-3  # between logits; probabilities then differ by half of it at most


@dataclass(frozen=True)
class Exported:
    """A file that was written, its size in bytes, and how far its logits were from ours at most, in `runtime`."""

    file: Path
    format: str
    bytes: int
    max_difference: float
    runtime: str


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


def export(model_place: Place, file: Path, name: str | None, console: Console) -> Exported:
    """Write the model of a run or checkpoint, or of the URL of one, to `file`; safetensors gets FILE.json beside it.

    The file takes its name only after it was read again in its own runtime and gave our logits. Raises CheckError
    where they differ by more than LIMIT, UsageError for a file that cannot be written or a package that is missing,
    RunError for a model that cannot be exported, and as `load_model` does.
    """
    name = format_of(file, name)
    made = FORMATS[name]
    if file.is_dir() or not file.parent.is_dir():
        wrong = "it is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise UsageError(f"cannot write {file}: {wrong}", "choose another file")
    made.check_packages()
    model = load_model(model_place)
    console.line(f"exporting   {model.recipe.model}, {len(model.classes):,} classes, after step {model.step:,}")
    differences: list[float] = []

    def write(stream: BinaryIO) -> None:
        stream.write(made.encode(model))
        stream.flush()
        differences.append(_check(model, made, Path(stream.name), file))

    try:
        write_atomically(file, write)
        if name == "safetensors":
            write_text(file.with_name(f"{file.name}.json"), json.dumps(describe(model), indent=2) + "\n")
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror}", "see to its space and permissions, or choose another"
        ) from error
    runtime = f"{made.runtime} {metadata.version(made.runtime)}"
    return Exported(file, name, file.stat().st_size, differences[0], runtime)


def _check(model: TrainedModel, made: Format, written: Path, file: Path) -> float:
    """How far what was `written`, and is to become `file`, is from the model. Raises CheckError above LIMIT."""
    try:
        difference = greatest_difference(model, made.open(written, model))
    except Exception as error:  # whatever somebody else's runtime finds wrong with it
        reason = " ".join(str(error).split())[:300]
        raise CheckError(
            f"{file} was not written: {made.runtime} cannot run it: {type(error).__name__}: {reason}",
            "try another --format, or another version of that package",
        ) from error
    if not difference <= LIMIT:  # also where it is not a number
        raise CheckError(
            f"{file} was not written: read again, its logits differ from the model's by up to {difference:.2g}, "
            f"more than {LIMIT:g}",
            "is the checkpoint sound? Try another --format; --verbose shows more",
        )
    return difference


def greatest_difference(model: TrainedModel, infer: Infer) -> float:
    """How far the logits of `infer` are from those of `model` at most, on two images.

    They come as a batch at the size of evaluation, and one alone in another shape, which is a cut-out as it is.
    """
    files, size = sample_images(), model.recipe.eval_image_size
    with ImageReader(size, model.recipe.eval_resize) as reader:
        batch, _ = reader.decode(files)
    cut_out = np.asarray(open_rgb(files[0]))[None, : size + 16, : size + 48]
    ours = in_torch(model)
    shapes = (batch, np.ascontiguousarray(cut_out))
    return float(np.max([np.abs(infer(images) - ours(images)).max() for images in shapes]))  # NaN where one is
