"""`imagesprint verify DATA`."""

import argparse
from typing import TYPE_CHECKING

from imagesprint.cli.output import show, table
from imagesprint.cli.parsing import Parser, add_cache_flags, add_verb
from imagesprint.console import Console, printable
from imagesprint.errors import CheckError
from imagesprint.storage.url import Place, parse_place

if TYPE_CHECKING:
    from imagesprint.records.shared_content import RecordPlace, SharedContent
    from imagesprint.records.verify import Problem, SplitCounts, Verification

EXAMPLES = """\
  imagesprint verify data                  # every variant
  imagesprint verify data/320 --decode     # one variant; decode every image too
  imagesprint verify data --json           # every problem, and the number of images of each class"""

_SHOWN = 20  # problems and shared images printed as text; --json has them all


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    description = """\
Check every checksum of prepared or indexed data, that shards, index and labels agree, and that train and validation
share no image. Exits 3 if not."""
    parser = add_verb(subparsers, "verify", description, EXAMPLES, run)
    parser.add_argument("data", metavar="DATA", type=parse_place, help="a prepared ROOT or one of its variants")
    add_cache_flags(parser)
    parser.add_argument("--decode", action="store_true", help="decode every image as well")


def run(args: argparse.Namespace, console: Console) -> int:
    """Verify and print what was found."""
    from imagesprint.images.decoders import (
        ImageCheck,  # numpy: not for --help
        describe_decoder,
    )
    from imagesprint.records.verify import verify

    check_image = ImageCheck() if args.decode else None
    if check_image is not None:
        console.line(f"decoder     {describe_decoder()}")
    found = verify(args.data, console, check_image)
    value = {
        "path": found.path,
        "ok": found.is_sound,
        "splits": found.splits,
        "problems": found.problems,
        "shared_content": found.shared_content,
        "images_with_stray_bytes": check_image and check_image.num_stray,
    }
    header = ["variant", "split", "images", "shards", "bytes", "classes", "images a class"]
    text = [table(header, [_row(counts) for counts in found.splits])] if found.splits else []
    text += _list("problems", [_line(problem) for problem in found.problems])
    text += _list("training images are in validation, too", [_pair(shared) for shared in found.shared_content])
    if check_image is not None and check_image.num_stray:
        text.append(f"{check_image.num_stray:,} images have stray bytes before a marker, which harm no pixel")
    if found.is_sound:
        text.append("no damage found" + ("" if args.decode else "; --decode decodes every image as well"))
    show(args, value, "\n".join(text))
    if found.is_sound:
        return 0
    failure = _failure(args.data, found)
    if args.json:  # one JSON value is printed already, and it says so
        return failure.exit_code
    raise failure


def _failure(data: Place, found: "Verification") -> CheckError:
    if found.problems:
        return CheckError(
            f"{data} is damaged: {_line(found.problems[0])}",
            "prepare or index the damaged variant again after deleting its folder, or copy sound shards into it",
        )
    return CheckError(
        f"train and validation of {data} share {len(found.shared_content)} images: {_pair(found.shared_content[0])}",
        "accuracy will look better than it is: take them out of the source and prepare it again",
    )


def _list(what: str, lines: list[str]) -> list[str]:
    """Return the first lines under their number; nothing where there are none."""
    if not lines:
        return []
    more = [f"… and {len(lines) - _SHOWN} more; --json lists all"] if len(lines) > _SHOWN else []
    return [f"{len(lines)} {what}:", *(f"  {printable(line)}" for line in [*lines[:_SHOWN], *more])]


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
    return f"{', '.join(part for part in where if part)}: {problem.what}"


def _pair(shared: "SharedContent") -> str:
    return f"{_place(shared.train)} is {_place(shared.validation)}"


def _place(place: "RecordPlace") -> str:
    return ", ".join(part for part in (place.shard, f"record {place.record}", place.filename) if part)
