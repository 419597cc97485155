"""`imagesprint evaluate`."""

import argparse
from pathlib import Path

from imagesprint.cli.output import show, table
from imagesprint.cli.parsing import Parser, add_device_flags, add_verb
from imagesprint.console import Console
from imagesprint.runs.environment import is_main_rank
from imagesprint.runs.processes import is_launcher, run_ranks

EXAMPLES = """\
  imagesprint evaluate RUN --data ROOT
  imagesprint evaluate RUN/checkpoints/step-0000660.pt OTHER_RUN --data ROOT --json
  imagesprint evaluate RUN --data ROOT --processes 8"""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "evaluate", "Judge checkpoints on the validation split.", EXAMPLES, run)
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN|CHECKPOINT", help="all of a run's, or named ones")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="what imagesprint prepare made")
    add_device_flags(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Judge each checkpoint; print a table of all and the best."""
    if is_launcher(args.processes):
        return run_ranks(args.processes, args.words)
    from imagesprint.evaluating.checkpoints import evaluate_checkpoints, find_checkpoints  # imports torch

    evaluated = evaluate_checkpoints(find_checkpoints(args.paths), args.data, args.device, console)
    if not is_main_rank():
        return 0
    best = max(evaluated, key=lambda one: (one.top1, one.top5, one.step))
    rows = [
        (one.path, one.step, f"{one.epoch:g}", one.num_images, f"{one.top1:.2f}", f"{one.top5:.2f}", f"{one.loss:.4f}")
        for one in evaluated
    ]
    text = table(["checkpoint", "step", "epoch", "images", "top-1 %", "top-5 %", "loss"], rows)
    show(args, {"checkpoints": evaluated, "best": best}, f"{text}\nbest: {best.path}, top-1 {best.top1:.2f}%")
    return 0
