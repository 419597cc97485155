"""`imagesprint export`."""

import argparse
from pathlib import Path

from imagesprint.cli.output import show
from imagesprint.cli.parsing import Parser, add_cache_flags, add_verb
from imagesprint.console import Console, printable
from imagesprint.inference import SUFFIXES
from imagesprint.storage.url import parse_place

EXAMPLES = """\
  imagesprint export RUN model.onnx
  imagesprint export RUN/checkpoints/step-0000660.pt model.pt2
  imagesprint export RUN model.safetensors --json"""

DESCRIPTION = """\
Write a trained model to a file for other programs: ONNX, torch.export (.pt2), or safetensors with FILE.json beside it.
Normalisation is inside the graph: it takes uint8 images [batch, height, width, 3], any number and size of them, and
gives logits. The file is then run in its own runtime on two images; where a logit differs by more than 0.001 nothing
is written, and the exit code is 3. ONNX and safetensors need: pip install 'imagesprint[export]'."""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "export", DESCRIPTION, EXAMPLES, run)
    parser.add_argument(
        "model", type=parse_place, metavar="MODEL", help="a run, for its last checkpoint, or a checkpoint"
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what to write")
    parser.add_argument("--format", choices=tuple(SUFFIXES), help="default: what the name of FILE ends in")
    add_cache_flags(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Export and check; print what was written."""
    from imagesprint.inference.exporting import LIMIT, export  # imports torch

    done = export(args.model, args.file, args.format, console)
    written = printable(f"written     {done.file}, {done.bytes:,} bytes")
    checked = f"logits differ by at most {done.max_difference:.2g} (limit {LIMIT:g}) on two images"
    show(args, done, f"{written}\nchecked     in {done.runtime}: {checked}")
    return 0
