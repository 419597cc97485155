"""`imagesprint evaluate`."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from imagesprint.cli.output import show, table
from imagesprint.cli.parsing import Parser, add_cache_flags, add_device_flags, add_verb, positive
from imagesprint.console import Console
from imagesprint.errors import RunError
from imagesprint.runs.environment import is_main_rank
from imagesprint.runs.processes import is_launcher, run_ranks
from imagesprint.storage.url import parse_place

if TYPE_CHECKING:
    from imagesprint.evaluating.evaluator import EvaluatedCheckpoint
    from imagesprint.evaluating.results import Details

EXAMPLES = """\
  imagesprint evaluate RUN --data ROOT
  imagesprint evaluate RUN/checkpoints/step-0000660.pt OTHER_RUN --data ROOT --json
  imagesprint evaluate RUN --data ROOT --processes 8              # the checkpoints side by side
  imagesprint evaluate RUN --data ROOT --watch                    # beside a training, until it ends
  imagesprint evaluate s3://bucket/runs/first --data ROOT
  imagesprint evaluate RUN --data ROOT --flip --sizes 224,256,288 --per-class"""

DESCRIPTION = """\
Judge checkpoints on the validation split: one centre crop of each image, as the recipe says, exact on any number of
processes. Each option adds a figure beside that plain one and never takes its place. What a run's checkpoints came to
is kept in RUN/evaluated: the same question again is answered at once. Figures are made in fp32, on a GPU that has
TF32 in that, and say so."""

SHOWN = 10  # classes and pairs in the text; --json has all


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "evaluate", DESCRIPTION, EXAMPLES, run)
    parser.add_argument(
        "paths", nargs="+", type=parse_place, metavar="RUN|CHECKPOINT", help="all of a run's, or named ones; also URLs"
    )
    parser.add_argument("--data", type=parse_place, required=True, metavar="ROOT", help="what imagesprint prepare made")
    add_device_flags(parser)
    add_cache_flags(parser)
    add = parser.add_argument
    add("--watch", action="store_true", help="go on with each new checkpoint until the training ends")
    add("--weights", choices=("model", "ema"), default="", help="also the last step's weights, or their moving average")
    measured = "also with batch norm measured on N training images"
    add("--recalibrate", type=positive, default=0, metavar="N", help=measured)
    add("--flip", action="store_true", help="also the mean of each image and its mirror image")
    add("--sizes", type=_sizes, default=(), metavar="PX,…", help="also at these sizes, of the same part of the image")
    add("--rectangular", action="store_true", help="also at the image's own aspect ratio, not a square")
    add("--per-class", action="store_true", help="show classes, confusions and calibration of the best checkpoint")


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(positive(part) for part in text.split(",")))


def run(args: argparse.Namespace, console: Console) -> int:
    """Judge each checkpoint; print a table of all and the best."""
    if is_launcher(args.processes):
        return run_ranks(args.processes, args.words)
    from imagesprint.evaluating.checkpoints import evaluate_checkpoints, watch_runs  # imports torch
    from imagesprint.evaluating.places import find_checkpoints
    from imagesprint.evaluating.views import chosen_views

    views = chosen_views(args.weights, args.recalibrate, args.flip, args.sizes, args.rectangular)
    if args.watch:
        evaluated = watch_runs(args.paths, args.data, views, args.device, console)
    else:
        evaluated = evaluate_checkpoints(find_checkpoints(args.paths), args.data, views, args.device, console)
    if is_main_rank():
        _show(args, evaluated)
    return 0


def _show(args: argparse.Namespace, evaluated: "Sequence[EvaluatedCheckpoint]") -> None:
    if not evaluated:
        raise RunError("there was no checkpoint left to judge", "name a run whose training wrote one")
    best = max(evaluated, key=lambda one: (one.top1, one.top5, one.step))
    lines = [_table(evaluated), f"best: {best.path}, top-1 {best.top1:.2f}% in {best.precision}"]
    if best.views:
        lines += ["", _views(evaluated)]
    if args.per_class:
        lines += ["", _classes(best.details)]
    value = {"checkpoints": [_entry(one, args.per_class) for one in evaluated], "best": _entry(best)}
    show(args, value, "\n".join(lines))


def _entry(one: "EvaluatedCheckpoint", with_details: bool = False) -> dict[str, object]:
    return {key: value for key, value in vars(one).items() if with_details or key != "details"}


def _table(evaluated: "Sequence[EvaluatedCheckpoint]") -> str:
    rows = [
        (one.path, one.step, f"{one.epoch:g}", one.num_images, f"{one.top1:.2f}", f"{one.top5:.2f}", f"{one.loss:.4f}")
        for one in evaluated
    ]
    return table(["checkpoint", "step", "epoch", "images", "top-1 %", "top-5 %", "loss"], rows)


def _views(evaluated: "Sequence[EvaluatedCheckpoint]") -> str:
    names = [view.view for view in evaluated[0].views]
    rows = [(one.path, f"{one.top1:.2f}", *(f"{view.top1:.2f}" for view in one.views)) for one in evaluated]
    return table(["top-1 % of", "plain", *names], rows)


def _classes(details: "Details") -> str:
    judged = sorted((row for row in details["per_class"] if row["num_images"]), key=lambda row: row["top1"] or 0.0)
    worst = [(row["class"], row["num_images"], f"{row['top1']:.2f}") for row in judged[:SHOWN]]
    pairs = [(row["class"], row["taken_for"], row["count"]) for row in details["confusions"][:SHOWN]]
    return "\n".join(
        [
            table([f"worst of {len(judged)} classes", "images", "top-1 %"], worst),
            "",
            table(["class", "taken for", "times"], pairs),
            "",
            f"expected calibration error: {details['calibration_error']:.2f}% (15 bins)",
        ]
    )
