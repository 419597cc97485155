"""The work of one of `index`'s workers: one shard that another program wrote, read from end to end."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagesprint.errors import DataError, ImageError, RecordError
from imagesprint.images.coding import read_size
from imagesprint.prepare.foreign.shards import ForeignShard
from imagesprint.records.example import decode_example, locate_bytes
from imagesprint.records.image_record import ENCODED_NAMES, ImageRecord, sound_boxes
from imagesprint.records.index import Index
from imagesprint.records.manifest import ShardInfo
from imagesprint.records.tfrecord import file_crc, iter_records

_TICK = 256  # records between two reports of progress
_MAX_LABEL = 999_999  # far beyond any set of images: a class list up to a damaged label could fill all memory
_AGAIN = "copy the shard anew from where it is sound, then give the same command again"

# Notes, counted over all records.
OTHER_SIZE = "records have another size than their image; the image's counts"
UNSOUND_BOXES = "records have boxes that reach beyond the image (clipped) or are none (left out)"

# What the records of a shard say of each label: by synset, the first record's number and text.
Labels = dict[int, dict[str, tuple[int, str]]]


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

    Raises DataError, naming shard and record, at the first record that is damaged or no labelled image.
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
    except (RecordError, ImageError) as error:
        raise DataError(f"{where}: {error.what}", error.hint or _AGAIN) from error
    if not 0 <= record.label <= _MAX_LABEL:
        raise DataError(f"{where}: label {record.label} is none", "labels are 0 or 1 and up; leave out what has none")
    if (record.height or height, record.width or width) != (height, width):
        notes.append(OTHER_SIZE)
    if not sound_boxes(features)[1]:
        notes.append(UNSOUND_BOXES)
    return dataclasses.replace(record, height=height, width=width), notes
