"""What a batch is to be made of, and making its pixels: natively from the shards, or read here and decoded by
Pillow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import ImageError, RecordError
from imagesprint.images import native
from imagesprint.images.decoding import BatchImageError, Decoder, Encoded
from imagesprint.records.dataset import Dataset
from imagesprint.records.tfrecord import damaged


@dataclass(frozen=True, eq=False)
class Load:
    """One batch to be made: `rows` rows of which the first len(sample_ids) are samples and the rest padding.

    sample_ids int64[N], crops int32[N, 4] and flips bool[N] are as `images.decoding` takes them. With `to_end` images
    are decoded to their last row, so that damage below the crop is found too, where the decoder can do that.
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


def decode_load(load: Load, decoder: Decoder, out: NDArray[np.uint8]) -> None:
    """Fill `out`, uint8[N, S, S, 3], with the pixels of the load's N samples.

    Raises RecordError for a damaged record, ImageError for an image that cannot be decoded; both say which.
    """
    try:
        if isinstance(decoder, native.NativeDecoder):
            _load_natively(load, decoder, out)
        else:
            encoded = [_read(load.dataset, sample_id) for sample_id in load.sample_ids.tolist()]
            decoder.decode(encoded, load.crops, load.flips, load.antialias, out)
    except BatchImageError as error:
        where = load.dataset.describe(int(load.sample_ids[error.position]))
        hint = error.hint or "`imagesprint prepare` leaves images out that cannot be decoded: prepare the dataset again"
        raise ImageError(f"{where}: {error.what}", hint) from error


def _load_natively(load: Load, decoder: native.NativeDecoder, out: NDArray[np.uint8]) -> None:
    dataset, ids = load.dataset, load.sample_ids
    places = dataset.places(ids)
    records = native.Records(
        places.fds,
        places.offsets,
        places.lengths,
        places.encoded_offsets,
        places.encoded_lengths,
        raw_sizes=np.ascontiguousarray(dataset.sizes[ids]) if dataset.image_format == "raw" else None,
    )
    outcome = decoder.load(records, native.Batch(load.crops, load.flips, load.antialias, out, load.to_end))
    for row in np.flatnonzero(outcome.status).tolist():
        status = outcome.status[row]
        if status == native.Status.UNSUPPORTED:
            one = slice(row, row + 1)
            encoded = dataset.read(int(ids[row]))
            decoder.decode_by_pillow(encoded, row, load.crops[one], load.flips[one], load.antialias, out[one])
        elif status >= native.Status.UNREADABLE:
            raise damaged(places.path(row), int(places.offsets[row]), outcome.message(row))
        else:
            raise native.batch_error(outcome, row, int(places.encoded_lengths[row]))


def _read(dataset: Dataset, sample_id: int) -> Encoded:
    data = dataset.read(sample_id)
    if dataset.image_format != "raw":
        return data
    height, width = dataset.sizes[sample_id].tolist()
    if len(data) != height * width * 3:
        raise RecordError(
            f"{dataset.describe(sample_id)}: {len(data)} bytes are not {width} × {height} raw pixels",
            f"`imagesprint verify {dataset.path}` lists all damage",
        )
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)
