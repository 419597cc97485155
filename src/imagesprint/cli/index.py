"""`imagesprint index DATA`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imagesprint.cli.output import OR_FROM_NOTHING, next_training, show
from imagesprint.cli.parsing import Parser, add_verb, positive
from imagesprint.console import Console, printable
from imagesprint.errors import UsageError
from imagesprint.storage.url import Url, parse_place

if TYPE_CHECKING:
    from imagesprint.prepare.foreign.indexing import IndexedVariant

EXAMPLES = """\
  imagesprint index imagenet               # imagenet/train-00000-of-01024 …, or imagenet/train/train-00000-of-01024 …
  imagesprint index imagenet/320           # one variant: shards in a folder named by the shorter side in pixels
  imagesprint index /data/imagenet --index-dir imagenet   # /data is read-only: imagenet is then what to train on
  imagesprint index imagenet --workers 8 --json"""

DESCRIPTION = """\
Make TFRecords that another program wrote trainable as they are: the Inception script, TensorFlow's Model Garden,
tensorflow_datasets. Every record is read and checked; the shards are not touched. Where DATA is not a variant itself
(named full, or by the shorter side), DATA/full is made, with links to the shards, and DATA is then the ROOT to train
on; or DIR is, with --index-dir DIR. Classes are named by the records, else by labels.txt or label.labels.txt beside the
shards. Labels may count from 0 or 1: look at the first classes that are shown."""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "index", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("data", metavar="DATA", type=_folder, help="the folder of the TFRecords")
    parser.add_argument(
        "--index-dir",
        metavar="DIR",
        type=_folder,
        help="make DIR the ROOT instead, with links to the shards: for shards where one cannot write",
    )
    parser.add_argument("--workers", metavar="N", type=positive, help="processes, default: as many as there are cores")


def _folder(text: str) -> Path:
    """An argparse type: a folder of this machine, as the links to shards are."""
    place = parse_place(text)
    if isinstance(place, Url):
        raise UsageError(
            f"{place} is no folder of this machine: shards that others wrote are indexed where they lie, by links",
            "copy them to a disk, and index them there",
        )
    return place


def run(args: argparse.Namespace, console: Console) -> int:
    """Index, then print what is there and what comes next."""
    from imagesprint.prepare.foreign.indexing import index_shards  # numpy and Pillow: not for --help

    done = index_shards(args.data, console=console, index_dir=args.index_dir, workers=args.workers)
    following = next_training(done.root)
    value = {
        "root": done.root,
        "variants": done.variants,
        "seconds": done.seconds,
        "images_per_second": done.images_per_second,
        "next": following,
    }
    lines = [line for variant in done.variants for line in _describe(done.root, variant)]
    if done.images_per_second:
        lines.append(f"{done.seconds:.1f} s, {done.images_per_second:,.0f} images/s")
    show(args, value, "\n".join(map(printable, [*lines, f"next: {following}", OR_FROM_NOTHING])))
    return 0


def _describe(root: Path, variant: "IndexedVariant") -> list[str]:
    counts = ", ".join(f"{count:,} {split}" for split, count in variant.images.items())
    state = "indexed" if variant.is_new else "was indexed already"
    links = "; it holds links to the shards, which stay where they are" if variant.is_linked else ""
    classes = "; ".join(f"{label} is {name}" for label, name in variant.first_classes.items())
    return [
        f"{root / variant.name} {state}: {counts} images in {variant.num_classes:,} classes{links}",
        f"labels count from {variant.first_label}: {classes}{'; …' if variant.num_classes > 5 else ''}",
    ]
