"""`verify`: every checksum of every record, and whether shards, index, dataset.json and labels agree."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imagesprint.console import Console
from imagesprint.errors import ImageError, RecordError
from imagesprint.records.dataset import is_variant_name, open_root, reading, variant_size
from imagesprint.records.example import locate_bytes
from imagesprint.records.image_record import ENCODED, ImageRecord
from imagesprint.records.index import Index
from imagesprint.records.manifest import FILE_NAME, SPLITS, ClassInfo, Manifest, ShardInfo
from imagesprint.records.tfrecord import FRAME_BYTES, file_crc, iter_records, read_record

# Decodes an image and returns its height and width; raises ImageError. (The images package lies beside this one.)
CheckImage = Callable[[bytes], tuple[int, int]]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `shard` is a file name or empty, `record` counts in the shard from 0, or is None."""

    variant: str
    split: str
    shard: str
    record: int | None
    what: str


@dataclass(frozen=True)
class SplitCounts:
    """What the index of one split of one variant has; `class_counts` has an entry for every class."""

    variant: str
    split: str
    num_records: int
    num_shards: int
    num_bytes: int
    class_counts: dict[str, int]


@dataclass
class Verification:
    """What was found; nothing is wrong if `problems` is empty."""

    path: Path
    splits: list[SplitCounts] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def verify(path: str | Path, console: Console, check_image: CheckImage | None = None) -> Verification:
    """Check a ROOT or the folder of one variant; with `check_image`, decode every image too.

    Returns all problems, not only the first. Raises UsageError if there is no prepared dataset at `path`, DataError if
    it cannot be read.
    """
    path = Path(path)
    found = Verification(path)
    labels: dict[str, dict[str, list[int]]] = {split: {} for split in SPLITS}
    classes: dict[str, tuple[ClassInfo, ...]] = {}
    with reading(path):
        folders = _variant_folders(path)
    for folder in folders:
        try:
            manifest = Manifest.read(folder)
        except RecordError as error:
            found.problems.append(Problem(folder.name, "", "", None, error.what))
            continue
        classes[folder.name] = manifest.classes
        for split in SPLITS:
            index = _verify_split(folder, manifest, split, console, check_image, found)
            if index is not None:
                labels[split][folder.name] = index.label.tolist()
    found.problems += _unlike("", classes, "its classes are not those of variant {}: labels do not agree")
    for split, of_variants in labels.items():
        found.problems += _unlike(split, of_variants, "its labels are not those of variant {}: sample ids do not agree")
    return found


def _unlike(split: str, of_variants: Mapping[str, object], what: str) -> list[Problem]:
    """Return a problem for every variant whose value is not that of the first, whose name `what` has a place for."""
    first = next(iter(of_variants), "")
    return [
        Problem(variant, split, "", None, what.format(first))
        for variant, value in of_variants.items()
        if value != of_variants[first]
    ]


def _variant_folders(path: Path) -> list[Path]:
    if (path / FILE_NAME).is_file():
        return [path]
    if not path.is_dir() or not any(is_variant_name(entry.parent.name) for entry in path.glob(f"*/{FILE_NAME}")):
        open_root(path)  # raises the UsageError that says what is there instead
    folders = [entry for entry in path.iterdir() if is_variant_name(entry.name) and entry.is_dir()]
    return sorted(folders, key=lambda folder: variant_size(folder.name), reverse=True)


def _verify_split(
    folder: Path, manifest: Manifest, split: str, console: Console, check_image: CheckImage | None, found: Verification
) -> Index | None:
    """Add what is in a split and what is wrong with it; return its index if that is sound."""
    info = manifest.splits[split]

    def report(what: str) -> None:
        found.problems.append(Problem(manifest.variant, split, "", None, what))

    index = None
    try:
        index = Index.read(folder / info.index)
        if file_crc(folder / info.index) != info.index_crc32c:
            report(f"index {info.index} does not match its checksum in {FILE_NAME}")
        if index.shard_names != tuple(shard.name for shard in info.shards):
            report(f"index {info.index} has other shards than {FILE_NAME}")
            index = None
    except RecordError as error:
        report(error.what)
    if index is not None:
        found.splits.append(_count(manifest, split, index))
        if len(index) != info.num_records:
            report(f"index {info.index} has {len(index)} records, {FILE_NAME} has {info.num_records}")
        present = len(np.unique(index.label))
        if present != info.num_classes_present:
            report(f"index {info.index} has {present} classes, {FILE_NAME} has {info.num_classes_present}")
    checks = [_ShardCheck(folder, manifest, split, number, index, check_image) for number in range(len(info.shards))]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for number, problems in enumerate(pool.map(_ShardCheck.run, checks), 1):
            found.problems += problems
            console.live(f"verifying {folder.name}, {split}: {number:,}/{len(checks):,} shards")
    return index


def _count(manifest: Manifest, split: str, index: Index) -> SplitCounts:
    # A label that is none is reported with its record; counting up to it could take all memory.
    known = index.label[index.label < len(manifest.classes)]
    counts = np.bincount(known, minlength=len(manifest.classes)).tolist()
    return SplitCounts(
        variant=manifest.variant,
        split=split,
        num_records=len(index),
        num_shards=len(index.shard_names),
        num_bytes=int(index.shard_sizes.sum()),
        class_counts={entry.name: count for entry, count in zip(manifest.classes, counts, strict=True)},
    )


class _ShardCheck:
    """The check of one shard against dataset.json and, where it is sound, the index."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        split: str,
        number: int,
        index: Index | None,
        check_image: CheckImage | None,
    ) -> None:
        self._info: ShardInfo = manifest.splits[split].shards[number]
        self._path = folder / self._info.name
        self._manifest, self._split, self._number = manifest, split, number
        self._index, self._check_image = index, check_image
        self._problems: list[Problem] = []

    def run(self) -> list[Problem]:
        """Return all problems of the shard."""
        try:
            size = self._path.stat().st_size
            if size != self._info.bytes:
                self._report(None, f"shard {self._path} is {size} bytes long, not {self._info.bytes}")
            if self._index is None:
                self._check_alone()
            else:
                self._check_rows(self._index, size)
            # A damaged record has been told of already, and it alone would explain another checksum.
            if not self._problems and file_crc(self._path) != self._info.crc32c:
                self._report(None, f"shard {self._path} does not match its checksum in {FILE_NAME}")
        except OSError as error:
            self._report(None, f"shard {self._path} cannot be read: {error.strerror}")
        return self._problems

    def _report(self, record: int | None, what: str) -> None:
        self._problems.append(Problem(self._manifest.variant, self._split, self._info.name, record, what))

    def _check_alone(self) -> None:
        """Check the shard without an index, up to its first damaged record."""
        record = 0
        try:
            for _, payload in iter_records(self._path):
                ImageRecord.from_example(payload)
                record += 1
        except RecordError as error:
            self._report(record, error.what)

    def _check_rows(self, index: Index, size: int) -> None:
        rows = np.flatnonzero(index.shard == self._number)
        if len(rows) != self._info.num_records:
            self._report(None, f"the index has {len(rows)} records, {FILE_NAME} has {self._info.num_records}")
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            end = 0
            for record, row in enumerate(rows.tolist()):
                offset, length = int(index.offset[row]), int(index.length[row])
                if offset != end:
                    self._report(record, f"the index has it at byte {offset}, but the one before ends at byte {end}")
                end = offset + FRAME_BYTES + length
                if end > size:
                    self._report(record, f"the shard is cut short here: {len(rows) - record} records are missing")
                    return
                try:
                    self._check_record(index, row, record, read_record(fd, offset, length, self._path))
                except RecordError as error:
                    self._report(record, error.what)
        finally:
            os.close(fd)
        if end != size:
            self._report(None, f"{size - end} bytes follow the last record of the index")

    def _check_record(self, index: Index, row: int, record: int, payload: bytes) -> None:
        """Compare a sound record with its row and the class list. Raises RecordError if it is no image record."""
        found = ImageRecord.from_example(payload)
        classes = self._manifest.classes
        if not 0 <= found.label < len(classes):
            self._report(record, f"label {found.label} of {found.filename} is not among the {len(classes)} classes")
        elif found.synset != classes[found.label].synset:
            synset = classes[found.label].synset
            self._report(record, f"{found.filename} is of synset {found.synset}, its label stands for {synset}")
        in_record = (found.label, found.height, found.width, *locate_bytes(payload, ENCODED))
        columns = (index.label, index.height, index.width, index.encoded_offset, index.encoded_length)
        in_index = tuple(int(column[row]) for column in columns)
        boxes = index.boxes[index.box_start[row] : index.box_start[row + 1]]
        if in_record != in_index or not np.array_equal(found.boxes, boxes):
            self._report(record, f"the index differs from the record of {found.filename}")
        if self._check_image is not None:
            self._decode(self._check_image, record, found)

    def _decode(self, check_image: CheckImage, record: int, found: ImageRecord) -> None:
        try:
            height, width = check_image(found.encoded)
        except ImageError as error:
            self._report(record, f"{found.filename} cannot be decoded: {error.what}")
            return
        if (height, width) != (found.height, found.width):
            self._report(
                record, f"{found.filename} is {width} × {height} pixels, the record says {found.width} × {found.height}"
            )
