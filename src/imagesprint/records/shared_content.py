"""Images that are in both splits: the same content in training and validation makes the accuracy look better."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imagesprint.records.image_record import ImageRecord
from imagesprint.records.index import Index
from imagesprint.records.tfrecord import read_record

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class RecordPlace:
    """Where a record lies: its shard's file name, its number in the shard from 0, the source file's name."""

    shard: str
    record: int
    filename: str


@dataclass(frozen=True)
class SharedContent:
    """A training image and the first validation image whose encoded bytes are the same."""

    train: RecordPlace
    validation: RecordPlace


class Digests:
    """The digests of a split's images: 128 bits of BLAKE2b, 24 bytes an image in all."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._sample_ids: list[npt.NDArray[np.int64]] = []

    def extend(self, sample_ids: list[int], digests: bytes | bytearray) -> None:
        """Add the digests, one after the other, of these samples."""
        self._sample_ids.append(np.array(sample_ids, np.int64))
        self._digests += digests

    def table(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
        """Return the sample ids, int64 [N], and their digests, uint64 [N, 2]."""
        ids = np.concatenate([np.zeros(0, np.int64), *self._sample_ids])
        return ids, np.frombuffer(self._digests, np.uint64).reshape(-1, 2)


def digest(encoded: bytes) -> bytes:
    """Return 128 bits that stand for the encoded image."""
    return hashlib.sha256(encoded).digest()[:_DIGEST_BYTES]


def find_shared(
    folder: Path,
    indexes: Mapping[str, Index],
    digests: Mapping[str, Digests],
    shard: Callable[[str], AbstractContextManager[None]],
) -> list[SharedContent]:
    """Return the images that train and validation of the variant in `folder` share, in the order of training samples;
    `shard` has one of its shards be there while it is entered.

    Raises RecordError if a record of theirs can no longer be read.
    """
    train_ids, train = digests["train"].table()
    validation_ids, validation = digests["validation"].table()
    # Half of the digest finds the few that are worth comparing whole.
    rows = np.flatnonzero(np.isin(train[:, 0], validation[:, 0])).tolist()
    if not rows:
        return []
    first = {key.tobytes(): row for row, key in reversed(list(enumerate(validation)))}
    pairs = [(row, first.get(train[row].tobytes())) for row in rows]
    return [
        SharedContent(
            train=_place(folder, indexes["train"], int(train_ids[row]), shard),
            validation=_place(folder, indexes["validation"], int(validation_ids[other]), shard),
        )
        for row, other in pairs
        if other is not None
    ]


def _place(
    folder: Path, index: Index, sample_id: int, opened: Callable[[str], AbstractContextManager[None]]
) -> RecordPlace:
    shard, offset, length = (int(column[sample_id]) for column in (index.shard, index.offset, index.length))
    path = folder / index.shard_names[shard]
    with opened(path.name), path.open("rb") as file:
        payload = read_record(file.fileno(), offset, length, path)
    record = sample_id - int(np.searchsorted(index.shard, shard))
    return RecordPlace(path.name, record, ImageRecord.from_example(payload).filename)
