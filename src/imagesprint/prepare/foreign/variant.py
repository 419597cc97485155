"""A variant made of shards that another program wrote: reading them all, then writing what they lack."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imagesprint.console import Console, Progress
from imagesprint.errors import DataError, ImageError, RecordError, UsageError
from imagesprint.images.coding import check_image, read_size
from imagesprint.prepare.foreign.classes import ForeignClasses, Labels, NameList
from imagesprint.prepare.foreign.shards import ForeignShard
from imagesprint.prepare.plan import without_validation
from imagesprint.prepare.workers import run_jobs
from imagesprint.records.dataset import is_variant_name
from imagesprint.records.image_record import ENCODED_NAMES, ImageRecord, decode_example, locate_bytes, sound_boxes
from imagesprint.records.index import Index
from imagesprint.records.manifest import FILE_NAME, INDEXED, SPLITS, ClassInfo, Manifest, ShardInfo, write_split
from imagesprint.records.tfrecord import file_crc, iter_records

_UNFINISHED = ".full.tmp"  # the folder of links, until all is in it
_TICK = 256  # records between two reports of progress
_MAX_LABEL = 999_999  # far beyond any set of images: a class list up to a damaged label could fill all memory
_AGAIN = "copy the shard anew from where it is sound, then give the same command again"

# Notes, counted over all records.
OTHER_SIZE = "records have another size than their image; the image's counts"
UNSOUND_BOXES = "records have boxes that reach beyond the image (clipped) or are none (left out)"
DAMAGED = (
    "records hold damaged images, which `imagesprint verify --decode` lists; training stops at one, or passes over it "
    "with --set bad_records=substitute"
)


@dataclass(frozen=True)
class ShardScan:
    """What a shard holds; labels are as stored."""

    shard: ForeignShard
    info: ShardInfo
    index: Index
    labels: Labels
    notes: Counter[str]


def scan_shard(shard: ForeignShard, on_images: Callable[[int], None]) -> ShardScan:
    """Read every record of a shard; `on_images` is told now and then of how many more.

    Raises DataError, naming shard and record, at the first record that is damaged or no labelled image. An image that
    is damaged behind its header is counted in the notes.
    """
    rows: list[tuple[int, ...]] = []
    boxes: list[npt.NDArray[np.float32]] = []
    labels: Labels = {}
    notes: Counter[str] = Counter()
    try:
        for number, (offset, payload) in enumerate(iter_records(shard.path)):
            where = f"{shard.path}, record {number} at byte {offset}"
            record, found = _read(payload, where)
            notes.update(found)
            place = (offset, len(payload), *locate_bytes(payload, *ENCODED_NAMES))
            rows.append((*place, record.label, record.height, record.width))
            boxes.append(record.boxes)
            labels.setdefault(record.label, {}).setdefault(record.synset, (number, record.text))
            if (number + 1) % _TICK == 0:
                on_images(_TICK)
        on_images(len(rows) % _TICK)
        size = shard.path.stat().st_size
        info = ShardInfo(shard.name, size, len(rows), file_crc(shard.path))
    except RecordError as error:
        raise DataError(error.what, _AGAIN) from error
    except OSError as error:
        raise DataError(f"cannot read {shard.path}: {error.strerror}", _AGAIN) from error
    return ShardScan(shard, info, Index.of_shard(shard.name, size, rows, boxes), labels, notes)


def _read(payload: bytes, where: str) -> tuple[ImageRecord, list[str]]:
    """Return the record, its label as stored and its size as the image's header has it, and notes on it."""
    notes = []
    try:
        features = decode_example(payload)
        record = ImageRecord.from_features(features, first_label=0)
        height, width = read_size(record.encoded)
    except RecordError as error:
        raise DataError(f"{where}: {error.what}", error.hint or _AGAIN) from error
    except ImageError as error:  # the record is sound: to copy it anew would not help
        raise DataError(f"{where}: {error.what}", "write the shards again without this record") from error
    if not 0 <= record.label <= _MAX_LABEL:
        raise DataError(f"{where}: label {record.label} is none", "labels are 0 or 1 and up; leave out what has none")
    try:
        check_image(record.encoded)
    except ImageError:  # a record of somebody else's shards cannot be taken out: the others must stay of use
        notes.append(DAMAGED)
    if (record.height or height, record.width or width) != (height, width):
        notes.append(OTHER_SIZE)
    if not sound_boxes(features)[1]:
        notes.append(UNSOUND_BOXES)
    return replace(record, height=height, width=width), notes


def make_variant(
    folder: Path,
    shards: Sequence[ForeignShard],
    listed: NameList | None,
    workers: int,
    is_linked: bool,
    console: Console,
) -> None:
    """Read all shards, then write the indexes and dataset.json of the variant `folder`: whole or not at all.

    `listed` are the names of the classes beside the shards. `is_linked` makes the folder, with links to the shards.
    Raises DataError if a record is damaged, if they contradict each other, or another variant beside `folder`, and
    where nothing can be written; UsageError if the file system has no links.
    """
    known = ForeignClasses(listed)
    scans = _scan(folder.name, shards, workers, known, console)
    settled = known.settle()
    indexes, infos = {}, {}
    for split in SPLITS:
        parts = [scan for scan in scans if scan.shard.split == split]
        joined = Index.concatenate([scan.index for scan in parts])
        if not len(joined):
            raise DataError(f"all {split} shards are empty", "copy them anew from where they have records")
        indexes[split] = replace(joined, label=joined.label - np.int32(settled.first_label))
        infos[split] = tuple(scan.info for scan in parts)
    _check_siblings(folder, indexes)
    for note in (*settled.notes, *_notes(scans, settled.classes, indexes)):
        console.warn(note)
    try:
        with _links(folder, shards) if is_linked else nullcontext(folder) as place:
            splits = {split: write_split(place, split, index, infos[split]) for split, index in indexes.items()}
            Manifest(folder.name, "jpeg", settled.first_label, settled.classes, splits, INDEXED).write(place)
    except OSError as error:
        raise DataError(
            f"cannot write {error.filename or folder}: {error.strerror}",
            "see to its space and permissions, then give the same command again",
        ) from error


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


def check_room(folder: Path, is_linked: bool) -> None:
    """Raise UsageError if `make_variant` could not write there, as far as that can be told before. Makes its parents.

    Tried, not asked for: what `access` says of root and of network file systems is not what happens.
    """
    place = folder.parent if is_linked else folder
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".index.", suffix=".tmp", dir=place) as probe:
            if is_linked:
                _link(Path(probe) / "link", folder, folder)
    except OSError as error:
        raise UsageError(
            f"cannot write in {place}: {error.strerror}",
            "give --index-dir DIR, a folder of your own that shall hold dataset.json, the indexes and links to the "
            "shards, and train with --data DIR",
        ) from error


@contextmanager
def _links(folder: Path, shards: Sequence[ForeignShard]) -> Iterator[Path]:
    """Give a folder of links to `shards`, which has the name `folder` once all is in it. Raises UsageError, OSError."""
    unfinished = folder.parent / _UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed run
    unfinished.mkdir()
    try:
        for shard in shards:
            _link(unfinished / shard.name, shard.path, folder)
        yield unfinished
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _link(link: Path, to: Path, folder: Path) -> None:
    """Make a link of the variant `folder`: relative within the ROOT, which may then be moved, else absolute."""
    try:
        link.symlink_to(os.path.relpath(to, link.parent) if to.is_relative_to(folder.parent) else to)
    except OSError as error:
        raise UsageError(
            f"cannot make links in {folder.parent}: {error.strerror}",
            f"move the shards into a folder {folder}, which needs no links, or give --index-dir DIR where links can be",
        ) from error
