"""The check of one shard against dataset.json and, where it is sound, the index."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imagesprint.errors import ImageError, RecordError
from imagesprint.records.dataset import unreadable
from imagesprint.records.example import locate_bytes
from imagesprint.records.image_record import ENCODED_NAMES, ImageRecord
from imagesprint.records.index import Index
from imagesprint.records.manifest import FILE_NAME, Manifest
from imagesprint.records.shared_content import digest
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


class ShardCheck:
    """The check of shard `number` of a split.

    `run` fills `problems` with all that is wrong and, if `with_digests`, `sample_ids` and `digests` with the sound
    records' numbers in the index and the digests of their images.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        split: str,
        number: int,
        index: Index | None,
        check_image: CheckImage | None,
        with_digests: bool,
    ) -> None:
        self.info = manifest.splits[split].shards[number]
        self.problems: list[Problem] = []
        self.sample_ids: list[int] = []
        self.digests = bytearray()
        self._path = folder / self.info.name
        self._manifest, self._split, self._number = manifest, split, number
        self._index, self._check_image, self._with_digests = index, check_image, with_digests

    def run(self) -> "ShardCheck":
        """Check, once; return itself."""
        try:
            size = self._path.stat().st_size
            if size != self.info.bytes:
                self._report(None, f"shard {self._path} is {size} bytes long, not {self.info.bytes}")
            if self._index is None:
                self._check_alone()
            else:
                self._check_rows(self._index, size)
            # A damaged record has been told of already, and it alone would explain another checksum.
            if not self.problems and file_crc(self._path) != self.info.crc32c:
                self._report(None, f"shard {self._path} does not match its checksum in {FILE_NAME}")
        except OSError as error:
            self._report(None, unreadable(self._path, f"shard {self._path} cannot be read: {error.strerror}").what)
        return self

    def _report(self, record: int | None, what: str) -> None:
        self.problems.append(Problem(self._manifest.variant, self._split, self.info.name, record, what))

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
                    self._check_record(index, row, record, read_record(fd, offset, length, self._path))
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
        if self._with_digests:
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
        if self._check_image is None:
            return
        try:
            found_height, found_width = self._check_image(encoded)
        except ImageError as error:
            self._report(record, f"{name} cannot be decoded: {error.what}")
            return
        if (found_height, found_width) != size:
            self._report(record, f"{name} is {found_width} × {found_height} pixels, the index says {width} × {height}")
