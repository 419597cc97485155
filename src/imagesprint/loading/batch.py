"""A batch: what it is made of, how its pixels are made in a reused buffer, and what becomes of a bad record."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from imagesprint.errors import DataError, ImageError, RecordError
from imagesprint.images.decoding import Decoder, DecodeRequest, Records
from imagesprint.images.native import Encoded
from imagesprint.records.dataset import Dataset


@dataclass(frozen=True, eq=False)
class Batch:
    """Images and what belongs to them; row i of each tensor is one sample. Valid until the next batch is asked for,
    which may be the same tensors with other values.

    images: uint8 [M, S, S, 3], RGB; of an evaluation by rectangles [M, H, W, 3]. labels: int64 [M], from 0.
    sample_ids: int64 [M], rows of the split's index.
    mask: bool [M], False for the padding of an evaluation's last batch (images and label 0, sample id −1).
    step: the training step, or the number of the evaluation's batch. draws: float32 [M, K] in [0, 1), the random
    numbers that a BatchSpec's `draws` asks for; K is 0 where it asks for none.
    """

    images: torch.Tensor
    labels: torch.Tensor
    sample_ids: torch.Tensor
    mask: torch.Tensor
    step: int
    draws: torch.Tensor


@dataclass(frozen=True, eq=False)
class Load:
    """One batch to be made: `rows` rows of which the first len(sample_ids) are samples and the rest padding.

    sample_ids int64[N] and draws float32[N, K] are the samples'; `shape` is the height and width of their pixels;
    crops, flips, antialias and to_end are as a `DecodeRequest` has them. `stand_ins` gives what may take the place of a
    row whose record is bad, as loads of one row; None: nothing may, and `advice` is added to the error's hint.
    """

    dataset: Dataset
    sample_ids: NDArray[np.int64]
    crops: NDArray[np.int32]
    flips: NDArray[np.bool_]
    draws: NDArray[np.float32]
    antialias: bool
    rows: int
    shape: tuple[int, int]
    step: int
    to_end: bool = False
    stand_ins: "Callable[[int], Iterator[Load]] | None" = None
    advice: str = ""

    def part(self, start: int, count: int, **changes: Any) -> "Load":
        """The load of `count` of its samples, from row `start` on, with `changes` in other fields."""
        rows = slice(start, start + count)
        of_rows = {name: getattr(self, name)[rows] for name in ("sample_ids", "crops", "flips", "draws")}
        return replace(self, rows=count, **of_rows, **changes)


@dataclass(frozen=True, eq=False)
class Filled:
    """A batch, and the errors of the bad records in whose place others stand in it.

    `seconds` is how long it took to make, `storage` for how long of that records were waited for that a store had yet
    to send, and `stages` what the decoder counted in the rest (`Decoder.stages`).
    """

    batch: Batch
    bad: list[DataError]
    seconds: float
    storage: float
    stages: NDArray[np.int64]


class Buffer:
    """Memory for one batch of up to `rows` rows and `values` pixel values, with up to `draws` random numbers a row;
    `pin` locks the pages for fast copies.
    """

    def __init__(self, rows: int, values: int, draws: int, pin: bool) -> None:
        self._pixels = torch.empty(values, dtype=torch.uint8, pin_memory=pin)
        self._draws = torch.empty(rows * draws, dtype=torch.float32, pin_memory=pin)
        self._labels = torch.empty(rows, dtype=torch.int64, pin_memory=pin)
        self._sample_ids = torch.empty(rows, dtype=torch.int64, pin_memory=pin)
        self._mask = torch.empty(rows, dtype=torch.bool, pin_memory=pin)
        self._shape = (-1, 0, 0, 0)
        self._tensors: tuple[torch.Tensor, ...] = ()
        self._arrays: tuple[NDArray[Any], ...] = ()

    def fill(self, load: Load, decoder: Decoder) -> Filled:
        """Read and decode `load` into this buffer; the batch's tensors are views of it.

        Raises RecordError for a damaged record, ImageError for an image that cannot be decoded, where no other may
        stand in; both say which.
        """
        began, stages, remote = time.perf_counter(), decoder.stages.copy(), load.dataset.remote
        waited = 0.0 if remote is None else remote.waited
        self._take_shape((load.rows, *load.shape, load.draws.shape[1]))
        images, labels, sample_ids, mask, draws = self._arrays
        real = len(load.sample_ids)
        made, bad = decode_sound(load, decoder, images[:real])
        labels[:real] = load.dataset.labels[made.sample_ids]
        sample_ids[:real] = made.sample_ids
        mask[:real] = True
        draws[:real] = made.draws
        if real < load.rows:
            images[real:], labels[real:], sample_ids[real:], mask[real:], draws[real:] = 0, 0, -1, False, 0
        pixels, of_images, ids, real_rows, numbers = self._tensors
        batch = Batch(pixels, of_images, ids, real_rows, load.step, numbers)
        storage = 0.0 if remote is None else remote.waited - waited
        return Filled(batch, bad, time.perf_counter() - began, storage, decoder.stages - stages)

    def _take_shape(self, shape: tuple[int, int, int, int]) -> None:
        """Have views of this memory for so many rows, pixels down and across, and draws: as tensors and, the same
        memory, as arrays. torch refuses to write to what was made inside the consumer's inference_mode, numpy does not.
        """
        if shape == self._shape:  # torch takes 0.15 ms for new ones
            return
        rows, height, width, draws = self._shape = shape
        pixels = self._pixels[: rows * height * width * 3].view(rows, height, width, 3)
        numbers = self._draws[: rows * draws].view(rows, draws)
        self._tensors = (pixels, self._labels[:rows], self._sample_ids[:rows], self._mask[:rows], numbers)
        self._arrays = tuple(tensor.numpy() for tensor in self._tensors)


MOST_IN_A_ROW: Final = 100  # so many after one another are no accident: the data is not what the index says


def decode_sound(load: Load, decoder: Decoder, out: NDArray[np.uint8]) -> tuple[Load, list[DataError]]:
    """Fill `out`, uint8[N, H, W, 3], with the pixels of the load's N samples, or of what stands in for them.

    Returns the load with the ids and draws of those that it came to, and the errors of the records that were passed
    over. A stand-in that is bad is passed over, and counted, like any other. Raises the error of the first bad record
    where the load has no stand-ins, RecordError where too many are bad, and what `decode_load` raises.
    """
    sample_ids, draws, bad = load.sample_ids.copy(), load.draws.copy(), list[DataError]()
    for row, error in decode_load(load, decoder, out).items():
        if load.stand_ins is None:
            raise type(error)(error.what, error.hint + load.advice)
        passed_over = [error]
        stand_in = _first_sound(load.stand_ins(row), decoder, out[row : row + 1], passed_over)
        sample_ids[row], draws[row] = stand_in.sample_ids[0], stand_in.draws[0]
        bad += passed_over
    return (replace(load, sample_ids=sample_ids, draws=draws) if bad else load), bad


def _first_sound(loads: Iterator[Load], decoder: Decoder, out: NDArray[np.uint8], passed_over: list[DataError]) -> Load:
    """Return the first of the one-row `loads` whose record is sound, with its pixels in `out`; collect the errors."""
    for load in islice(loads, MOST_IN_A_ROW - 1):
        failures = decode_load(load, decoder, out)
        if not failures:
            return load
        passed_over.append(failures[0])
    first, *more = passed_over
    others = f"the {len(more)} samples after it in the order are bad, too" if more else "nothing may stand in for it"
    raise RecordError(f"{first.what}; {others}", first.hint)


def decode_load(load: Load, decoder: Decoder, out: NDArray[np.uint8]) -> dict[int, DataError]:
    """Fill `out`, uint8[N, H, W, 3], with the pixels of the load's N samples.

    Returns the errors of the rows whose records are bad, lowest row first: damaged, or without an image that can be
    decoded. Each says which record it is; the pixels of such a row are unspecified. Raises DataError where shards
    cannot be read, and MemoryError.
    """
    records = _records(load.dataset, load.sample_ids)
    request = DecodeRequest(records, load.crops, load.flips, load.antialias, out, load.to_end)
    failures = decoder.load(request)
    if load.dataset.remote is not None and failures:
        failures = _without_renewed(load, decoder, out, failures)
    return {row: _located(error, load.dataset, int(load.sample_ids[row])) for row, error in failures.items()}


def _without_renewed(
    load: Load, decoder: Decoder, out: NDArray[np.uint8], failures: dict[int, DataError]
) -> dict[int, DataError]:
    """The failures but for those of records that were damaged on their way, or in the cache, and are sound once they
    are fetched again.
    """
    rows = [row for row, error in failures.items() if isinstance(error, RecordError)]
    for row in np.array(rows, np.int64)[load.dataset.renew(load.sample_ids[rows])].tolist():
        del failures[row]
        one = load.part(row, 1)
        records = _records(one.dataset, one.sample_ids)
        request = DecodeRequest(records, one.crops, one.flips, one.antialias, out[row : row + 1], one.to_end)
        again = decoder.load(request)
        if again:
            failures[row] = again[0]
    return dict(sorted(failures.items()))


def _records(dataset: Dataset, sample_ids: NDArray[np.int64]) -> Records:
    places = dataset.places(sample_ids)
    return Records(
        places.fds,
        places.offsets,
        places.lengths,
        places.encoded_offsets,
        places.encoded_lengths,
        raw_sizes=np.ascontiguousarray(dataset.sizes[sample_ids]) if dataset.image_format == "raw" else None,
        read=lambda row: _shaped(dataset, int(sample_ids[row]), places.read(row)),
        damaged=places.damaged,
    )


def read_encoded(dataset: Dataset, sample_id: int) -> Encoded:
    """Return the encoded image of a sample, or its raw pixels, uint8[H, W, 3]. Raises RecordError if it is damaged."""
    return _shaped(dataset, sample_id, dataset.read(sample_id))


def _shaped(dataset: Dataset, sample_id: int, data: memoryview) -> Encoded:
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
