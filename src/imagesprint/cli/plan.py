"""`imagesprint plan`."""

import argparse
import math
from pathlib import Path

from imagesprint.cli.output import show
from imagesprint.cli.parsing import (
    Parser,
    add_compile_flag,
    add_device_flags,
    add_set_flag,
    add_verb,
    check_plot,
    positive,
)
from imagesprint.cli.plan_text import plan_text
from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.overrides import apply_overrides
from imagesprint.recipes.validation import check_world_size
from imagesprint.runs.environment import is_main_rank
from imagesprint.runs.processes import is_launcher, run_ranks

EXAMPLES = """\
  imagesprint plan small --data ROOT
  imagesprint plan small --data ROOT --processes 2 --price 4.00 --plot plan.png
  imagesprint plan minutes104 --gpus 8 --gpu h200 --price 32.00
  imagesprint plan my.toml --gpus 4 --gpu a100 --num-train 50000 --json"""

DESCRIPTION = """\
Say what a training will take: steps, time, memory, disk and cost, what limits each phase, and when a reference's
accuracies are reached. With --data it measures some steps of each phase, an evaluation and a checkpoint on this machine
in about half a minute, and keeps that below ~/.cache/imagesprint (or $XDG_CACHE_HOME) for the next time and for
`train`. With --gpu it takes speeds that were published for such GPUs, or follow from those."""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "plan", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("recipe", metavar="RECIPE", help="a built-in's name or a .toml file")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="what imagesprint prepare made")
    add_device_flags(parser)
    add_compile_flag(parser)
    add_set_flag(parser)
    parser.add_argument("--gpu", metavar="NAME", help="another machine's GPUs: v100, a100, h100, h200")
    parser.add_argument("--gpus", type=positive, metavar="N", help="how many of them")
    parser.add_argument("--num-train", type=positive, metavar="N", help="training images, where there is no --data")
    parser.add_argument("--price", type=_price, metavar="AMOUNT", help="what an hour of the machine costs")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the time line, too")


def _price(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no price of an hour")
    return value


def run(args: argparse.Namespace, console: Console) -> int:
    """Plan, on this machine in one process or in several, or for another one; print the plan."""
    recipe = apply_overrides(load_recipe(args.recipe), args.set)
    _check(args)
    check_world_size(recipe, args.processes)
    if is_launcher(args.processes):
        return run_ranks(args.processes, args.words)
    from imagesprint.measuring.planning.planning import plan_elsewhere, plan_here  # imports torch

    if args.gpu is not None:
        result = plan_elsewhere(recipe, args.num_train, args.data, args.gpu.lower(), args.gpus)
    else:
        result = plan_here(recipe, args.data, args.device, args.compile, console)
    if not is_main_rank():
        return 0
    if args.price is not None:
        cost = args.price * result["total_seconds"] / 3600
        result |= {"price_per_hour": args.price, "cost": cost}
    if args.plot is not None:
        from imagesprint.measuring.planning.plan_plot import save_plan_plot  # imports matplotlib

        save_plan_plot(result, args.plot)
        console.line(f"drawn in {args.plot}")
    show(args, result, plan_text(result))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise UsageError for flags that do not go together."""
    check_plot(args)
    if args.gpu is None and args.gpus is None:
        if args.data is None:
            raise UsageError(
                "there is nothing to measure without --data ROOT",
                "give it, or name another machine's GPUs, as --gpus 8 --gpu h200, to plan by published speeds",
            )
    elif args.gpu is None or args.gpus is None:
        raise UsageError("--gpu and --gpus belong together", "write both, as --gpus 8 --gpu h200")
    elif args.processes != 1:
        raise UsageError(
            f"--processes {args.processes} and --gpus {args.gpus} exclude each other",
            "--processes is for this machine, --gpus for another one: leave one of them out",
        )
    if args.data is not None and args.num_train is not None:
        raise UsageError("--data and --num-train exclude each other", "leave --num-train out: ROOT knows its images")
