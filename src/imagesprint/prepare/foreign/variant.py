"""A variant made of shards that another program wrote: reading them all, then writing what they lack."""

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from imagesprint.console import Console
from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.foreign.classes import ForeignClasses
from imagesprint.prepare.foreign.scan import ShardScan, scan_shard
from imagesprint.prepare.foreign.shards import ForeignShard
from imagesprint.prepare.plan import without_validation
from imagesprint.prepare.workers import run_jobs
from imagesprint.progress import Progress
from imagesprint.records.dataset import is_variant_name
from imagesprint.records.index import Index
from imagesprint.records.manifest import FILE_NAME, INDEXED, SPLITS, ClassInfo, Manifest, ShardInfo, write_split

_UNFINISHED = ".full.tmp"  # the folder of links, until all is in it


@dataclass(frozen=True)
class ForeignVariant:
    """What dataset.json and the indexes will say, and notes for the user. Labels in `indexes` count from 0."""

    shards: tuple[ForeignShard, ...]
    first_label: int
    classes: tuple[ClassInfo, ...]
    infos: Mapping[str, tuple[ShardInfo, ...]]
    indexes: Mapping[str, Index]
    notes: tuple[str, ...]


def scan_variant(folder: Path, shards: tuple[ForeignShard, ...], workers: int, console: Console) -> ForeignVariant:
    """Read all shards; `folder` is where the variant will lie.

    Raises DataError if a record is damaged, if they contradict each other, or another variant beside `folder`.
    """
    known = ForeignClasses()
    scans = _scan(folder.name, shards, workers, known, console)
    classes = known.classes()
    indexes, infos = {}, {}
    for split in SPLITS:
        parts = [scan for scan in scans if scan.shard.split == split]
        joined = Index.concatenate([scan.index for scan in parts])
        if not len(joined):
            raise DataError(f"all {split} shards are empty", "copy them anew from where they have records")
        indexes[split] = replace(joined, label=joined.label - np.int32(known.first_label))
        infos[split] = tuple(scan.info for scan in parts)
    _check_siblings(folder, indexes)
    return ForeignVariant(shards, known.first_label, classes, infos, indexes, _notes(scans, classes, indexes))


def _scan(
    variant: str, shards: Sequence[ForeignShard], workers: int, classes: ForeignClasses, console: Console
) -> list[ShardScan]:
    """Return what is in the shards, in their order, but for the labels: those are added to `classes`."""
    progress = Progress(console, f"indexing {variant}")
    progress.begin(0, 0)
    total_bytes = sum(shard.num_bytes for shard in shards)
    numbers = {shard: number for number, shard in enumerate(shards)}
    scans: dict[int, ShardScan] = {}
    done: Counter[str] = Counter()

    def on_scan(scan: ShardScan) -> None:
        number = numbers[scan.shard]
        classes.add(number, scan.shard.path, scan.labels)
        scans[number] = replace(scan, labels={})  # of all shards together they would take most of a gigabyte
        done.update(bytes=scan.info.bytes, records=scan.info.num_records)
        # Nobody knows the number of records before: the shards that are read tell how many a byte there are.
        progress.expect(round(done["records"] * total_bytes / max(done["bytes"], 1)))

    run_jobs(scan_shard, shards, workers, progress.add, on_scan)
    progress.end()
    return [scans[number] for number in range(len(shards))]


def _check_siblings(folder: Path, indexes: Mapping[str, Index]) -> None:
    """Raise DataError if a variant beside has other images, as its labels show: sample ids must mean the same."""
    if not folder.parent.is_dir():
        return
    others = [entry for entry in folder.parent.iterdir() if is_variant_name(entry.name) and entry.name != folder.name]
    for other in sorted(entry for entry in others if (entry / FILE_NAME).exists()):
        manifest = Manifest.read(other)
        for split, index in indexes.items():
            if not np.array_equal(Index.read(other / manifest.splits[split].index).label, index.label):
                raise DataError(
                    f"the {split} records of {folder} are not in the order of those in {other}, as their labels show",
                    f"a recipe takes sample 7 of both for the same image: move {folder.name} into a folder of its own",
                )


def _notes(scans: Sequence[ShardScan], classes: Sequence[ClassInfo], indexes: Mapping[str, Index]) -> tuple[str, ...]:
    counts: Counter[str] = sum((scan.notes for scan in scans), Counter())
    notes = [f"{count:,} {what}" for what, count in counts.items()]
    missing = {
        split: [classes[label].name for label in np.setdiff1d(np.arange(len(classes)), index.label).tolist()]
        for split, index in indexes.items()
    }
    if missing["train"]:
        first = missing["train"][0]
        notes.append(f"{len(missing['train'])} of {len(classes)} classes have no training images, the first is {first}")
    return (*notes, *without_validation(missing["validation"], len(classes)))


def write_variant(folder: Path, found: ForeignVariant, with_links: bool) -> None:
    """Write indexes and dataset.json into `folder`; `with_links` makes it, with relative links to the shards.

    Raises UsageError if the file system has no links, OSError.
    """
    if not with_links:
        _write_files(folder, folder.name, found)
        return
    unfinished = folder.parent / _UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed run
    unfinished.mkdir()
    try:
        _link(unfinished, found.shards, folder)
        _write_files(unfinished, folder.name, found)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _link(folder: Path, shards: Sequence[ForeignShard], final: Path) -> None:
    for shard in shards:
        try:
            (folder / shard.name).symlink_to(os.path.relpath(shard.path, folder))
        except OSError as error:
            raise UsageError(
                f"cannot make links in {folder.parent}: {error.strerror}",
                f"move the shards into a folder {final}, then give the same command again: it needs no links there",
            ) from error


def _write_files(folder: Path, variant: str, found: ForeignVariant) -> None:
    splits = {split: write_split(folder, split, index, found.infos[split]) for split, index in found.indexes.items()}
    Manifest(variant, "jpeg", found.first_label, found.classes, splits, INDEXED).write(folder)
