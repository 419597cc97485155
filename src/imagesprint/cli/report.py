"""`imagesprint report`."""

import argparse
from pathlib import Path

from imagesprint.cli.output import show
from imagesprint.cli.parsing import Parser, add_verb
from imagesprint.console import Console

EXAMPLES = "  imagesprint report RUN"


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "report", "Write RUN/report.html and the plots in RUN/plots.", EXAMPLES, run)
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="the --output of a training")


def run(args: argparse.Namespace, _: Console) -> int:
    """Write the report; print where it lies."""
    from imagesprint.measuring.report import write_report  # imports matplotlib and torch

    report = write_report(args.run_directory)
    show(args, {"report": report}, f"report      {report}")
    return 0
