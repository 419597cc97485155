"""The native decoder: the shared library of native/, bound by ctypes, which lets go of the interpreter's lock.

`setup.py` builds it where a C compiler and libjpeg-turbo's headers are found. Its interface is native/imagesprint.h,
whose structs and numbers are repeated here.
"""

import ctypes
import functools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import ImageError, UsageError
from imagesprint.images.decoding import BatchImageError, Encoded, PillowDecoder

LIBRARY: Final = Path(__file__).with_name("libimagesprint.so")
STAGES: Final = ("read", "crc", "jpeg", "resize")  # what `Batch.stages` counts, in nanoseconds over all threads

_ABI = 3
_MESSAGE_BYTES = 200
_BUILD = "apt-get install gcc libjpeg-dev, then install imagesprint again (in a clone: pip install -e .)"


class Status(IntEnum):
    """How a row of a batch ended."""

    OK = 0
    UNSUPPORTED = 1  # no JPEG that is decoded here, but perhaps by Pillow: CMYK, 12 bits, PNG, …
    DAMAGED = 2
    TOO_LARGE = 3
    OUTSIDE = 4  # the crop is not within the image
    MEMORY = 5
    UNREADABLE = 6  # from here on: of the record, not the image
    CUT_SHORT = 7
    BAD_HEADER = 8
    OTHER_LENGTH = 9
    BAD_PAYLOAD = 10


@dataclass(frozen=True)
class Batch:
    """What a batch of N images is turned into: see `decoding.Decoder.decode`.

    `to_end` decodes each image to its last row, so that damage below its crop is found too. `stages`, int64[4], has
    the time of each of STAGES added to it; None does without the clock.
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

    def message(self, row: int) -> str:
        """Return why `row` failed: the words of libjpeg, or of a record ("does not match its CRC-32C")."""
        return _text(self._messages[row].tobytes())


@dataclass(frozen=True)
class JpegInfo:
    """A JPEG that the native decoder can decode: pixels, channels (1 or 3), and whether it is progressive."""

    height: int
    width: int
    channels: int
    progressive: bool


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


class _Info(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int32) for name in ("width", "height", "components", "progressive", "extraneous"))


class _Version(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("shorter_side", "quality", "width", "height")),
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_int64),
        ("nanoseconds", ctypes.c_int64),
    )


_INT32, _INT64, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
_FUNCTIONS = {
    "ims_abi": (_INT32, []),
    "ims_resizer": (ctypes.c_char_p, [_INT32]),
    "ims_create": (_POINTER, [_INT32, _INT32]),
    "ims_destroy": (None, [_POINTER]),
    "ims_decode": (None, [_POINTER, _POINTER, _POINTER]),
    "ims_load": (None, [_POINTER, _POINTER, _POINTER]),
    "ims_read_info": (_INT32, [_POINTER, _INT64, _POINTER, _POINTER]),
    "ims_decode_whole": (_INT32, [_POINTER, _INT64, _POINTER, _POINTER, _POINTER]),
    "ims_shrink": (_INT32, [_POINTER, _INT64, _POINTER, _INT32, _POINTER, _POINTER, _POINTER]),
    "ims_free": (None, [_POINTER]),
    "ims_entropy_ns": (_INT32, [_POINTER, _INT64, _INT32, _POINTER, _POINTER]),
    "ims_crc32c": (ctypes.c_uint32, [_POINTER, _INT64, _INT32]),
}


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library. Raises UsageError, which says why, where it is not built or does not fit this machine."""
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        why = str(error) if LIBRARY.exists() else f"there is no {LIBRARY}"
        raise UsageError(f"the native decoder is not installed: {why}", _BUILD) from None
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    if loaded.ims_abi() != _ABI:
        raise UsageError(f"{LIBRARY} is version {loaded.ims_abi()}, but version {_ABI} is needed", _BUILD)
    return loaded


def is_available() -> bool:
    """Return whether the library can be used."""
    try:
        library()
    except UsageError:
        return False
    return True


class Pool:
    """Threads that decode batches, one batch at a time; the calling thread is one of them.

    `portable` keeps it from processor-specific code, which gives the same pixels. After a fork the child's copy goes on
    with threads of its own. Raises UsageError as `library` does.
    """

    def __init__(self, threads: int, portable: bool = False) -> None:
        if threads < 1:
            raise ValueError(f"{threads} threads")
        self._library = library()
        self._handle: int | None = self._library.ims_create(threads, portable)
        if self._handle is None:
            raise MemoryError
        self.resizer: str = self._library.ims_resizer(portable).decode()
        self._destroy = weakref.finalize(self, self._library.ims_destroy, self._handle)
        self._destroy.atexit = False  # the end of the process ends its threads

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        self._handle = None
        self._destroy()

    def decode(self, encoded: Sequence[Encoded], batch: Batch, raw_sizes: NDArray[np.int32] | None = None) -> Outcome:
        """Decode N images in memory into `batch.out`: JPEG files, or raw pixels where `raw_sizes` is given."""
        views = [np.frombuffer(data, np.uint8) for data in encoded]
        pointers = np.array([_at(view) for view in views], np.uintp)
        lengths = np.array([len(view) for view in views], np.int64)
        images = _Images(_at(pointers), _at(lengths), _checked_at(raw_sizes, np.int32, (len(views), 2)))
        return self._run(self._library.ims_decode, len(views), batch, images)

    def load(self, records: Records, batch: Batch) -> Outcome:
        """Read N records, check their CRCs and decode their images into `batch.out`, without Python for each."""
        count = len(records.fds)
        places = (records.offsets, records.payload_lengths, records.encoded_offsets, records.encoded_lengths)
        source = _Records(
            _checked_at(records.fds, np.int32, (count,)),
            *(_checked_at(place, np.int64, (count,)) for place in places),
            _checked_at(records.raw_sizes, np.int32, (count, 2)),
        )
        return self._run(self._library.ims_load, count, batch, source)

    def _run(self, function: Any, count: int, batch: Batch, source: ctypes.Structure) -> Outcome:
        if self._handle is None:
            raise ValueError("the pool is closed")
        if not batch.out.flags.writeable:
            raise ValueError("out cannot be written to")
        size = batch.out.shape[1]
        status = np.empty(count, np.int32)
        messages = np.empty((count, _MESSAGE_BYTES), np.uint8)
        argument = _Batch(
            count,
            size,
            batch.antialias,
            batch.to_end,
            0,
            _checked_at(batch.crops, np.int32, (count, 4)),
            _checked_at(batch.flips, np.bool_, (count,)),
            _checked_at(batch.out, np.uint8, (count, size, size, 3)),
            _at(status),
            _at(messages),
            _checked_at(batch.stages, np.int64, (len(STAGES),)),
        )
        function(self._handle, ctypes.byref(argument), ctypes.byref(source))
        return Outcome(status, messages)


class NativeDecoder:
    """A `decoding.Decoder`. What libjpeg cannot do goes to Pillow; `fallbacks` counts those images."""

    name: str = "native"

    def __init__(self, threads: int, portable: bool = False) -> None:
        self._pool = Pool(threads, portable)
        self._pillow = PillowDecoder(1)
        self.fallbacks = 0

    def decode(
        self,
        encoded: Sequence[Encoded],
        crops: NDArray[np.int32],
        flips: NDArray[np.bool_],
        antialias: bool,
        out: NDArray[np.uint8],
        to_end: bool = False,
    ) -> None:
        outcome = self._pool.decode(encoded, Batch(crops, flips, antialias, out, to_end))
        for row in np.flatnonzero(outcome.status).tolist():
            if outcome.status[row] != Status.UNSUPPORTED:
                raise batch_error(outcome, row, len(encoded[row]))
            one = slice(row, row + 1)
            self.decode_by_pillow(encoded[row], row, crops[one], flips[one], antialias, out[one])

    def load(self, records: Records, batch: Batch) -> Outcome:
        """Read and decode records as `Pool.load` does; what to do with rows that are not OK is the caller's matter."""
        return self._pool.load(records, batch)

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


def batch_error(outcome: Outcome, row: int, num_bytes: int) -> BatchImageError:
    """The error for a row of `num_bytes` encoded bytes whose image, not its record, is at fault."""
    if outcome.status[row] == Status.OUTSIDE:
        hint = "the index and the image disagree about its size: check with `imagesprint verify`"
        return BatchImageError(outcome.message(row), hint, row)
    return BatchImageError(f"{num_bytes} bytes that cannot be decoded ({outcome.message(row)})", "", row)


def read_info(data: Encoded) -> JpegInfo | None:
    """What the headers of a JPEG say; None where it is for Pillow. Raises ImageError where they are damaged."""
    found = _call("ims_read_info", data)
    return found and _to_info(found)


def decode_whole(data: Encoded) -> tuple[NDArray[np.uint8], int] | None:
    """The whole image, uint8[height, width, 3] in RGB, decoded to its end marker; None where it is for Pillow.

    Any warning of libjpeg's counts as damage, but for stray bytes before a marker, which harm no pixel: how often it
    met those is returned beside the pixels. Raises ImageError where the image is damaged or too large.
    """
    info = read_info(data)
    if info is None:
        return None
    pixels = np.empty((info.height, info.width, 3), np.uint8)
    found = _call("ims_decode_whole", data, _at(pixels))
    return found and (pixels, found.extraneous)


@dataclass(frozen=True)
class Version:
    """An image made smaller: a JPEG or raw pixels, height and width, and the seconds that resizing and encoding took.

    `encoded` is empty where a JPEG would be no smaller than the original.
    """

    encoded: bytes
    height: int
    width: int
    seconds: float


@dataclass(frozen=True)
class Shrunk:
    """An image, its versions, and the seconds that decoding it took."""

    info: JpegInfo
    versions: tuple[Version, ...]
    decode_seconds: float


def shrink_jpeg(data: Encoded, shorter_sides: Sequence[int], quality: int) -> Shrunk | None:
    """A JPEG's versions with these shorter sides, decoded once and to its end; None where it is for Pillow.

    One that is no larger keeps its size. Each is antialiased and encoded with `quality` as `coding.encode_jpeg` does,
    or, with quality 0, uint8[height, width, 3] in RGB. Raises ImageError where the image is damaged or too large.
    """
    versions = (_Version * len(shorter_sides))(*(_Version(side, quality) for side in shorter_sides))
    nanoseconds = ctypes.c_int64()
    found = _call("ims_shrink", data, ctypes.addressof(versions), len(versions), after=[ctypes.byref(nanoseconds)])
    if found is None:
        return None
    made = tuple(
        Version(
            ctypes.string_at(version.data, version.length), version.height, version.width, version.nanoseconds / 1e9
        )
        for version in versions
    )
    for version in versions:
        library().ims_free(version.data)
    return Shrunk(_to_info(found), made, nanoseconds.value / 1e9)


def entropy_seconds(data: Encoded, rows: int = 0) -> float:
    """CPU time that libjpeg takes for entropy decoding alone, the floor of any decoder that uses it: of the whole image
    (`jpeg_read_coefficients`), or of its first `rows` rows (`jpeg_skip_scanlines`). Raises ImageError.
    """
    nanoseconds = ctypes.c_int64()
    view, message = np.frombuffer(data, np.uint8), ctypes.create_string_buffer(_MESSAGE_BYTES)
    status = library().ims_entropy_ns(_at(view), len(view), rows, ctypes.byref(nanoseconds), message)
    if status != Status.OK:
        raise ImageError(f"{len(view)} bytes that cannot be decoded ({_text(message.raw)})")
    return nanoseconds.value * 1e-9


def crc32c(data: Encoded, portable: bool = False) -> int:
    """CRC-32C of `data`, not masked; `portable` computes it without the processor's instruction."""
    view = np.frombuffer(data, np.uint8)
    value: int = library().ims_crc32c(_at(view), len(view), portable)
    return value


def _call(name: str, data: Encoded, *outputs: int, after: Sequence[Any] = ()) -> Any:
    """The _Info of an image, which lies between other outputs; None where it is unsupported. Raises ImageError where it
    is damaged.
    """
    info, message = _Info(), ctypes.create_string_buffer(_MESSAGE_BYTES)
    view = np.frombuffer(data, np.uint8)
    status = getattr(library(), name)(_at(view), len(view), *outputs, ctypes.byref(info), *after, message)
    if status == Status.UNSUPPORTED:
        return None
    if status != Status.OK:
        raise ImageError(f"{len(view)} bytes that cannot be decoded ({_text(message.raw)})")
    return info


def _to_info(found: Any) -> JpegInfo:
    return JpegInfo(found.height, found.width, found.components, bool(found.progressive))


def _text(message: bytes) -> str:
    return message.partition(b"\0")[0].decode(errors="replace")


def _at(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]  # several times as fast as array.ctypes.data
    return address


def _checked_at(array: NDArray[Any] | None, dtype: Any, shape: tuple[int, ...]) -> int | None:
    """The address of an array that is as the library expects it; ValueError names what is not."""
    if array is None:
        return None
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"{array.dtype}{list(array.shape)} instead of contiguous {np.dtype(dtype)}{list(shape)}")
    return _at(array)
