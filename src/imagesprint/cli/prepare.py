"""`imagesprint prepare SOURCE ROOT`."""

import argparse
import itertools
from pathlib import Path

from imagesprint.cli.output import show, table
from imagesprint.cli.parsing import Parser, add_verb
from imagesprint.console import Console
from imagesprint.prepare.defaults import MAX_REJECTED, QUALITY, VARIANTS

EXAMPLES = """\
  imagesprint prepare photos data                     # photos/train/CLASS/*.jpg and photos/val/CLASS/*.jpg
  imagesprint prepare photos data --val-fraction 0.1  # photos/CLASS/*.jpg: a tenth of each class for validation
  imagesprint prepare photos data --variants 160      # add a variant to what is there
  imagesprint prepare photos data --workers 8         # after an interruption: goes on where it stopped"""

DESCRIPTION = """\
Turn folders of images into shards that train fast: each image is read and decoded once for all variants.
"full" keeps the original JPEG; a number is the shorter side in pixels. Nothing is enlarged. What is no image is
left out and listed in ROOT/VARIANT/rejected.jsonl. The bytes written do not depend on --workers."""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "prepare", DESCRIPTION, EXAMPLES, run)
    add = parser.add_argument
    add("source", metavar="SOURCE", type=Path, help="a folder of class folders, or one with train/ and val/")
    add("root", metavar="ROOT", type=Path, help="the folder to make")
    add("--variants", metavar="LIST", default=",".join(VARIANTS), help="what to make, default %(default)s")
    add("--shards", metavar="N", type=int, help="training shards; default: of about 128 MB, 1,024 for ImageNet")
    add(
        "--quality", metavar="Q", type=int, default=QUALITY, help="JPEG quality where encoded anew, default %(default)s"
    )
    add("--val-fraction", metavar="F", type=float, help="part of each class for validation, where SOURCE has no val/")
    add("--workers", metavar="N", type=int, help="processes, default: as many as there are cores")
    add(
        "--max-rejected",
        metavar="F",
        type=float,
        default=MAX_REJECTED,
        help="part that may be no image, default %(default)s",
    )
    add("--seed", metavar="N", type=int, default=0, help="of the order and of --val-fraction, default %(default)s")


def run(args: argparse.Namespace, console: Console) -> int:
    """Prepare, then print what is there and what comes next."""
    from imagesprint.prepare.preparing import prepare  # numpy and Pillow: not for --help

    done = prepare(
        args.source,
        args.root,
        console=console,
        variants=tuple(args.variants.split(",")),
        shards=args.shards,
        quality=args.quality,
        val_fraction=args.val_fraction,
        workers=args.workers,
        max_rejected=args.max_rejected,
        seed=args.seed,
    )
    names = list(done.variants)
    for larger, smaller in itertools.pairwise(names):
        if done.variants[larger] == done.variants[smaller]:
            console.warn(f"variants {larger} and {smaller} hold the same bytes: no image is larger than {smaller} px")
    following = f"imagesprint train small --data {args.root} --output RUN"
    value = {
        "root": done.root,
        "images": done.images,
        "classes": done.classes,
        "rejected": done.rejected,
        "variants": {name: {"bytes": size, "written": name in done.written} for name, size in done.variants.items()},
        "seconds": done.seconds,
        "images_per_second": done.images_per_second,
        "next": following,
    }
    rows = [[name, size, "written" if name in done.written else "was there"] for name, size in done.variants.items()]
    counts = ", ".join(f"{count:,} {split}" for split, count in done.images.items())
    lines = [
        f"{args.root}: {counts} images in {done.classes:,} classes, {done.rejected:,} files rejected",
        *([f"the rejected files, with reasons: {args.root / names[0] / 'rejected.jsonl'}"] if done.rejected else []),
        table(["variant", "bytes", ""], rows),
        f"{done.seconds:.1f} s, {done.images_per_second:,.0f} images/s" if done.written else "nothing was left to do",
        f"next: {following}",
    ]
    show(args, value, "\n".join(lines))
    return 0
