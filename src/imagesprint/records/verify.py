"""`verify`: every checksum of every record, and whether shards, index, dataset.json and labels agree."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imagesprint.console import Console, Progress
from imagesprint.errors import ImageError, RecordError
from imagesprint.records.dataset import is_variant_name, open_root, reading, variant_size
from imagesprint.records.image_record import ENCODED_NAMES, ImageRecord, locate_bytes
from imagesprint.records.index import Index
from imagesprint.records.manifest import FILE_NAME, SPLITS, Manifest
from imagesprint.records.shard_files import unreadable
from imagesprint.records.shared_content import Digests, SharedContent, digest, find_shared
from imagesprint.records.tfrecord import FRAME_BYTES, file_crc, iter_records, read_record
from imagesprint.storage.url import Place, Url, parse_place

if TYPE_CHECKING:
    from imagesprint.records.remote.copies import Copies

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
class _Variant:
    """A variant to check: with `check_image` every image is decoded, `with_digests` looked for in the other split.

    It lies at `place`; where that is a URL, `folder` has copies, those of shards while `shard` is entered.
    """

    folder: Path
    place: Place
    copies: "Copies | None"
    manifest: Manifest
    check_image: CheckImage | None
    with_digests: bool

    def shard(self, name: str) -> AbstractContextManager[None]:
        """Have a shard in `folder` while inside."""
        place = self.place / name
        if self.copies is None or not isinstance(place, Url):
            return nullcontext()
        return self.copies.shard(place, self.folder / name)


class _ShardCheck:
    """The check of shard `number` of a split.

    `run` fills `problems` with all that is wrong and, where digests are wanted, `sample_ids` and `digests` with the
    sound records' numbers in the index and the digests of their images.
    """

    def __init__(self, variant: _Variant, split: str, number: int, index: Index | None) -> None:
        self.info = variant.manifest.splits[split].shards[number]
        self.problems: list[Problem] = []
        self.sample_ids: list[int] = []
        self.digests = bytearray()
        self._variant, self._split, self._number, self._index = variant, split, number, index
        self._manifest = variant.manifest
        self._path = variant.folder / self.info.name
        self._shown = variant.place / self.info.name

    def run(self) -> "_ShardCheck":
        """Check, once; return itself. Raises StorageError."""
        with self._variant.shard(self.info.name):
            try:
                self._check()
            except OSError as error:
                self._report(
                    None, unreadable(self._shown, f"shard {self._shown} cannot be read: {error.strerror}").what
                )
        return self

    def _check(self) -> None:
        size = self._path.stat().st_size
        if size != self.info.bytes:
            self._report(None, f"shard {self._shown} is {size} bytes long, not {self.info.bytes}")
        if self._index is None:
            self._check_alone()
        else:
            self._check_rows(self._index, size)
        # A damaged record has been told of already, and it alone would explain another checksum.
        if not self.problems and file_crc(self._path) != self.info.crc32c:
            self._report(None, f"shard {self._shown} does not match its checksum in {FILE_NAME}")

    def _report(self, record: int | None, what: str) -> None:
        self.problems.append(Problem(self._manifest.variant, self._split, self.info.name, record, what))

    def _check_alone(self) -> None:
        """Check the shard without an index, up to its first damaged record."""
        record = 0
        try:
            for _, payload in iter_records(self._path, self._shown):
                ImageRecord.from_example(payload)
                record += 1
        except RecordError as error:
            self._report(record, error.what)

    def _check_rows(self, index: Index, size: int) -> None:
        rows = np.flatnonzero(index.shard == self._number)
        if len(rows) != self.info.num_records:
            self._report(None, f"the index has {len(rows)} records, {FILE_NAME} has {self.info.num_records}")
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
                    self._check_record(index, row, record, read_record(fd, offset, length, self._shown))
                except RecordError as error:
                    self._report(record, error.what)
        finally:
            os.close(fd)
        if end != size:
            self._report(None, f"{size - end} bytes follow the last record of the index")

    def _check_record(self, index: Index, row: int, record: int, payload: bytes) -> None:
        """Compare a sound record with its row and the class list. Raises RecordError if it is no image record."""
        found = ImageRecord.from_example(payload, self._manifest.first_label)
        name = found.filename or "the image"
        self._check_label(record, found, name)
        size = int(index.height[row]), int(index.width[row])
        # The size in records that others wrote may be missing or wrong; the index has that of the image itself.
        found_size = size if self._manifest.is_indexed else (found.height, found.width)
        in_record = (found.label, *found_size, *locate_bytes(payload, *ENCODED_NAMES))
        in_index = (int(index.label[row]), *size, int(index.encoded_offset[row]), int(index.encoded_length[row]))
        boxes = index.boxes[index.box_start[row] : index.box_start[row + 1]]
        if in_record != in_index or not np.array_equal(found.boxes, boxes):
            self._report(record, f"the index differs from the record of {name}")
        if self._variant.with_digests:
            self.sample_ids.append(row)
            self.digests += digest(found.encoded)
        self._check_pixels(record, found.encoded, size, name)

    def _check_label(self, record: int, found: ImageRecord, name: str) -> None:
        classes = self._manifest.classes
        if not 0 <= found.label < len(classes):
            self._report(record, f"label {found.label} of {name} is not among the {len(classes)} classes")
            return
        synset = classes[found.label].synset
        if found.synset != synset and (found.synset or not self._manifest.is_indexed):
            self._report(record, f"{name} is of synset {found.synset}, its label stands for {synset}")

    def _check_pixels(self, record: int, encoded: bytes, size: tuple[int, int], name: str) -> None:
        """Check that an image has `size`, height and width, as far as that takes no decoding or decoding is asked."""
        height, width = size
        if self._manifest.image_format == "raw":
            if len(encoded) != height * width * 3:
                self._report(record, f"{name} has {len(encoded)} bytes, not those of {width} × {height} pixels")
            return
        if self._variant.check_image is None:
            return
        try:
            found_height, found_width = self._variant.check_image(encoded)
        except ImageError as error:
            self._report(record, f"{name} cannot be decoded: {error.what}")
            return
        if (found_height, found_width) != size:
            self._report(record, f"{name} is {found_width} × {found_height} pixels, the index says {width} × {height}")


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
    """What was found. `shared_content` is of the largest variant: the others are made from the same images."""

    path: Place
    splits: list[SplitCounts] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    shared_content: list[SharedContent] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.problems and not self.shared_content


def verify(path: str | Place, console: Console, check_image: CheckImage | None = None) -> Verification:
    """Check a ROOT or the folder of one variant, on this machine or in a store; with `check_image`, decode every image
    too.

    Returns all problems, not only the first. Raises UsageError if there is no prepared dataset at `path`, DataError if
    it cannot be read, StorageError.
    """
    place = parse_place(path) if isinstance(path, str) else path
    if isinstance(place, Url):
        from imagesprint.records.remote.copies import Copies  # what opens a store, for those who have one

        with Copies(place) as copies:
            return _verify(place, dict(copies.variants()), copies, console, check_image)
    with reading(place):
        folders = _variant_folders(place)
    return _verify(place, {folder: folder for folder in folders}, None, console, check_image)


def _verify(
    place: Place,
    folders: Mapping[Path, Place],
    copies: "Copies | None",
    console: Console,
    check_image: CheckImage | None,
) -> Verification:
    """Check the variants in `folders`, which lie at their values, the largest first."""
    found = Verification(place)
    variants: list[_Variant] = []
    for folder in sorted(folders, key=lambda folder: variant_size(folder.name), reverse=True):
        shown = folders[folder]
        try:
            variants.append(_Variant(folder, shown, copies, Manifest.read(folder, shown), check_image, not variants))
        except RecordError as error:
            found.problems.append(Problem(folder.name, "", "", None, error.what))
    progress = Progress(console, "verifying")
    total = sum(variant.manifest.splits[split].num_records for variant in variants for split in SPLITS)
    progress.begin(total, 0)
    labels: dict[str, dict[str, list[int]]] = {split: {} for split in SPLITS}
    for variant in variants:
        for split, index in _VariantCheck(variant, progress, found).run().items():
            labels[split][variant.folder.name] = index.label.tolist()
    progress.end()
    classes = {variant.folder.name: variant.manifest.classes for variant in variants}
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
    return [entry for entry in path.iterdir() if is_variant_name(entry.name) and entry.is_dir()]


class _VariantCheck:
    """The check of one variant, which adds to `found` what there is and what is wrong with it."""

    def __init__(self, variant: _Variant, progress: Progress, found: Verification) -> None:
        self._variant, self._folder, self._manifest = variant, variant.folder, variant.manifest
        self._digests = {split: Digests() for split in SPLITS}
        self._progress, self._found = progress, found

    def run(self) -> dict[str, Index]:
        """Return the indexes that are sound, by split."""
        indexes: dict[str, Index] = {}
        for split in SPLITS:
            index = self._read_index(split)
            if index is not None:
                indexes[split] = index
                self._count(split, index)
            self._check_shards(split, index)
        if self._variant.with_digests and len(indexes) == len(SPLITS):
            try:
                self._found.shared_content = find_shared(self._folder, indexes, self._digests, self._variant.shard)
            except RecordError as error:
                self._report("", error.what)
        return indexes

    def _report(self, split: str, what: str) -> None:
        self._found.problems.append(Problem(self._manifest.variant, split, "", None, what))

    def _read_index(self, split: str) -> Index | None:
        info = self._manifest.splits[split]
        try:
            index = Index.read(self._folder / info.index, self._variant.place / info.index)
            if file_crc(self._folder / info.index) != info.index_crc32c:
                self._report(split, f"index {info.index} does not match its checksum in {FILE_NAME}")
        except RecordError as error:
            self._report(split, error.what)
            return None
        if index.shard_names != tuple(shard.name for shard in info.shards):
            self._report(split, f"index {info.index} has other shards than {FILE_NAME}")
            return None
        return index

    def _count(self, split: str, index: Index) -> None:
        manifest, info = self._manifest, self._manifest.splits[split]
        # A label that is none is reported with its record; counting up to it could take all memory.
        known = index.label[index.label < len(manifest.classes)]
        counts = np.bincount(known, minlength=len(manifest.classes)).tolist()
        self._found.splits.append(
            SplitCounts(
                variant=manifest.variant,
                split=split,
                num_records=len(index),
                num_shards=len(index.shard_names),
                num_bytes=int(index.shard_sizes.sum()),
                class_counts={entry.name: count for entry, count in zip(manifest.classes, counts, strict=True)},
            )
        )
        if len(index) != info.num_records:
            self._report(split, f"index {info.index} has {len(index)} records, {FILE_NAME} has {info.num_records}")
        present = len(np.unique(index.label))
        if present != info.num_classes_present:
            self._report(split, f"index {info.index} has {present} classes, {FILE_NAME} has {info.num_classes_present}")

    def _check_shards(self, split: str, index: Index | None) -> None:
        numbers = range(len(self._manifest.splits[split].shards))
        checks = (_ShardCheck(self._variant, split, number, index) for number in numbers)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for check in pool.map(_ShardCheck.run, checks):
                self._found.problems += check.problems
                self._progress.add(check.info.num_records)
                self._digests[split].extend(check.sample_ids, check.digests)
