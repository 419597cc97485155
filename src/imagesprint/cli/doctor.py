"""`imagesprint doctor`."""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imagesprint.cli.output import show, table
from imagesprint.cli.parsing import (
    Parser,
    add_cache_flags,
    add_compile_flag,
    add_device_flags,
    add_set_flag,
    add_verb,
    recipe_named,
)
from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.runs.environment import is_main_rank
from imagesprint.runs.processes import is_launcher, run_ranks
from imagesprint.storage.url import Place, parse_place

if TYPE_CHECKING:
    from imagesprint.diagnosis.check import Check
    from imagesprint.diagnosis.doctor import PhaseDiagnosis
    from imagesprint.recipes.recipe import Recipe

EXAMPLES = """\
  imagesprint doctor                       # this machine and installation; the run is to lie in this folder
  imagesprint doctor --data ROOT           # also whether its shards fit the limit of open files
  imagesprint doctor small --data ROOT     # measure each stage of this training: which is the narrowest?
  imagesprint doctor minutes104 --data ROOT --processes 8
  imagesprint doctor --data s3://BUCKET/ROOT   # also the store: credentials, clock, speed, and the cache's room
  imagesprint doctor s3://BUCKET/RUN       # a run in a store, or a place for one: also whether it can be written
  imagesprint doctor RUN                   # the same from a run's logs, also while it runs; and what costs it accuracy
  imagesprint doctor RUN --data ROOT       # also by a look at the images that it was trained on"""

DESCRIPTION = """\
Say what is right and what is wrong here, and what to do about it. Without RECIPE or RUN: Python, PyTorch, devices,
cores, memory, disk, decoder, packages, ranks and ports. With RECIPE and --data: which stage of that training is the
narrowest on this machine, by how much, and what would help; each is measured alone and together with the others, which
takes a minute or so. With RUN, the same from its logs, and what costs it accuracy, as docs/accuracy.md has it.
Exits 3 where something will not work; a warning alone is no failure."""

_WIDTH = 100
_INDENT = 28  # of what follows status and name


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "doctor", DESCRIPTION, EXAMPLES, run)
    parser.add_argument(
        "target",
        nargs="?",
        metavar="RECIPE|RUN",
        help="a built-in's name or a .toml file, or the --output of a training",
    )
    parser.add_argument("--data", type=parse_place, metavar="ROOT", help="what is or was trained on")
    add_device_flags(parser)
    add_cache_flags(parser)
    add_compile_flag(parser)
    add_set_flag(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Look; print what was found."""
    if args.target is None:
        from imagesprint.diagnosis.installation import machine_checks

        return _show(args, machine_checks(Path.cwd(), args.data), None)
    place = parse_place(args.target)
    if _is_run(place):
        from imagesprint.diagnosis.accuracy import accuracy_checks  # imports torch
        from imagesprint.diagnosis.doctor import diagnose_run
        from imagesprint.diagnosis.store_checks import run_store_checks
        from imagesprint.runs.local_run import local_run

        of_store, is_run = ([], True) if isinstance(place, Path) else run_store_checks(place)
        if not is_run:
            return _show(args, of_store, None)
        with local_run(place, console, newest=True) as path:
            found = diagnose_run(path, args.data)
            checks = [check.naming(path, place) for check in found.checks + accuracy_checks(path, args.data)]
        return _show(args, [*checks, *of_store], found.bottleneck, phases=found.phases)
    recipe = _recipe(args)
    if is_launcher(args.processes):
        return run_ranks(args.processes, args.words)
    from imagesprint.diagnosis.doctor import diagnose_recipe  # imports torch

    found, setup = diagnose_recipe(recipe, args.data, args.device, args.compile, console)
    if not is_main_rank():
        return 0
    return _show(args, found.checks, found.bottleneck, phases=found.phases, data=args.data, **vars(setup))


def _is_run(target: Place) -> bool:
    """Whether that names a run: a folder, but for one that only happens to be called like a recipe, or its URL."""
    from imagesprint.recipes.library import builtin_names

    if not isinstance(target, Path):
        return target.suffix != ".toml"
    return target.is_dir() and (str(target) not in builtin_names() or (target / "recipe.toml").exists())


def _recipe(args: argparse.Namespace) -> "Recipe":
    from imagesprint.recipes.serialization import apply_overrides
    from imagesprint.recipes.validation import check_world_size

    if len(Path(args.target).parts) > 1 and not args.target.endswith(".toml"):
        raise UsageError(
            f"{args.target} is neither a run nor a recipe",
            "a run is the --output of a training; a recipe ends in .toml",
        )
    recipe = apply_overrides(recipe_named(args.target), args.set)
    if args.data is None:
        raise UsageError(f"doctor {args.target}: there is no data to measure with", "add --data ROOT")
    check_world_size(recipe, args.processes)
    return recipe


def _show(
    args: argparse.Namespace,
    checks: "Sequence[Check]",
    bottleneck: str | None,
    phases: "Sequence[PhaseDiagnosis] | None" = None,
    **more: object,
) -> int:
    """Print what was found, and `more` as JSON alone; return the exit code."""
    from imagesprint.diagnosis.check import has_failed

    lines = [line for phase in phases or () for line in _stages(phase)]
    lines += [line for check in checks for line in _lines(check)]
    counts = {status: sum(check.status == status for check in checks) for status in ("failure", "warning")}
    found = [f"{count} {status}{'' if count == 1 else 's'}" for status, count in counts.items() if count]
    if bottleneck is not None:
        found.insert(0, f"the narrowest is {bottleneck}")
    value = {"checks": checks, "bottleneck": bottleneck, **more} | ({} if phases is None else {"phases": phases})
    show(args, value, "\n".join([*lines, "", ", ".join(found) if found else "all is well"]))
    return 3 if has_failed(checks) else 0


def _stages(phase: "PhaseDiagnosis") -> list[str]:
    """The stages of a phase, the narrowest first."""
    ranks = f"{phase.world_size} rank{'' if phase.world_size == 1 else 's'}"
    head = (
        f"phase {phase.phase}: {phase.images_per_second:,.0f} images/s by {ranks} with {phase.threads} "
        f"{phase.decoder} decoding thread{'' if phase.threads == 1 else 's'}"
    )
    rows = [
        [
            limit.name,
            "" if limit.images_per_second is None else f"{limit.images_per_second:,.0f}",
            f"{1e3 * limit.seconds:,.1f} ms",
            f"{limit.gain:+.0%}",
        ]
        for limit in phase.limits
    ]
    body = table(["stage", "images/s", "a step", "were it free*"], rows).splitlines()
    return [head, *body, "* compute: were it twice as fast", ""]


def _lines(check: "Check") -> list[str]:
    """Status, name and detail, wrapped, and the hint below them."""
    head = f"{check.status:<9}{check.name:<{_INDENT - 11}}  "
    lines = textwrap.wrap(check.detail, _WIDTH, initial_indent=head, subsequent_indent=" " * _INDENT)
    if check.hint:
        arrow = " " * _INDENT + "→ "
        lines += textwrap.wrap(check.hint, _WIDTH, initial_indent=arrow, subsequent_indent=" " * (_INDENT + 2))
    return lines
