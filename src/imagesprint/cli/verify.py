"""`imagesprint verify DATA`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imagesprint.cli.output import show, table
from imagesprint.cli.parsing import Parser, add_verb
from imagesprint.console import Console
from imagesprint.errors import CheckError

if TYPE_CHECKING:
    from imagesprint.records.verify import Problem, SplitCounts

EXAMPLES = """\
  imagesprint verify data                  # every variant
  imagesprint verify data/320 --decode     # one variant; decode every image too
  imagesprint verify data --json           # every problem, and the images of each class"""

_SHOWN = 20  # problems printed as text; --json has them all


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    description = "Check every checksum of prepared data, and that shards, index and labels agree. Exits 3 if not."
    parser = add_verb(subparsers, "verify", description, EXAMPLES, run)
    parser.add_argument("data", metavar="DATA", type=Path, help="a prepared ROOT or one of its variants")
    parser.add_argument("--decode", action="store_true", help="decode every image as well")


def run(args: argparse.Namespace, console: Console) -> int:
    """Verify and print what was found."""
    from imagesprint.records.verify import verify  # numpy: not for --help

    found = verify(args.data, console, _image_size if args.decode else None)
    value = {"path": found.path, "ok": not found.problems, "splits": found.splits, "problems": found.problems}
    header = ["variant", "split", "images", "shards", "bytes", "classes", "images a class"]
    text = [table(header, [_row(counts) for counts in found.splits])] if found.splits else []
    if found.problems:
        text += [f"{len(found.problems)} problems:", *(_line(problem) for problem in found.problems[:_SHOWN])]
        if len(found.problems) > _SHOWN:
            text.append(f"  … and {len(found.problems) - _SHOWN} more; --json lists all")
    else:
        text.append("no damage found" + ("" if args.decode else "; --decode decodes every image as well"))
    show(args, value, "\n".join(text))
    if not found.problems:
        return 0
    failure = CheckError(
        f"{args.data} is damaged: {_line(found.problems[0]).strip()}",
        "delete the folder of the damaged variant and give its prepare command again",
    )
    if args.json:  # one JSON value is printed already, and it says so
        return failure.exit_code
    raise failure


def _image_size(encoded: bytes) -> tuple[int, int]:
    from imagesprint.images.coding import open_image  # Pillow: not for --help

    image = open_image(encoded)
    return image.height, image.width


def _row(counts: "SplitCounts") -> list[object]:
    present = [count for count in counts.class_counts.values() if count]
    a_class = f"{min(present):,}–{max(present):,}" if present else "0"
    return [
        counts.variant,
        counts.split,
        counts.num_records,
        counts.num_shards,
        counts.num_bytes,
        len(present),
        a_class,
    ]


def _line(problem: "Problem") -> str:
    where = [problem.variant, problem.split, problem.shard]
    if problem.record is not None:
        where.append(f"record {problem.record}")
    return f"  {', '.join(part for part in where if part)}: {problem.what}"
