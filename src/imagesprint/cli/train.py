"""`imagesprint train`."""

import argparse
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from imagesprint.cli.output import show
from imagesprint.cli.parsing import (
    Parser,
    add_cache_flags,
    add_compile_flag,
    add_device_flags,
    add_set_flag,
    add_verb,
    positive,
    recipe_named,
)
from imagesprint.cli.sagemaker_job import delivering, words_of_job
from imagesprint.console import Console, duration, printable
from imagesprint.errors import UsageError
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import apply_overrides
from imagesprint.recipes.validation import check_world_size
from imagesprint.runs import sagemaker
from imagesprint.runs.environment import command_age, end_stopped, is_main_rank
from imagesprint.runs.processes import all_ranks, is_launcher, run_ranks
from imagesprint.runs.rows import of_classes
from imagesprint.storage.url import Place, parse_place

if TYPE_CHECKING:
    from imagesprint.records.dataset import Root

EXAMPLES = """\
  imagesprint train small --data ROOT --output RUN
  imagesprint train minutes104 --data ROOT --output RUN --processes 8
  imagesprint train small --data ROOT --output RUN --set seed=3 --set 'phases.*.micro_batch=16'
  imagesprint train small --data ROOT --output RUN --set init=other/checkpoints/step-0000660.pt
  imagesprint train my.toml --data ROOT --output RUN --dry-run
  imagesprint train small --data ROOT --output RUN --checkpoint-every 500 --keep last:3,best
  imagesprint train small --data ROOT --output s3://bucket/runs/first
  imagesprint train small --data ROOT --output RUN     # again, after a crash: goes on where it stopped
  srun --ntasks=8 imagesprint train small --data ROOT --output RUN     # each task of SLURM's is a rank"""


DESCRIPTION = """\
Train a recipe on prepared data; resumes what was begun. In the container of a SageMaker training job `train` alone is
enough: its hyperparameters, channels and folders say the rest."""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "train", DESCRIPTION, EXAMPLES, run)
    add, needed = parser.add_argument, not sagemaker.is_job()  # which says all three
    add("recipe", metavar="RECIPE", nargs=None if needed else "?", help="a built-in's name or a .toml file")
    add("--data", type=parse_place, required=needed, metavar="ROOT", help="what imagesprint prepare made")
    add("--output", type=parse_place, required=needed, metavar="RUN", help="a run directory, or a URL")
    add_device_flags(parser)
    add_set_flag(parser)
    parser.add_argument(
        "--resume",
        choices=("auto", "never", "require"),
        default="auto",
        help="auto: go on where RUN stopped, or start; never: only start; require: only go on",
    )
    parser.add_argument(
        "--checkpoint-every", type=_steps_or_epoch, default=None, metavar="STEPS|epoch", help="default: epoch"
    )
    parser.add_argument(
        "--keep",
        default="all",
        metavar="RULE",
        help="which checkpoints stay beside the newest: all, or last:N, epochs:K, best, or several: last:3,best",
    )
    parser.add_argument(
        "--rank-timeout",
        type=positive,
        default=300,
        metavar="SECONDS",
        help="end the run, naming the rank, where one keeps the others waiting for so long; default 300",
    )
    add_compile_flag(parser)
    parser.add_argument("--stop-after", type=positive, metavar="STEPS", help="end after this step of the run, saved")
    add_cache_flags(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and end")


def _steps_or_epoch(text: str) -> int | None:
    return None if text == "epoch" else positive(text)


def run(args: argparse.Namespace, console: Console) -> int:
    """Train, in this process or in several; print the result."""
    from imagesprint.checkpoints.retention import Retention
    from imagesprint.records.dataset import open_root  # numpy: not for --help

    args = _completed(args)
    end_stopped()
    recipe, keep = apply_overrides(recipe_named(args.recipe), args.set), Retention.parse(args.keep)
    root = open_root(args.data)
    if is_launcher(args.processes):
        check_world_size(recipe, all_ranks(args.processes))
        if not args.dry_run:
            return run_ranks(args.processes, args.words)
    if args.dry_run:
        return _dry_run(args, recipe, root, console)
    from imagesprint.diagnosis.planning import known_plan  # imports torch
    from imagesprint.training.training import TrainingOptions, train

    options = TrainingOptions(
        args.device, args.resume, args.checkpoint_every, args.stop_after, keep, args.rank_timeout, args.compile
    )
    planner = partial(known_plan, output=args.output, checkpoint_every=args.checkpoint_every)
    is_main = is_main_rank()
    with delivering(args.output, console) if is_main and sagemaker.is_job() else nullcontext():
        result = train(recipe, args.data, args.output, options, console, planner, command_age())
    if is_main:
        show(args, result, summary(args.output, result))
    return 0


def _completed(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with what the job says, where RECIPE is left away in a container of SageMaker's."""
    if args.recipe is None:
        words = ["train", *words_of_job(args.words[1:])]
        parser = Parser(prog="imagesprint")
        add_parser(parser.add_subparsers(parser_class=Parser))
        args = parser.parse_args(words, argparse.Namespace(words=words, json=False, quiet=False, verbose=False))
    elif args.data is None or args.output is None:
        raise UsageError(
            "RECIPE is given without --data and --output", "give all three, or none: then the job says them"
        )
    return args


def _dry_run(args: argparse.Namespace, recipe: Recipe, root: "Root", console: Console) -> int:
    from imagesprint.recipes.schedule import Schedule
    from imagesprint.runs.directory import RunDirectory, check_run, resolve_precision
    from imagesprint.runs.local_run import local_run
    from imagesprint.training.progress import show_recipe

    with local_run(args.output, console, newest=True) as path:
        check_run(path, resolve_precision(recipe, RunDirectory(path), recipe.precision), args.resume)
    schedule = Schedule(recipe, len(root.dataset(root.nearest(recipe.phases[0].source), "train")))
    show_recipe(console, recipe, schedule, all_ranks(args.processes))
    text = f"nothing was trained: leave --dry-run away to train {schedule.total_steps:,} steps into {args.output}"
    show(args, {"dry_run": True, "steps": schedule.total_steps, "output": str(args.output)}, printable(text))
    return 0


def summary(run: Place, result: dict[str, Any]) -> str:
    """What a training came to and what to do next, for a person."""
    seconds, speed = result["wall_seconds"], result["images_per_second"]
    lines = [
        f"trained     {result['steps']:,} steps, {result['epochs']:g} epochs in {duration(seconds)}, "
        f"{speed:,.0f} images/s" + (", ended early by patience" if result["ended_early"] else "")
    ]
    if result["top1"] is not None:
        top1 = f"top-1 {result['top1']:.2f}%{of_classes(result['top1'], result['mean_class_accuracy'])}"
        lines.append(f"accuracy    {top1}, top-5 {result['top5']:.2f}%, loss {result['loss']:.4f}")
    lines.append(f"checkpoint  {result['checkpoint']}")
    lines.append(f"next        imagesprint report {run}")
    return "\n".join(map(printable, lines))
