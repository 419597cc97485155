"""`imagesprint plan`: its flags and what it prints, at most 100 columns wide."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imagesprint.cli.bench import rate
from imagesprint.cli.output import show, table
from imagesprint.cli.parsing import (
    Parser,
    add_cache_flags,
    add_compile_flag,
    add_device_flags,
    add_set_flag,
    add_verb,
    check_plot,
    positive,
    price,
    recipe_named,
)
from imagesprint.console import Console, duration, printable, size
from imagesprint.errors import UsageError
from imagesprint.recipes.serialization import apply_overrides
from imagesprint.recipes.validation import check_world_size
from imagesprint.runs.processes import is_launcher, run_ranks
from imagesprint.storage.url import parse_place

if TYPE_CHECKING:
    from imagesprint.diagnosis.planning import CalibrationFile, Plan, PlannedCheckpoints, PlannedPhase


def plan_text(plan: "Plan", price: float | None = None) -> str:
    """Return the result of `plan`."""
    from imagesprint.diagnosis.storage_text import storage_lines  # numpy: not for --help

    plural = "s" if plan.ranks > 1 else ""
    machine = f"{plan.ranks} × {plan.machine}"
    if plan.calibration is not None:
        machine = f"{plan.ranks} rank{plural} of this machine: {plan.machine}"
    lines = [
        f"{printable(plan.recipe)}: {plan.model}, {plan.epochs:g} epochs of {plan.num_train:,} images",
        f"on {machine}",
        "",
        _phases(plan.phases),
        "",
        *(_besides(plan) if plan.calibration is not None else ()),
        _disk(plan.checkpoints),
        _total(plan.total_seconds, price),
        *([f"            or less: {plan.patience} evaluations without a better top-1 end it"] if plan.patience else ()),
        *storage_lines(plan.storage),
        *_reached(plan),
        *(_sources(plan) if plan.calibration is None else _calibration(plan.calibration)),
    ]
    return "\n".join(lines)


def _phases(phases: "list[PlannedPhase]") -> str:
    is_frozen = any(row.freeze != "none" for row in phases)
    header = ["phase", "steps", "images", "px", "batch", *(["frozen"] if is_frozen else [])]
    header += ["images/s", "time", "limited by"]
    rows: list[list[object]] = [
        [
            index,
            *(row.steps, row.images, row.image_size, row.batch_size),
            *([row.freeze] if is_frozen else []),
            rate(row.images_per_second),
            duration(row.seconds),
            row.limited_by,
            ("derived" if row.derived else "published") if row.memory is None else round(row.memory / 1e9, 2),
        ]
        for index, row in enumerate(phases)
    ]
    return table([*header, "speed" if phases[0].memory is None else "memory, GB"], rows)


def _besides(plan: "Plan") -> list[str]:
    """What a calibration knows beside the phases."""
    features = f", of which {plan.features_seconds:.1f} s for features" if plan.features_seconds else ""
    lines = [f"start-up    {plan.start_up_seconds:.1f} s{features}"]
    for name, part in (("evaluations", plan.evaluations), ("checkpoints", plan.checkpoints)):
        lines.append(f"{name} {part.count:,} of {part.seconds / part.count:.2f} s: {duration(part.seconds)}")
    return lines


def _disk(checkpoints: "PlannedCheckpoints") -> str:
    each, together = size(checkpoints.bytes), size(checkpoints.bytes_on_disk)
    return f"disk        {checkpoints.count:,} checkpoints of {each}: {together} if all are kept"


def _total(seconds: float, price: float | None) -> str:
    text = f"in all      {duration(seconds)} ({seconds:,.0f} s)"
    return text if price is None else f"{text}, {_cost(price, seconds):,.2f} at {price:,.2f} an hour"


def _cost(price: float, seconds: float) -> float:
    return price * seconds / 3600


def _reached(plan: "Plan") -> list[str]:
    """When the reference's accuracies are."""
    lines = []
    for point in plan.accuracies:
        top5 = f", top-5 {point['top5']:g}%" if "top5" in point else ""
        lines.append(f"reference   {plan.reference}: top-1 {point['top1']:g}%{top5} after {duration(point['seconds'])}")
    return lines


def _calibration(calibration: "CalibrationFile") -> list[str]:
    when = "just now" if calibration.is_new else f"on {calibration.made}"
    if calibration.disturbed:
        return [f"speeds      measured {when},", f"            {calibration.disturbed}"]
    rest = ", and kept in" if calibration.is_new else "; to measure again, delete"
    return [f"speeds      measured {when}{rest}", f"            {calibration.file}"]


def _sources(plan: "Plan") -> list[str]:
    lines: list[str] = []
    for source in dict.fromkeys(row.source for row in plan.phases):
        rows = [(index, row.derived) for index, row in enumerate(plan.phases) if row.source == source]
        lines.append(f"speeds      {source}")
        lines += [f"            derived for phase {index}: {derived}" for index, derived in rows if derived]
    return [
        *lines,
        "limits      assumed: those who publish speeds feed their GPUs fast enough",
        f"not in it   {', '.join(plan.not_included)}: nobody published what they take",
    ]


EXAMPLES = """\
  imagesprint plan small --data ROOT
  imagesprint plan small --data ROOT --processes 2 --price 4.00 --plot plan.png
  imagesprint plan minutes104 --data s3://BUCKET/ROOT --output s3://BUCKET/RUN
  imagesprint plan minutes104 --gpus 8 --gpu h200 --price 32.00
  imagesprint plan my.toml --gpus 4 --gpu a100 --num-train 50000 --json"""

DESCRIPTION = """\
Say what a training will take: steps, time, memory, disk and cost, what limits each phase, and when a reference's
accuracies are reached. With --data it measures some steps of each phase, an evaluation and a checkpoint on this machine
in about half a minute, and keeps that below ~/.cache/imagesprint (or $XDG_CACHE_HOME) for the next time and for
`train`. Where ROOT or RUN is a URL, it also measures that store, and says how much is fetched and sent, how long that
takes, what of it the cache has room for, and what the requests cost. With --gpu it takes speeds that were published for
such GPUs, or follow from those."""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "plan", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("recipe", metavar="RECIPE", help="a built-in's name or a .toml file")
    parser.add_argument("--data", type=parse_place, metavar="ROOT", help="what imagesprint prepare made")
    parser.add_argument("--output", type=parse_place, metavar="RUN", help="where the run is to lie, if that is a URL")
    add_device_flags(parser)
    add_cache_flags(parser)
    add_compile_flag(parser)
    add_set_flag(parser)
    parser.add_argument("--gpu", metavar="NAME", help="another machine's GPUs: v100, a100, h100, h200")
    parser.add_argument("--gpus", type=positive, metavar="N", help="how many of them")
    parser.add_argument("--num-train", type=positive, metavar="N", help="training images, where there is no --data")
    parser.add_argument("--price", type=price, metavar="AMOUNT", help="what an hour of the machine costs")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the time line, too")


def run(args: argparse.Namespace, console: Console) -> int:
    """Plan, on this machine in one process or in several, or for another one; print the plan."""
    recipe = apply_overrides(recipe_named(args.recipe), args.set)
    _check(args)
    check_world_size(recipe, args.processes)
    if is_launcher(args.processes):
        return run_ranks(args.processes, args.words)
    from imagesprint.diagnosis.planning import plan_elsewhere, plan_here  # imports torch

    if args.gpu is not None:
        places = args.data, args.output
        plan: Plan | None = plan_elsewhere(recipe, args.num_train, *places, args.gpu.lower(), args.gpus)
    else:
        plan = plan_here(recipe, args.data, args.output, args.device, args.compile, console)
    if plan is None:  # another rank prints it
        return 0
    value = plan.as_json()
    if args.price is not None:
        value |= {"price_per_hour": args.price, "cost": _cost(args.price, plan.total_seconds)}
    if args.plot is not None:
        from imagesprint.diagnosis.plots import save_plan_plot  # imports matplotlib

        save_plan_plot(plan, args.plot)
        console.line(f"drawn in {args.plot}")
    show(args, value, plan_text(plan, args.price))
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
