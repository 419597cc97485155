"""`imagesprint predict`."""

import argparse
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from imagesprint.cli.output import show, write_csv
from imagesprint.cli.parsing import Parser, add_cache_flags, add_device_flag, add_verb, positive
from imagesprint.console import Console, printable
from imagesprint.errors import UsageError
from imagesprint.storage.url import parse_place

if TYPE_CHECKING:
    from imagesprint.inference.prediction import Prediction

EXAMPLES = """\
  imagesprint predict RUN photo.jpg
  imagesprint predict RUN/checkpoints/step-0000660.pt holiday 'more/**/*.png' --top 3 --csv > found.csv
  find photos -name '*.jpg' -print0 | imagesprint predict RUN - -0 --json
  imagesprint predict s3://bucket/runs/first photo.jpg
  imagesprint predict model.onnx photo.jpg
  imagesprint predict RUN --top 1 -- -name-with-a-dash.jpg"""

DESCRIPTION = """\
Say what images show: the likeliest classes with their probabilities. Images are decoded, resized and cropped as in
evaluation. What is no image is named on standard error; the rest goes on, and the exit code is 1."""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "predict", DESCRIPTION, EXAMPLES, run)
    parser.add_argument(
        "model",
        type=parse_place,
        metavar="MODEL",
        help="a run, for its last checkpoint, a checkpoint, or an .onnx file",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders with all below them, patterns, or - for stdin"
    )
    parser.add_argument("-0", "--null", action="store_true", help="names on stdin end with NUL, as of find -print0")
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="how many classes; default 5")
    parser.add_argument("--csv", action="store_true", help="print a table with commas: one row an image and class")
    add_device_flag(parser)
    add_cache_flags(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Predict and print."""
    if args.null and "-" not in args.images:
        raise UsageError("-0 is about names on standard input, which is not asked for", "add - to the images")
    if args.csv and args.json:
        raise UsageError("--csv and --json exclude each other", "choose one")
    from imagesprint.inference.image_files import find_images

    images = find_images(args.images, _stdin_names(args.null), console)
    from imagesprint.inference.opening import is_onnx, open_model  # imports torch, which wrong usage need not wait for
    from imagesprint.inference.prediction import predict

    model = open_model(args.model, "onnx" if is_onnx(args.model) else "torch", args.device, console)
    predictions = predict(model, images, args.top, console)
    failed = [prediction for prediction in predictions if prediction.error]
    for prediction in failed:
        console.warn(f"{prediction.image}: {prediction.error}")
    text = _as_csv(predictions) if args.csv else "\n".join(_as_text(one) for one in predictions if not one.error)
    show(args, [prediction.as_object() for prediction in predictions], text)
    if failed:
        console.line(f"{len(failed):,} of {len(predictions):,} images could not be read")
    return 1 if failed else 0


def _stdin_names(null: bool) -> Iterator[str]:
    """The names on standard input, which need not be text: one a line, or ended by NUL."""
    if not sys.stdin:  # closed by the shell
        return
    if null:
        yield from map(os.fsdecode, sys.stdin.buffer.read().split(b"\0"))
        return
    for line in sys.stdin.buffer:
        if b"\0" in line:
            name = os.fsdecode(line.partition(b"\0")[0])
            raise UsageError(f"standard input has a NUL behind {name!r}", "give -0 where NUL ends each name")
        yield os.fsdecode(line.rstrip(b"\r\n"))


def _as_text(prediction: "Prediction") -> str:
    names = (f"  {one.probability:6.1%}  {printable(one.name)}" for one in prediction.top)
    return "\n".join([printable(str(prediction.image)), *names])


def _as_csv(predictions: "list[Prediction]") -> str:
    rows: list[list[object]] = []
    for prediction in predictions:
        image = str(prediction.image)
        if prediction.error:
            rows.append([image, "", "", "", "", prediction.error])
        for rank, one in enumerate(prediction.top, 1):
            rows.append([image, rank, one.label, one.name, f"{one.probability:.6f}", ""])
    file = io.StringIO()
    write_csv(file, ["image", "rank", "class", "name", "probability", "error"], rows)
    return file.getvalue().removesuffix("\n")
