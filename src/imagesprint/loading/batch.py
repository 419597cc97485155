"""A batch: what it is made of, how its pixels are made in a reused buffer, and what becomes of a bad record."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from imagesprint.errors import DataError, ImageError, RecordError
from imagesprint.images.decoders import CropRequest, NativeDecoder, Records, batch_error
from imagesprint.images.decoding import READ, BatchImageError, Decoder
from imagesprint.images.native import Encoded, Status
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
    outcome = decoder.load(
        records, CropRequest(load.crops, load.flips, load.antialias, out, load.to_end, decoder.stages)
    )
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


MOST_IN_A_ROW: Final = 100  # so many after one another are no accident: the data is not what the index says


@dataclass(frozen=True, eq=False)
class Decoded:
    """Which samples the pixels of a load are of, int64[N], and the errors of the records that were passed over."""

    sample_ids: NDArray[np.int64]
    bad: tuple[DataError, ...]


def decode_sound(load: Load, decoder: Decoder, out: NDArray[np.uint8]) -> Decoded:
    """Fill `out`, uint8[N, S, S, 3], with the pixels of the load's N samples, or of what stands in for them.

    A stand-in that is bad is passed over, and counted, like any other. Raises the error of the first bad record where
    the load has no stand-ins, RecordError where too many are bad, and what `decode_load` raises.
    """
    sample_ids, bad = load.sample_ids, list[DataError]()
    for row, error in decode_load(load, decoder, out).items():
        if load.stand_ins is None:
            raise type(error)(error.what, error.hint + load.advice)
        passed_over = [error]
        stand_in = _first_sound(load.stand_ins(row), decoder, out[row : row + 1], passed_over)
        if not bad:
            sample_ids = sample_ids.copy()
        sample_ids[row] = stand_in.sample_ids[0]
        bad += passed_over
    return Decoded(sample_ids, tuple(bad))


def _first_sound(loads: Iterator[Load], decoder: Decoder, out: NDArray[np.uint8], passed_over: list[DataError]) -> Load:
    """Return the first of the one-row `loads` whose record is sound, with its pixels in `out`; collect the errors."""
    for load in islice(loads, MOST_IN_A_ROW - 1):
        failures = decode_load(load, decoder, out)
        if not failures:
            return load
        passed_over.append(failures[0])
    first, *more = passed_over
    raise RecordError(f"{first.what}; the {len(more)} samples after it in the epoch's order are bad, too", first.hint)


@dataclass(frozen=True, eq=False)
class Batch:
    """Images and what belongs to them; row i of each tensor is one sample. Valid until the next batch is asked for,
    which may be the same tensors with other values.

    images: uint8 [M, S, S, 3], RGB. labels: int64 [M], from 0. sample_ids: int64 [M], rows of the split's index.
    mask: bool [M], False for the padding of an evaluation's last batch (images and label 0, sample id −1).
    step: the training step, or the number of the evaluation's batch.
    draws: float32 [M, K] in [0, 1), the recipe's batch transforms' own (`Recipe.draws`).
    """

    images: torch.Tensor
    labels: torch.Tensor
    sample_ids: torch.Tensor
    mask: torch.Tensor
    step: int
    draws: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))


@dataclass(frozen=True, eq=False)
class Filled:
    """A batch, and the errors of the bad records in whose place others stand in it.

    `seconds` is how long it took to make, `stages` what the decoder counted meanwhile (`Decoder.stages`).
    """

    batch: Batch
    bad: tuple[DataError, ...]
    seconds: float
    stages: NDArray[np.int64]


class Buffer:
    """Memory for one batch of up to `rows` rows and `values` pixel values; `pin` locks the pages for fast copies."""

    def __init__(self, rows: int, values: int, pin: bool) -> None:
        self._pixels = torch.empty(values, dtype=torch.uint8, pin_memory=pin)
        self._labels = torch.empty(rows, dtype=torch.int64, pin_memory=pin)
        self._sample_ids = torch.empty(rows, dtype=torch.int64, pin_memory=pin)
        self._mask = torch.empty(rows, dtype=torch.bool, pin_memory=pin)
        self._views: _Views | None = None

    def fill(self, load: Load, decoder: Decoder) -> Filled:
        """Read and decode `load` into this buffer; the batch's tensors are views of it.

        Raises RecordError for a damaged record, ImageError for an image that cannot be decoded, where no other may
        stand in; both say which.
        """
        began, stages = time.perf_counter(), decoder.stages.copy()
        rows, real, views = load.rows, len(load.sample_ids), self._views_for(load.rows, load.image_size)
        images, labels, sample_ids, mask = views.arrays
        decoded = decode_sound(load, decoder, images[:real])
        labels[:real] = load.dataset.labels[decoded.sample_ids]
        sample_ids[:real] = decoded.sample_ids
        mask[:real] = True
        if real < rows:
            images[real:], labels[real:], sample_ids[real:], mask[real:] = 0, 0, -1, False
        batch = Batch(*views.tensors, load.step)
        return Filled(batch, decoded.bad, time.perf_counter() - began, decoder.stages - stages)

    def _views_for(self, rows: int, image_size: int) -> "_Views":
        """This memory as a batch's tensors; those of the last call if they fit: torch takes 0.15 ms for new ones."""
        views = self._views
        if views is None or (views.rows, views.image_size) != (rows, image_size):
            shape = (rows, image_size, image_size, 3)
            pixels = self._pixels[: math.prod(shape)].view(shape)
            tensors = (pixels, self._labels[:rows], self._sample_ids[:rows], self._mask[:rows])
            views = self._views = _Views(rows, image_size, tensors, tuple(each.numpy() for each in tensors))
        return views


@dataclass(frozen=True, eq=False)
class _Views:
    """Images, labels, sample ids and mask of `rows` rows, as tensors and, the same memory, as arrays: torch refuses to
    write to what was made inside the consumer's inference_mode, numpy does not.
    """

    rows: int
    image_size: int
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
    arrays: tuple[NDArray[Any], ...]
