"""`imagesprint prepare SOURCE ROOT`."""

import argparse
import itertools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from imagesprint.cli.output import OR_FROM_NOTHING, next_training, show, table
from imagesprint.cli.parsing import Parser, add_cache_flags, add_verb
from imagesprint.console import Console, printable
from imagesprint.prepare import IMAGE_FORMAT, MAX_REJECTED, QUALITY, SOURCES, VARIANTS
from imagesprint.runs.environment import rank_variable
from imagesprint.storage.url import parse_place

if TYPE_CHECKING:
    from imagesprint.prepare.preparing import Summary

EXAMPLES = """\
  imagesprint prepare photos data                     # photos/train/CLASS/*.jpg and photos/val/CLASS/*.jpg
  imagesprint prepare photos data --val-fraction 0.1  # photos/CLASS/*.jpg: a tenth of each class for validation
  imagesprint prepare imagenet data                   # ImageNet's official tars, as downloaded; or Kaggle's tree
  imagesprint prepare photos data --variants 160      # add a variant to what is there
  imagesprint prepare photos data --workers 8         # after an interruption: goes on where it stopped
  imagesprint prepare photos data --variants 160 --format raw  # pixels instead of JPEGs: larger, faster to read
  imagesprint prepare photos data --part 0:256        # on one of four machines, of 1,024 train shards
  imagesprint prepare s3://bucket/photos hdfs://namenode:8020/data  # from one store to another, shard by shard
  torchrun --nproc-per-node 4 -m imagesprint prepare photos data  # each rank prepares its share"""

DESCRIPTION = """\
Turn folders of images into shards that train fast: each image is read and decoded once for all variants.
"full" keeps the original JPEG; a number is the shorter side in pixels. Nothing is enlarged. What is no image is
left out and listed in ROOT/VARIANT/rejected.jsonl; what is no JPEG in RGB or grey becomes one and is listed in
converted.jsonl. Training images that are in validation too are left out. Parts may be prepared in one ROOT at the same
time, or in a ROOT each: copy those into one, with .parts, and give the command without --part. The bytes written do not
depend on --workers or --part."""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "prepare", DESCRIPTION, EXAMPLES, run)
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        type=parse_place,
        help="class folders, ImageNet's files, WebDataset, parquet or tars: a folder or URL",
    )
    add("root", metavar="ROOT", type=parse_place, help="the folder to make, or a URL")
    add("--variants", metavar="LIST", default=",".join(VARIANTS), help="what to make, default %(default)s")
    add("--format", metavar="jpeg|raw", default=IMAGE_FORMAT, help="what they store, default %(default)s")
    add("--shards", metavar="N", type=int, help="training shards; default: of about 128 MB, 1,024 for ImageNet")
    add("--part", metavar="A:B", help="only train shards A up to B, and the validation shards that belong to them")
    add(
        "--quality", metavar="Q", type=int, default=QUALITY, help="JPEG quality where encoded anew, default %(default)s"
    )
    add("--val-fraction", metavar="F", type=float, help="part of each class for validation, where SOURCE has no val/")
    add("--source", dest="source_kind", choices=SOURCES, help="what SOURCE is; default: found out by looking at it")
    add("--workers", metavar="N", type=int, help="processes, default: as many as there are cores")
    add(
        "--max-rejected",
        metavar="F",
        type=float,
        default=MAX_REJECTED,
        help="part that may be no image, default %(default)s",
    )
    add("--seed", metavar="N", type=int, default=0, help="of the order and of --val-fraction, default %(default)s")
    add_cache_flags(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Prepare, then print what is there and what comes next."""
    # numpy's linear algebra is not used here, and the threads that it starts cost each process 0.1 CPU s.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from imagesprint.prepare.preparing import prepare  # numpy and Pillow: not for --help

    local_ranks = max(1, rank_variable("LOCAL_WORLD_SIZE", 1))
    cores = len(os.sched_getaffinity(0))
    done = prepare(
        args.source,
        args.root,
        console=console,
        source_kind=args.source_kind,
        variants=tuple(args.variants.split(",")),
        image_format=args.format,
        shards=args.shards,
        part=args.part,
        quality=args.quality,
        val_fraction=args.val_fraction,
        workers=max(1, cores // local_ranks) if args.workers is None else args.workers,
        max_rejected=args.max_rejected,
        seed=args.seed,
        rank=rank_variable("RANK", 0),
        world_size=rank_variable("WORLD_SIZE", 1),
    )
    names = list(done.variants)
    for larger, smaller in itertools.pairwise(names):
        if done.variants[larger] == done.variants[smaller]:
            console.warn(f"variants {larger} and {smaller} hold the same bytes: no image is larger than {smaller} px")
    show(args, _to_value(done), "\n".join(_to_lines(done)))
    return 0


def _to_value(done: "Summary") -> dict[str, object]:
    per_image = {name: size / max(1, sum(done.images.values())) for name, size in done.variants.items()}
    return {
        "root": str(done.root),
        "images": done.images,
        "classes": done.classes,
        "rejected": sum(done.rejected.values()),
        "rejected_kinds": done.rejected,
        "converted": done.converted,
        "variants": {
            name: {
                "bytes": size,
                "bytes_per_image": per_image[name],
                "cpu_seconds": done.cpu_seconds.get(name),
                "written": name in done.written,
            }
            for name, size in done.variants.items()
        },
        "decode_cpu_seconds": done.cpu_seconds.get("decode"),
        "missing": {split: ranges for split, ranges in done.missing.items() if ranges},
        "seconds": done.seconds,
        "images_per_second": done.images_per_second,
        "next": _next(done),
    }


def _to_lines(done: "Summary") -> list[str]:
    counts = ", ".join(f"{count:,} {split}" for split, count in done.images.items())
    rejected = sum(done.rejected.values())
    root = printable(str(done.root))
    lines = [f"{root}: {counts} images in {done.classes:,} classes, {rejected:,} files rejected"]
    if rejected:
        lines.append(f"rejected: {_counts(done.rejected)}")
    if done.converted:
        lines.append(f"converted to JPEG or pixels in RGB: {_counts(done.converted)}")
    if rejected and not done.missing:
        first = next(iter(done.variants))
        lines.append(f"the rejected files, with reasons: {root}/{first}/rejected.jsonl")
    lines.append(table(["variant", "bytes", "bytes an image", "CPU s", ""], _rows(done)))
    if done.cpu_seconds:
        lines.append(f"reading and decoding took {done.cpu_seconds.get('decode', 0.0):.1f} CPU s for all variants")
    worked = f"{done.seconds:.1f} s" + (f", {done.images_per_second:,.0f} images/s" if done.images_per_second else "")
    lines.append(worked if done.written or done.missing else "nothing was left to do")
    if done.missing:
        lines.append("missing: " + ", ".join(_missing(done)))
    return [*lines, printable(f"next: {_next(done)}"), *(() if done.missing else (OR_FROM_NOTHING,))]


def _rows(done: "Summary") -> list[list[object]]:
    images = max(1, sum(done.images.values()))
    state = "unfinished" if done.missing else "was there"
    return [
        [
            name,
            size,
            round(size / images),
            f"{done.cpu_seconds[name]:.1f}" if name in done.cpu_seconds else "",
            "written" if name in done.written else state,
        ]
        for name, size in done.variants.items()
    ]


def _counts(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())


def _missing(done: "Summary") -> list[str]:
    """Return what is missing, as in "train shards 256–1023 of 1024"."""
    return [
        f"{split} {_numbers(first, end)} of {done.shards[split]}"
        for split, spans in done.missing.items()
        for first, end in spans
    ]


def _numbers(first: int, end: int) -> str:
    return f"shard {first}" if end - first == 1 else f"shards {first}–{end - 1}"


def _next(done: "Summary") -> str:
    if done.missing:
        return (
            f"the last part to end in {done.root} joins all; parts made elsewhere are copied into it, shards and "
            ".parts; the same command without --part makes what is missing, and joins"
        )
    return next_training(done.root)
