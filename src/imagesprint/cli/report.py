"""`imagesprint report`."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from imagesprint.cli.output import show, table
from imagesprint.cli.parsing import Parser, add_cache_flags, add_verb
from imagesprint.console import Console, printable
from imagesprint.errors import UsageError
from imagesprint.storage.url import parse_place

if TYPE_CHECKING:
    from imagesprint.report.comparison import Comparison
    from imagesprint.report.repetitions import Contrast, Experiment

EXAMPLES = """\
  imagesprint report RUN
  imagesprint report RUN --data ROOT                    # with pictures of the worst mistakes
  imagesprint report RUN --reference minutes104 --price 24.50
  imagesprint report s3://bucket/runs/first             # written there
  imagesprint report RUN OTHER_RUN THIRD_RUN            # side by side; seeds of one recipe with mean and spread"""

DESCRIPTION = """\
Write RUN/report.html, one page that opens anywhere without a network, and RUN/model-card.md; with matplotlib (pip
install 'imagesprint[plots]') also the plots in RUN/plots. Of several runs, RUN/comparison.html instead: runs of one
recipe but for its seed are repetitions, whose figures have a mean and a standard deviation; of two recipes it says
whether they differ by more than that."""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "report", DESCRIPTION, EXAMPLES, run)
    add = parser.add_argument
    add("runs", nargs="+", type=parse_place, metavar="RUN", help="the --output of a training; of several, a comparison")
    add(
        "--reference",
        metavar="NAME|RUN",
        help="minutes104, classic, torchvision, ffcv or a run; default on ImageNet: that of the recipe",
    )
    add("--data", type=parse_place, metavar="ROOT", help="what the run was evaluated on, for pictures")
    add_cache_flags(parser)
    add("--price", type=float, metavar="AMOUNT", help="what an hour of the machine costs")


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the report; print where it lies, and of several runs their figures."""
    from imagesprint.report.comparison import write_comparison  # these import torch
    from imagesprint.report.report import write_report
    from imagesprint.runs.local_run import local_run

    if len(args.runs) > 1 and (args.reference, args.data, args.price) != (None, None, None):
        raise UsageError("--reference, --data and --price are for the report of one run", "name one run, or leave them")
    value: dict[str, object] = {}
    lines: list[str] = []
    with ExitStack() as stack:
        runs = [stack.enter_context(local_run(run, console, newest=True)) for run in args.runs]
        if len(runs) > 1:
            done = write_comparison(runs, console)
            report = done.path
            value = {
                "experiments": [_experiment(one) for one in done.experiments],
                "differences": [_contrast(one) for one in done.contrasts],
            }
            lines = _told(done)
        else:
            reference = _reference(args.reference, stack, console)
            report = write_report(runs[0], console, reference, args.data, args.price)
        place = args.runs[0] / report.name
    show(args, {"report": str(place)} | value, "\n".join([*lines, printable(f"report      {place}")]))
    return 0


def _told(done: "Comparison") -> list[str]:
    """Means and spreads of what was evaluated, and by how much accuracies differ."""
    from imagesprint.report.repetitions import ACCURACIES, EVALUATED, told

    figures = [figure for figure in told(done.experiments) if figure.key in EVALUATED]
    rows = [
        (
            one.name,
            len(one.runs),
            *(one.spreads[each.key].text(each.format) if each.key in one.values else "" for each in figures),
        )
        for one in done.experiments
    ]
    shown = [one for one in done.contrasts if one.figure in figures and one.figure.key in ACCURACIES]
    header = ["recipe", "runs", *(each.title.replace(",", "") for each in figures)]
    return [table(header, rows), *(one.sentence for one in shown)]


def _experiment(one: "Experiment") -> dict[str, object]:
    runs = [{"run": name, "seed": record.recipe.seed} for name, record in one.runs]
    return {"recipe": one.name, "runs": runs, "epoch": one.epoch, "figures": one.spreads}


def _contrast(one: "Contrast") -> dict[str, object]:
    told = {key: getattr(one, key) for key in ("a", "b", "difference", "interval", "exceeds", "sentence")}
    return {"figure": one.figure.key, **told}


def _reference(name: str | None, stack: ExitStack, console: Console) -> str | None:
    """The name of a published run as it is, that of a run as a path."""
    from imagesprint.runs.local_run import local_run

    place = parse_place(name or "")
    return name if isinstance(place, Path) else str(stack.enter_context(local_run(place, console)))
