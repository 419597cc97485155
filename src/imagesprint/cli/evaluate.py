"""`imagesprint evaluate`."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from imagesprint.cli.output import show, table
from imagesprint.cli.parsing import Parser, add_cache_flags, add_device_flags, add_verb, positive
from imagesprint.console import Console
from imagesprint.errors import RunError, UsageError
from imagesprint.runs.environment import is_main_rank
from imagesprint.runs.processes import is_launcher, run_ranks
from imagesprint.runs.rows import classes_differ, of_classes
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
  imagesprint evaluate RUN --data ROOT --flip --sizes 224,256,288 --per-class
  imagesprint evaluate --url http://127.0.0.1:8000 --data ROOT     # what a running `imagesprint serve` answers"""

DESCRIPTION = """\
Judge checkpoints on the validation split: one centre crop of each image, as the recipe says, exact on any number of
processes. Each option adds a figure beside that plain one and never takes its place. What a run's checkpoints came to
is kept in RUN/evaluated: the same question again is answered at once. Figures are made in fp32, on a GPU that has
TF32 in that, and say so. With --url the images' files go to a server instead, and what it answers is judged."""

SHOWN = 10  # classes and pairs in the text; --json has all


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "evaluate", DESCRIPTION, EXAMPLES, run)
    parser.add_argument(
        "paths", nargs="*", type=parse_place, metavar="RUN|CHECKPOINT", help="all of a run's, or named ones; also URLs"
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
    add("--url", type=parse_place, help="judge what the server there serves, in place of RUN or CHECKPOINT")
    add("--variant", metavar="NAME", help="with --url: send the images of full, 320, …; default: as the recipe says")
    add("--per-class", action="store_true", help="show classes, confusions and calibration of the best checkpoint")


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(positive(part) for part in text.split(",")))


def run(args: argparse.Namespace, console: Console) -> int:
    """Judge each checkpoint; print a table of all and the best."""
    _check(args)
    if args.url is not None:
        return _judge_served(args, console)
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


def _check(args: argparse.Namespace) -> None:
    """Raise UsageError for what does not go together."""
    if args.url is None and not args.paths:
        raise UsageError("nothing to judge is named", "name a RUN or a CHECKPOINT, or a running server with --url")
    if args.url is None and args.variant is not None:
        raise UsageError("--variant goes with --url alone", "a checkpoint's own recipe says what it is judged on")
    if args.url is None:
        return
    if args.paths:
        raise UsageError(f"{args.paths[0]} and --url exclude each other", "give two commands to judge both")
    chosen = ["watch", "weights", "recalibrate", "flip", "sizes", "rectangular"]
    given = [name for name in chosen if getattr(args, name)]
    given += ["device"] * (args.device != "auto") + ["processes"] * (args.processes > 1)
    if given:
        raise UsageError(f"--{given[0]} and --url exclude each other", "a server answers as it was started")


def _judge_served(args: argparse.Namespace, console: Console) -> int:
    """Judge what a server answers, and print it in the form of a checkpoint's."""
    from imagesprint.evaluating.served import evaluate_served  # imports torch

    evaluated, model = evaluate_served(args.url, args.data, args.variant, console)
    _show(args, [evaluated], f"served at {args.url} by {model.runtime}", {"url": args.url, "runtime": model.runtime})
    return 0


def _show(
    args: argparse.Namespace,
    evaluated: "Sequence[EvaluatedCheckpoint]",
    lead: str = "best",
    facts: Mapping[str, object] | None = None,
) -> None:
    """Print all and the best, `lead` before it; `facts` are further keys of each."""
    if not evaluated:
        raise RunError("there was no checkpoint left to judge", "name a run whose training wrote one")
    best = max(evaluated, key=lambda one: (one.top1, one.top5, one.step))
    top1 = f"top-1 {best.top1:.2f}%{of_classes(best.top1, best.mean_class_accuracy)}"
    lines = [_table(evaluated), f"{lead}: {best.path}, {top1} in {best.precision}"]
    if best.views:
        lines += ["", _views(evaluated)]
    if args.per_class:
        lines += ["", _classes(best.details)]
    value = {"checkpoints": [_entry(one, facts, args.per_class) for one in evaluated], "best": _entry(best, facts)}
    show(args, value, "\n".join(lines))


def _entry(
    one: "EvaluatedCheckpoint", facts: Mapping[str, object] | None, with_details: bool = False
) -> dict[str, object]:
    entry = {key: value for key, value in vars(one).items() if with_details or key != "details"}
    return entry | dict(facts or {})


def _table(evaluated: "Sequence[EvaluatedCheckpoint]") -> str:
    columns: dict[str, list[object]] = {
        "checkpoint": [one.path for one in evaluated],
        "step": [one.step for one in evaluated],
        "epoch": [f"{one.epoch:g}" for one in evaluated],
        "images": [one.num_images for one in evaluated],
        "top-1 %": [f"{one.top1:.2f}" for one in evaluated],
    }
    if any(classes_differ(one.top1, one.mean_class_accuracy) for one in evaluated):
        columns["mean of classes %"] = [f"{one.mean_class_accuracy:.2f}" for one in evaluated]
    columns["top-5 %"] = [f"{one.top5:.2f}" for one in evaluated]
    columns["loss"] = [f"{one.loss:.4f}" for one in evaluated]
    return table(list(columns), list(zip(*columns.values(), strict=True)))


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
