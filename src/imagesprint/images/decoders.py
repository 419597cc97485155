"""Which decoder is at work, and the native one, which works on batches in threads of its own.

The environment's IMAGESPRINT_DECODER may be "native", "native-portable" (without processor-specific code, and with
libjpeg's own Huffman decoding, for the same pixels) or "pillow", which is in decoding.py with what is asked of both.
"""

import ctypes
import os
import threading
import weakref
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import DataError, ImageError, UsageError
from imagesprint.images.coding import open_image
from imagesprint.images.decoding import OTHER_SIZE_HINT, STAGES, Decoder, DecodeRequest, PillowDecoder, Records
from imagesprint.images.native import (
    MESSAGE_BYTES,
    Status,
    address,
    is_available,
    library,
    reason,
    shrink_jpeg,
    text,
)

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


class NativeDecoder:
    """A `decoding.Decoder`. What libjpeg cannot do goes to Pillow; `fallbacks` counts those images."""

    name: str = "native"

    def __init__(self, threads: int, portable: bool = False) -> None:
        self._pool = Pool(threads, portable)
        self._pillow = PillowDecoder(1)
        self.fallbacks = 0
        self.stages = np.zeros(len(STAGES), np.int64)

    def load(self, request: DecodeRequest) -> dict[int, DataError]:
        outcome = self._pool.run(request, self.stages)
        failures = {row: self._failure(request, row, outcome) for row in outcome.failed}
        return {row: error for row, error in failures.items() if error is not None}

    def _failure(self, request: DecodeRequest, row: int, outcome: "Outcome") -> DataError | None:
        """The error of a row that is not OK; None where Pillow decodes it."""
        status, message = outcome.status[row], outcome.message(row)
        if status == Status.MEMORY:
            raise MemoryError(message)
        if status == Status.UNSUPPORTED:
            error = self._pillow.load(request.alone(row)).get(0)
            self.fallbacks += error is None
            return error
        if status >= Status.UNREADABLE and isinstance(request.images, Records):
            damaged = request.images.damaged(row, message)
            if status == Status.UNREADABLE:  # the disk's fault: the record may be sound
                raise damaged
            return damaged
        if status == Status.OUTSIDE:
            return ImageError(message, OTHER_SIZE_HINT)
        return ImageError(reason(status, message))

    def close(self) -> None:
        self._pool.close()


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

    def run(self, request: DecodeRequest, stages: NDArray[np.int64] | None = None) -> "Outcome":
        """Decode N images: those of records, which are read and checked here, without Python for each; or those in
        memory, JPEG files or pixels. `stages`, int64[4], has the nanoseconds of each of STAGES, over all threads, added
        to it; None does without the clock.
        """
        if isinstance(request.images, Records):
            return self._call(self._library.ims_load, _Records.of(request.images), request, stages)
        views = [np.frombuffer(data, np.uint8) for data in request.images]
        pointers = np.array([address(view) for view in views], np.uintp)
        lengths = np.array([len(view) for view in views], np.int64)
        pixels = [data.shape[:2] for data in request.images if isinstance(data, np.ndarray)]
        sizes = np.array(pixels, np.int32) if len(pixels) == len(views) > 0 else None
        images = _Images(address(pointers), address(lengths), _checked_at(sizes, np.int32, (len(views), 2)))
        return self._call(self._library.ims_decode, images, request, stages)

    def _call(
        self, function: Any, source: ctypes.Structure, request: DecodeRequest, stages: NDArray[np.int64] | None
    ) -> "Outcome":
        if not request.out.flags.writeable:
            raise ValueError("out cannot be written to")
        images, (height, width) = request.images, request.out.shape[1:3]
        count = len(images.fds) if isinstance(images, Records) else len(images)
        status = np.empty(count, np.int32)
        messages = np.empty((count, MESSAGE_BYTES), np.uint8)
        batch = _Batch(
            count,
            height,
            width,
            request.antialias,
            request.to_end,
            _checked_at(request.crops, np.int32, (count, 4)),
            _checked_at(request.flips, np.bool_, (count,)),
            _checked_at(request.out, np.uint8, (count, height, width, 3)),
            address(status),
            address(messages),
            _checked_at(stages, np.int64, (len(STAGES),)),
        )
        handle = self._handle  # held until the call returns, whoever closes the pool meanwhile
        if handle is None:
            raise ValueError("the pool is closed")
        function(handle.address, ctypes.byref(batch), ctypes.byref(source))
        return Outcome(status, messages)


class _Handle:
    """The library's pool, which ends when nobody holds this any more. Raises MemoryError."""

    def __init__(self, threads: int, portable: bool) -> None:
        self.address: int | None = library().ims_create(threads, portable)
        if self.address is None:
            raise MemoryError
        end = weakref.finalize(self, library().ims_destroy, self.address)
        end.atexit = False  # the end of the process ends its threads


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
        *((name, ctypes.c_int32) for name in ("height", "width", "antialias", "to_end")),
        *((name, ctypes.c_void_p) for name in ("crops", "flips", "out", "status", "messages", "stages")),
    )


class _Images(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("data", "lengths", "raw_sizes"))


class _Records(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("fds", "offsets", "payload_lengths", "encoded_offsets", "encoded_lengths", "raw_sizes")
    )

    @classmethod
    def of(cls, records: Records) -> "_Records":
        count = len(records.fds)
        places = (records.offsets, records.payload_lengths, records.encoded_offsets, records.encoded_lengths)
        return cls(
            _checked_at(records.fds, np.int32, (count,)),
            *(_checked_at(place, np.int64, (count,)) for place in places),
            _checked_at(records.raw_sizes, np.int32, (count, 2)),
        )


def _checked_at(array: NDArray[Any] | None, dtype: Any, shape: tuple[int, ...]) -> int | None:
    """The address of an array that is as the library expects it; ValueError names what is not."""
    if array is None:
        return None
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"{array.dtype}{list(array.shape)} instead of contiguous {np.dtype(dtype)}{list(shape)}")
    return address(array)
