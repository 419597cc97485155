"""What becomes of a bad record: it stops the loader, or the next sound sample of the epoch's order stands in."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import DataError, RecordError
from imagesprint.images.decoding import Decoder
from imagesprint.loading.load import Load, decode_load

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
