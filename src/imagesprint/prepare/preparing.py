"""`prepare`: from a source of labelled images to a ROOT of shards with indexes, in several variants at once."""

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imagesprint.console import Console
from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.defaults import MAX_REJECTED, QUALITY, VARIANTS
from imagesprint.prepare.finishing import check_rejected, finish_variant
from imagesprint.prepare.opening import open_source
from imagesprint.prepare.parts import Parts, ShardResult, unfinished_variants
from imagesprint.prepare.plan import Plan, differences, make_plan
from imagesprint.prepare.progress import Progress
from imagesprint.prepare.shard_writing import ShardJob, writing
from imagesprint.prepare.sources import Source
from imagesprint.prepare.workers import run_jobs
from imagesprint.records.dataset import is_variant_name, reading, variant_size
from imagesprint.records.manifest import FILE_NAME, SPLITS, Manifest


@dataclass(frozen=True)
class Summary:
    """What a ROOT holds after `prepare`.

    `images` counts a split; `variants` gives bytes of shards; `written` names the variants written by this call, all
    others were there already; `images_per_second` is of this call, 0 where it had nothing to do.
    """

    root: Path
    images: dict[str, int]
    classes: int
    rejected: int
    variants: dict[str, int]
    written: tuple[str, ...]
    seconds: float
    images_per_second: float


def prepare(
    source: str | Path,
    root: str | Path,
    *,
    console: Console,
    variants: tuple[str, ...] = VARIANTS,
    shards: int | None = None,
    quality: int = QUALITY,
    val_fraction: float | None = None,
    workers: int | None = None,
    max_rejected: float = MAX_REJECTED,
    seed: int = 0,
) -> Summary:
    """Prepare `source` into `root`, or go on with it, or add variants to it; return what is there in the end.

    `workers` processes work at it (default: the cores that this process may use); the bytes written do not depend on
    their number. Raises UsageError for options that make no sense or another plan than the root was prepared with,
    DataError for what is wrong with the images.
    """
    begun = time.monotonic()
    source, root = Path(source), Path(root)
    variants = _check_variants(variants)
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    _check_options(quality, workers, max_rejected)
    opened = open_source(source)
    _check_apart(source, root)
    plan = make_plan(opened.scan(), opened.kind, shards, quality, val_fraction, seed)
    for note in plan.notes:
        console.warn(note)
    progress = Progress(console)
    with _locked(root):
        missing = _find_missing(root, plan, variants)
        parts = Parts(root, missing)
        if missing:
            results = _write_shards(parts, plan, opened, quality, workers, max_rejected, progress)
            for note in check_rejected(root, plan, results, tuple(name for name in variants if name not in missing)):
                console.warn(note)
            with writing(root):
                for variant in missing:
                    finish_variant(parts, variant, plan, results)
        if not unfinished_variants(root):
            with writing(root):
                parts.remove()
    return _summarise(root, variants, missing, time.monotonic() - begun, progress.images_per_second)


def _check_variants(variants: tuple[str, ...]) -> tuple[str, ...]:
    """Return the variants, the largest first."""
    for name in variants:
        if not is_variant_name(name):
            raise UsageError(f"{name!r} is no variant", "variants are full or a shorter side in pixels: full,320,160")
    if not variants or len(set(variants)) < len(variants):
        raise UsageError(f"the variants {','.join(variants)!r} name none, or one twice", "for example full,320,160")
    return tuple(sorted(variants, key=variant_size, reverse=True))


def _check_options(quality: int, workers: int, max_rejected: float) -> None:
    if not 1 <= quality <= 100:
        raise UsageError(f"--quality {quality} is not between 1 and 100", "90 is the default")
    if workers < 1:
        raise UsageError(f"--workers {workers} is less than 1", "leave it out to use all cores")
    if not 0 <= max_rejected <= 1:
        raise UsageError(f"--max-rejected {max_rejected} is not between 0 and 1", "0.01 allows one file in a hundred")


def _check_apart(source: Path, root: Path) -> None:
    inner, outer = root.resolve(), source.resolve()
    if inner == outer or outer in inner.parents:
        raise UsageError(f"ROOT {root} lies in the source {source}", "choose a ROOT outside of the source")


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Make the folder `root` if need be and keep every other `prepare` out of it. Raises UsageError."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot write to {root}: {error.strerror}", "choose another ROOT") from error
    try:
        if not os.access(root, os.W_OK | os.X_OK):
            raise UsageError(f"cannot write to {root}: permission denied", "choose another ROOT")
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another `imagesprint prepare` is at work in {root}", "wait for it, or stop it") from None
        except OSError:
            pass  # a file system without locks, as over some networks: nothing keeps a second one out of it
        yield
    finally:
        os.close(folder)


def _find_missing(root: Path, plan: Plan, variants: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of `variants` that are not finished.

    Raises UsageError if any in `root` has another plan, DataError if it cannot be read.
    """
    with reading(root):
        folders = [entry for entry in root.iterdir() if is_variant_name(entry.name) and (entry / FILE_NAME).exists()]
    for folder in sorted(folders):
        found = differences(Manifest.read(folder).made_by, plan.made_by)
        if found:
            raise UsageError(
                f"{root} was prepared with another plan ({'; '.join(found)})",
                "give the options and the source it was prepared with, or choose another ROOT",
            )
    finished = {folder.name for folder in folders}
    return tuple(name for name in variants if name not in finished)


def _write_shards(
    parts: Parts, plan: Plan, source: Source, quality: int, workers: int, max_rejected: float, progress: Progress
) -> list[ShardResult]:
    """Write the shards that are not finished; return the results of all, in order."""
    with writing(parts.root):
        parts.begin(plan.made_by)
        results = {shard.name: parts.find_result(shard) for shard in plan.shards}
    jobs = [
        ShardJob(source, shard, plan.classes, parts, quality) for shard in plan.shards if results[shard.name] is None
    ]
    total = sum(len(shard.samples) for shard in plan.shards)
    left = sum(len(job.shard.samples) for job in jobs)
    progress.begin(total, done=total - left)

    def on_shard(result: ShardResult) -> None:
        results[result.name] = result
        _check_max_rejected(results, total, max_rejected)

    _check_max_rejected(results, total, max_rejected)
    if jobs:
        run_jobs(jobs, workers, progress.add, on_shard)
    progress.end()
    return [result for result in results.values() if result is not None]


def _check_max_rejected(results: dict[str, ShardResult | None], total: int, max_rejected: float) -> None:
    """Raise DataError as soon as too many are rejected: an hour before the end is better than then."""
    rejected = [row for result in results.values() if result is not None for row in result.rejected]
    if len(rejected) <= max_rejected * total:
        return
    first = rejected[0]
    so_far = " so far" if None in results.values() else ""
    share = math.ceil(len(rejected) / total * 1000) / 1000
    raise DataError(
        f"{len(rejected)} of {total} files are rejected{so_far}, the first of them {first['file']}: {first['reason']}",
        f"remove or repair them, or allow them with --max-rejected {share:g}",
    )


def _summarise(
    root: Path, variants: tuple[str, ...], written: tuple[str, ...], seconds: float, images_per_second: float
) -> Summary:
    manifests = {variant: Manifest.read(root / variant) for variant in variants}
    first = manifests[variants[0]]
    source = first.made_by["source"]
    images = {split: first.splits[split].num_records for split in SPLITS}
    return Summary(
        root=root,
        images=images,
        classes=len(first.classes),
        rejected=source["train_files"] + source["validation_files"] - sum(images.values()),
        variants={
            variant: sum(shard.bytes for split in SPLITS for shard in manifest.splits[split].shards)
            for variant, manifest in manifests.items()
        },
        written=written,
        seconds=seconds,
        images_per_second=images_per_second,
    )
