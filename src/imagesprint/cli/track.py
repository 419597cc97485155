"""`imagesprint track`."""

import argparse

from imagesprint.cli.output import show
from imagesprint.cli.parsing import Parser, add_cache_flags, add_verb
from imagesprint.console import Console, printable
from imagesprint.storage.url import parse_place
from imagesprint.tracking import TRACKERS

EXAMPLES = """\
  imagesprint track RUN --to mlflow                     # where MLFLOW_TRACKING_URI says
  imagesprint track RUN --to wandb --follow             # beside a training, until it ends
  imagesprint track s3://bucket/runs/first --to wandb   # into files, with WANDB_MODE=offline
  imagesprint track RUN --to trackio"""

DESCRIPTION = """\
Send what a run has logged to a tracker: every row of metrics.jsonl and evaluations.jsonl once, with its step and its
time, the recipe, recipe.toml, result.json and the report; of checkpoints the best one's name. It reads the run from
outside, from any machine: no training waits for a tracker or fails by one. Given again, it sends what is missing. The
tracker's own variables and files say where it is and who you are; the project is `imagesprint` unless they name one."""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "track", DESCRIPTION, EXAMPLES, run)
    add = parser.add_argument
    add("place", type=parse_place, metavar="RUN", help="the --output of a training, also at a URL")
    add("--to", required=True, choices=TRACKERS, help="needs pip install 'imagesprint[NAME]'")
    add("--follow", action="store_true", help="go on with each new row until the training ends")
    add_cache_flags(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Send the rows; print where they are."""
    from imagesprint.tracking.following import track

    done = track(args.place, args.to, args.follow, console)
    rows = "1 row" if done.rows == 1 else f"{done.rows:,} rows"
    show(args, done, printable(f"tracked     {rows} sent; the run is {done.run_is}: {done.where}"))
    return 0
