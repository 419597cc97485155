"""The native decoder, which works on batches in threads of its own, and which decoder is at work."""

import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import UsageError
from imagesprint.images.coding import open_image
from imagesprint.images.decoding import STAGES, BatchImageError, Decoder, PillowDecoder
from imagesprint.images.native import (
    MESSAGE_BYTES,
    Encoded,
    Status,
    address,
    is_available,
    library,
    reason,
    shrink_jpeg,
    text,
)


@dataclass(frozen=True)
class CropRequest:
    """What a batch of N images is turned into: see `decoding.Decoder.decode`.

    `to_end` decodes each image to its last row, so that damage below its crop is found too. `stages`, int64[4], has
    the nanoseconds of each of STAGES, over all threads, added to it; None does without the clock.
    """

    crops: NDArray[np.int32]
    flips: NDArray[np.bool_]
    antialias: bool
    out: NDArray[np.uint8]
    to_end: bool = False
    stages: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Records:
    """N images in TFRecord shards: open files, where the records lie in them, and the images in their payloads.

    `fds` is int32[N]; the others, in bytes, are int64[N]. `raw_sizes`, int32[N, 2] as height and width, is given where
    the images are raw pixels.
    """

    fds: NDArray[np.int32]
    offsets: NDArray[np.int64]
    payload_lengths: NDArray[np.int64]
    encoded_offsets: NDArray[np.int64]
    encoded_lengths: NDArray[np.int64]
    raw_sizes: NDArray[np.int32] | None = None


@dataclass(frozen=True)
class Outcome:
    """How each row ended: `status`, int32[N] of `Status`. Rows that are not OK have a message, and no pixels."""

    status: NDArray[np.int32]
    _messages: NDArray[np.uint8] = field(repr=False)

    @cached_property
    def failed(self) -> list[int]:
        """The rows that are not OK, in order."""
        rows: list[int] = self.status.nonzero()[0].tolist()
        return rows

    def message(self, row: int) -> str:
        """Return why `row` failed: the words of libjpeg, or of a record ("does not match its CRC-32C")."""
        return text(self._messages[row].tobytes())


class _Batch(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        ("size", ctypes.c_int32),
        ("antialias", ctypes.c_int32),
        ("to_end", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("crops", "flips", "out", "status", "messages", "stages")),
    )


class _Images(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("data", "lengths", "raw_sizes"))


class _Records(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("fds", "offsets", "payload_lengths", "encoded_offsets", "encoded_lengths", "raw_sizes")
    )


class _Handle:
    """The library's pool, which ends when nobody holds this any more. Raises MemoryError."""

    def __init__(self, threads: int, portable: bool) -> None:
        self.address: int | None = library().ims_create(threads, portable)
        if self.address is None:
            raise MemoryError
        end = weakref.finalize(self, library().ims_destroy, self.address)
        end.atexit = False  # the end of the process ends its threads


class Pool:
    """Threads that decode batches, one batch at a time; the calling thread is one of them.

    Any thread may call it. `portable` keeps it from processor-specific code and leaves Huffman codes to libjpeg, for
    the same pixels. After a fork the child's copy goes on with threads of its own. Raises UsageError as `library` does.
    """

    def __init__(self, threads: int, portable: bool = False) -> None:
        if threads < 1:
            raise ValueError(f"{threads} threads")
        self._library = library()
        self._handle: _Handle | None = _Handle(threads, portable)
        self.resizer: str = self._library.ims_resizer(portable).decode()

    def close(self) -> None:
        """Take no more batches, and end the threads; a second call does nothing.

        Batches of other threads that are under way or wait for their turn are done first: the last ends the threads.
        """
        self._handle = None

    def decode(
        self, encoded: Sequence[Encoded], batch: CropRequest, raw_sizes: NDArray[np.int32] | None = None
    ) -> Outcome:
        """Decode N images in memory into `batch.out`: JPEG files, or raw pixels where `raw_sizes` is given."""
        views = [np.frombuffer(data, np.uint8) for data in encoded]
        pointers = np.array([address(view) for view in views], np.uintp)
        lengths = np.array([len(view) for view in views], np.int64)
        images = _Images(address(pointers), address(lengths), _checked_at(raw_sizes, np.int32, (len(views), 2)))
        return self._run(self._library.ims_decode, len(views), batch, images)

    def load(self, records: Records, batch: CropRequest) -> Outcome:
        """Read N records, check their CRCs and decode their images into `batch.out`, without Python for each."""
        count = len(records.fds)
        places = (records.offsets, records.payload_lengths, records.encoded_offsets, records.encoded_lengths)
        source = _Records(
            _checked_at(records.fds, np.int32, (count,)),
            *(_checked_at(place, np.int64, (count,)) for place in places),
            _checked_at(records.raw_sizes, np.int32, (count, 2)),
        )
        return self._run(self._library.ims_load, count, batch, source)

    def _run(self, function: Any, count: int, batch: CropRequest, source: ctypes.Structure) -> Outcome:
        if not batch.out.flags.writeable:
            raise ValueError("out cannot be written to")
        size = batch.out.shape[1]
        status = np.empty(count, np.int32)
        messages = np.empty((count, MESSAGE_BYTES), np.uint8)
        argument = _Batch(
            count,
            size,
            batch.antialias,
            batch.to_end,
            0,
            _checked_at(batch.crops, np.int32, (count, 4)),
            _checked_at(batch.flips, np.bool_, (count,)),
            _checked_at(batch.out, np.uint8, (count, size, size, 3)),
            address(status),
            address(messages),
            _checked_at(batch.stages, np.int64, (len(STAGES),)),
        )
        handle = self._handle  # held until the call returns, whoever closes the pool meanwhile
        if handle is None:
            raise ValueError("the pool is closed")
        function(handle.address, ctypes.byref(argument), ctypes.byref(source))
        return Outcome(status, messages)


class NativeDecoder:
    """A `decoding.Decoder`. What libjpeg cannot do goes to Pillow; `fallbacks` counts those images."""

    name: str = "native"

    def __init__(self, threads: int, portable: bool = False) -> None:
        self._pool = Pool(threads, portable)
        self._pillow = PillowDecoder(1)
        self.fallbacks = 0
        self.stages = np.zeros(len(STAGES), np.int64)

    def decode(
        self,
        encoded: Sequence[Encoded],
        crops: NDArray[np.int32],
        flips: NDArray[np.bool_],
        antialias: bool,
        out: NDArray[np.uint8],
        to_end: bool = False,
    ) -> None:
        outcome = _check_memory(self._pool.decode(encoded, CropRequest(crops, flips, antialias, out, to_end)))
        for row in outcome.failed:
            if outcome.status[row] != Status.UNSUPPORTED:
                raise batch_error(outcome, row)
            one = slice(row, row + 1)
            self.decode_by_pillow(encoded[row], row, crops[one], flips[one], antialias, out[one])

    def load(self, records: Records, batch: CropRequest) -> Outcome:
        """Read and decode records as `Pool.load` does; what to do with rows that are not OK is the caller's matter.

        Raises MemoryError, for which no record is to blame.
        """
        return _check_memory(self._pool.load(records, batch))

    def decode_by_pillow(
        self,
        encoded: Encoded,
        row: int,
        crop: NDArray[np.int32],
        flip: NDArray[np.bool_],
        antialias: bool,
        out: NDArray[np.uint8],
    ) -> None:
        """Decode the image of a row that is UNSUPPORTED; crop, flip and out have a length of 1."""
        try:
            self._pillow.decode([encoded], crop, flip, antialias, out)
        except BatchImageError as error:
            raise BatchImageError(error.what, error.hint, row) from None
        self.fallbacks += 1

    def close(self) -> None:
        self._pool.close()


def _check_memory(outcome: Outcome) -> Outcome:
    for row in outcome.failed:
        if outcome.status[row] == Status.MEMORY:
            raise MemoryError(outcome.message(row))
    return outcome


def batch_error(outcome: Outcome, row: int) -> BatchImageError:
    """The error for a row whose image, not its record, is at fault."""
    if outcome.status[row] == Status.OUTSIDE:
        hint = "the index and the image disagree about its size: check with `imagesprint verify`"
        return BatchImageError(outcome.message(row), hint, row)
    return BatchImageError(reason(outcome.status[row], outcome.message(row)), "", row)


def _checked_at(array: NDArray[Any] | None, dtype: Any, shape: tuple[int, ...]) -> int | None:
    """The address of an array that is as the library expects it; ValueError names what is not."""
    if array is None:
        return None
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"{array.dtype}{list(array.shape)} instead of contiguous {np.dtype(dtype)}{list(shape)}")
    return address(array)


VARIABLE: Final = "IMAGESPRINT_DECODER"
_PORTABLE: Final = "native-portable"
_CHOICES: Final = ("native", _PORTABLE, "pillow")


def chosen_decoder() -> str:
    """Return what the environment asks for, "" where it leaves the choice open. Raises UsageError if unknown."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen and chosen not in _CHOICES:
        raise UsageError(f"{VARIABLE}={chosen}: there is no such decoder", f"set it to {' or '.join(_CHOICES)}")
    return chosen


def use_native() -> bool:
    """Return whether images are to be decoded natively. Raises UsageError if that is asked for but not installed."""
    chosen = chosen_decoder()
    if chosen.startswith("native"):
        library()
    return chosen != "pillow" and is_available()


def use_portable() -> bool:
    """Return whether the native decoder is to do without processor-specific and own Huffman code. Raises UsageError."""
    return chosen_decoder() == _PORTABLE


def open_decoder(threads: int) -> Decoder:
    """The decoder of this installation or of the user's choice, with `threads` ≥ 1 threads. Raises UsageError."""
    return NativeDecoder(threads, use_portable()) if use_native() else PillowDecoder(threads)


def decoder_name() -> str:
    """Return the `name` of the decoder that `open_decoder` gives. Raises UsageError."""
    return NativeDecoder.name if use_native() else PillowDecoder.name


def describe_decoder() -> str:
    """Return which decoder `open_decoder` gives, and why it is Pillow where it is, for people. Raises UsageError."""
    chosen = chosen_decoder()
    if chosen == "pillow":
        return f"pillow, as {VARIABLE} says"
    try:
        return f"native ({library().ims_resizer(use_portable()).decode()})"
    except UsageError as error:
        if chosen:
            raise
        return f"pillow: {error.what}; {error.hint}"


class ImageCheck:
    """Decodes whole images, natively where that is possible, else by Pillow; any number of threads may call it.

    The verdict is that of `coding.load_image`. Natively, `num_stray` counts images with stray bytes before a marker,
    which harm no pixel. Raises UsageError as `use_native` does.
    """

    def __init__(self) -> None:
        self.num_stray = 0
        self._natively = use_native()
        self._lock = threading.Lock()

    def __call__(self, encoded: bytes) -> tuple[int, int]:
        """Return height and width in pixels. Raises ImageError with the reason where the image is damaged."""
        decoded = shrink_jpeg(encoded, (), 0) if self._natively else None
        if decoded is None:
            image = open_image(encoded)
            return image.height, image.width
        if decoded.num_stray:
            with self._lock:
                self.num_stray += 1
        return decoded.info.height, decoded.info.width
