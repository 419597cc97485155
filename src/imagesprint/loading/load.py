"""What a batch is to be made of, and making its pixels: natively from the shards, or read here and decoded by
Pillow."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import DataError, ImageError, RecordError
from imagesprint.images.decoding import READ, BatchImageError, Decoder
from imagesprint.images.native_batches import CropRequest, NativeDecoder, Records, batch_error
from imagesprint.images.native_library import Encoded, Status
from imagesprint.records.dataset import Dataset
from imagesprint.records.tfrecord import damaged


@dataclass(frozen=True, eq=False)
class Load:
    """One batch to be made: `rows` rows of which the first len(sample_ids) are samples and the rest padding.

    sample_ids int64[N], crops int32[N, 4] and flips bool[N] are as `images.decoding` takes them. With `to_end` images
    are decoded to their last row, so that damage below the crop is found too, where the decoder can do that.
    `stand_ins` gives what may take the place of a row whose record is bad, as loads of one row; None: nothing may, and
    `advice` is added to the error's hint.
    """

    dataset: Dataset
    sample_ids: NDArray[np.int64]
    crops: NDArray[np.int32]
    flips: NDArray[np.bool_]
    antialias: bool
    rows: int
    image_size: int
    step: int
    to_end: bool = False
    stand_ins: "Callable[[int], Iterator[Load]] | None" = None
    advice: str = ""

    def part(self, start: int, count: int, **changes: Any) -> "Load":
        """The load of `count` of its samples, from row `start` on, with `changes` in other fields."""
        rows = slice(start, start + count)
        ids, crops, flips = self.sample_ids[rows], self.crops[rows], self.flips[rows]
        return replace(self, sample_ids=ids, crops=crops, flips=flips, rows=count, **changes)


def decode_load(load: Load, decoder: Decoder, out: NDArray[np.uint8]) -> dict[int, DataError]:
    """Fill `out`, uint8[N, S, S, 3], with the pixels of the load's N samples.

    Returns the errors of the rows whose records are bad, lowest row first: damaged, or without an image that can be
    decoded. Each says which record it is; the pixels of such a row are unspecified. Raises DataError where shards
    cannot be read, and MemoryError.
    """
    if isinstance(decoder, NativeDecoder):
        return _load_natively(load, decoder, out)
    return _load_by_pillow(load, decoder, out)


def _load_natively(load: Load, decoder: NativeDecoder, out: NDArray[np.uint8]) -> dict[int, DataError]:
    dataset, ids = load.dataset, load.sample_ids
    places = dataset.places(ids)
    records = Records(
        places.fds,
        places.offsets,
        places.lengths,
        places.encoded_offsets,
        places.encoded_lengths,
        raw_sizes=np.ascontiguousarray(dataset.sizes[ids]) if dataset.image_format == "raw" else None,
    )
    outcome = decoder.load(records, CropRequest(load.crops, load.flips, load.antialias, out, load.to_end, decoder.stages))
    failures: dict[int, DataError] = {}
    for row in outcome.failed:
        status = outcome.status[row]
        error: DataError | None
        if status == Status.UNSUPPORTED:
            error = _fall_back(load.part(row, 1), decoder, out[row : row + 1])
        elif status >= Status.UNREADABLE:
            error = damaged(places.path(row), int(places.offsets[row]), outcome.message(row))
        else:
            error = batch_error(outcome, row)
        if error is not None:
            failures[row] = _located(error, dataset, int(ids[row]))
        if status == Status.UNREADABLE:  # the disk's fault: the record may be sound
            raise failures[row]
    return failures


def _fall_back(load: Load, decoder: NativeDecoder, out: NDArray[np.uint8]) -> BatchImageError | None:
    """Decode a load of one row by Pillow; returns why that is not possible."""
    encoded = load.dataset.read(int(load.sample_ids[0]))
    try:
        decoder.decode_by_pillow(encoded, 0, load.crops, load.flips, load.antialias, out)
    except BatchImageError as error:
        return error
    return None


def _load_by_pillow(load: Load, decoder: Decoder, out: NDArray[np.uint8]) -> dict[int, DataError]:
    try:
        began = time.perf_counter_ns()
        encoded = [read_encoded(load.dataset, sample_id) for sample_id in load.sample_ids.tolist()]
        decoder.stages[READ] += time.perf_counter_ns() - began
        decoder.decode(encoded, load.crops, load.flips, load.antialias, out)
    except (BatchImageError, RecordError) as error:
        if isinstance(error.__cause__, OSError):  # the disk's fault, not the record's
            raise
        if len(load.sample_ids) > 1:  # the decoder names the first bad row only
            alone = (_load_by_pillow(load.part(row, 1), decoder, out[row : row + 1]) for row in range(len(out)))
            return {row: failures[0] for row, failures in enumerate(alone) if failures}
        return {0: _located(error, load.dataset, int(load.sample_ids[0]))}
    return {}


def read_encoded(dataset: Dataset, sample_id: int) -> Encoded:
    """Return the encoded image of a sample, or its raw pixels, uint8[H, W, 3]. Raises RecordError if it is damaged."""
    data = dataset.read(sample_id)
    if dataset.image_format != "raw":
        return data
    height, width = dataset.sizes[sample_id].tolist()
    if len(data) != height * width * 3:
        raise RecordError(
            f"{dataset.describe(sample_id)}: {len(data)} bytes are no raw image of {width}×{height} pixels",
            f"`imagesprint verify {dataset.path}` lists all damage",
        )
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _located(error: DataError, dataset: Dataset, sample_id: int) -> DataError:
    """The error of an image or a record with the record's number and, where that can be read, the file's name."""
    if isinstance(error, RecordError):  # which begins with its shard
        return RecordError(f"{dataset.describe(sample_id)}: {error.what.partition(': ')[2]}", error.hint)
    hint = error.hint or "`imagesprint prepare` leaves images out that cannot be decoded: prepare the dataset again"
    return ImageError(f"{dataset.describe(sample_id)}: {error.what}", hint)
