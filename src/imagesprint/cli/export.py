"""`imagesprint export`."""

import argparse
import math
from pathlib import Path
from typing import Final

from imagesprint.cli.output import show
from imagesprint.cli.parsing import Parser, add_cache_flags, add_verb
from imagesprint.console import Console, printable
from imagesprint.errors import UsageError
from imagesprint.inference import SUFFIXES
from imagesprint.runs.rows import of_classes
from imagesprint.storage.url import parse_place

EXAMPLES = """\
  imagesprint export RUN model.onnx
  imagesprint export RUN/checkpoints/step-0000660.pt model.pt2
  imagesprint export RUN model.safetensors --json
  imagesprint export RUN model-int8.onnx --int8 --data ROOT"""

DESCRIPTION = """\
Write a trained model to a file for other programs: ONNX, torch.export (.pt2), or safetensors with FILE.json beside it.
Normalisation is inside the graph: it takes uint8 images [batch, height, width, 3], any number and size of them, and
gives logits. The file is then run in its own runtime on two images; where a logit differs by more than 0.001 nothing
is written, and the exit code is 3. ONNX and safetensors need: pip install 'imagesprint[export]'.

With --int8 the ONNX file computes in 8 bits, for ONNX Runtime and OpenVINO: a third of the time and a quarter of the
size. It is calibrated on training images of ROOT, and judged on all of its validation images, as is the original; where
top-1 drops by more than --max-drop nothing is written, and the exit code is 3. The file holds both figures."""

MAX_DROP: Final = 0.5  # points of top-1


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "export", DESCRIPTION, EXAMPLES, run)
    parser.add_argument(
        "model", type=parse_place, metavar="MODEL", help="a run, for its last checkpoint, or a checkpoint"
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what to write")
    parser.add_argument("--format", choices=tuple(SUFFIXES), help="default: what the name of FILE ends in")
    int8 = parser.add_argument_group("in 8 bits")
    int8.add_argument("--int8", action="store_true", help="compute in int8")
    int8.add_argument("--data", type=parse_place, metavar="ROOT", help="the prepared images to calibrate and judge by")
    int8.add_argument(
        "--max-drop", type=_points, metavar="POINTS", help=f"how much less top-1 may be, in percent; default {MAX_DROP}"
    )
    add_cache_flags(parser)


def _points(text: str) -> float:
    """An argparse type: percentage points, a number from 0 to 100."""
    try:
        points = float(text)
    except ValueError:
        points = math.nan
    if not 0 <= points <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 100")
    return points


def run(args: argparse.Namespace, console: Console) -> int:
    """Export and check; print what was written."""
    if args.int8 != (args.data is not None) or (args.max_drop is not None and not args.int8):
        raise UsageError("--int8, --data and --max-drop belong together", "give --int8 --data ROOT, or none of them")
    from imagesprint.inference.exporting import LIMIT, ToInt8, export  # imports torch

    into = ToInt8(args.data, MAX_DROP if args.max_drop is None else args.max_drop) if args.int8 else None
    done = export(args.model, args.file, args.format, console, into)
    written = printable(f"written     {done.file}, {done.bytes:,} bytes")
    if done.int8 is None:
        checked = f"logits differ by at most {done.max_difference:.2g} (limit {LIMIT:g}) on two images"
    else:
        judged = done.int8
        int8 = f"{judged.top1:.2f}%{of_classes(judged.top1, judged.mean_class_accuracy)}"
        fp32 = f"{judged.fp32_top1:.2f}%{of_classes(judged.fp32_top1, judged.fp32_mean_class_accuracy)}"
        checked = f"top-1 {int8} in int8, {fp32} in fp32 on {judged.num_images:,} images"
    show(args, done, f"{written}\nchecked     in {done.runtime}: {checked}")
    return 0
