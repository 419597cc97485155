"""`imagesprint doctor`."""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagesprint.cli.output import show
from imagesprint.cli.parsing import Parser, add_verb
from imagesprint.console import Console

if TYPE_CHECKING:
    from imagesprint.measuring.doctor.check import Check

EXAMPLES = """\
  imagesprint doctor                       # this machine and installation; the run is to lie in this folder
  imagesprint doctor --data ROOT           # also whether its shards fit the limit of open files
  imagesprint doctor RUN                   # what can cost a run accuracy
  imagesprint doctor RUN --data ROOT       # also by a look at the images that it was trained on"""

DESCRIPTION = """\
Say what is right and what is wrong here, and what to do about it. Without RUN: Python, PyTorch, devices, cores,
memory, disk, decoder, packages, ranks and ports. With RUN, what costs accuracy, as docs/accuracy.md has it.
Exits 3 where something will not work; a warning alone is no failure."""

_WIDTH = 100
_INDENT = 28  # of what follows status and name


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "doctor", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("run_directory", nargs="?", type=Path, metavar="RUN", help="the --output of a training")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="what is or was trained on")


def run(args: argparse.Namespace, _: Console) -> int:
    """Look; print what was found."""
    from imagesprint.measuring.doctor.check import has_failed

    value = _look_at_machine(args) if args.run_directory is None else _look_at_run(args)
    show(args, value, _as_text(value["checks"]))
    return 3 if has_failed(value["checks"]) else 0


def _look_at_machine(args: argparse.Namespace) -> dict[str, Any]:
    from imagesprint.measuring.doctor.machine_checks import machine_checks

    return {"checks": machine_checks(Path.cwd(), args.data), "bottleneck": None}


def _look_at_run(args: argparse.Namespace) -> dict[str, Any]:
    from imagesprint.measuring.doctor.accuracy_checks import accuracy_checks  # imports torch

    return {"checks": accuracy_checks(args.run_directory, args.data), "bottleneck": None}


def _as_text(checks: Sequence["Check"]) -> str:
    lines = [line for check in checks for line in _lines(check)]
    counts = {status: sum(check.status == status for check in checks) for status in ("failure", "warning")}
    found = [f"{count} {status}{'' if count == 1 else 's'}" for status, count in counts.items() if count]
    return "\n".join([*lines, "", ", ".join(found) if found else "all is well"])


def _lines(check: "Check") -> list[str]:
    """Status, name and detail, wrapped, and the hint below them."""
    head = f"{check.status:<9}{check.name:<{_INDENT - 11}}  "
    lines = textwrap.wrap(check.detail, _WIDTH, initial_indent=head, subsequent_indent=" " * _INDENT)
    if check.hint:
        arrow = " " * _INDENT + "→ "
        lines += textwrap.wrap(check.hint, _WIDTH, initial_indent=arrow, subsequent_indent=" " * (_INDENT + 2))
    return lines
