"""The native library, bound by ctypes, and what it does with one image: headers, smaller versions, checksums.

`setup.py` builds it from native/ where a C compiler and libjpeg-turbo's headers are found. Its interface is
native/imagesprint.h, whose signatures and numbers are repeated here; the structs stand where they are used.
"""

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import ImageError, UsageError

LIBRARY: Final = Path(__file__).with_name("libimagesprint.so")
MESSAGE_BYTES: Final = 200  # of why an image failed, with the final zero

_ABI = 7
_BUILD = "apt-get install gcc libjpeg-dev, then install imagesprint again (in a clone: pip install -e .)"


Encoded = bytes | memoryview | NDArray[np.uint8]  # an image file, or pixels [H, W, 3]


class Status(IntEnum):
    """How an image ended."""

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


_INT32, _INT64, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
_FUNCTIONS = {
    "ims_resizer": (ctypes.c_char_p, [_INT32]),
    "ims_create": (_POINTER, [_INT32, _INT32]),
    "ims_destroy": (None, [_POINTER]),
    "ims_decode": (None, [_POINTER, _POINTER, _POINTER]),
    "ims_load": (None, [_POINTER, _POINTER, _POINTER]),
    "ims_read_info": (_INT32, [_POINTER, _INT64, _POINTER, _POINTER]),
    "ims_check": (_INT32, [_POINTER, _INT64, _POINTER, _POINTER]),
    "ims_shrink": (_INT32, [_POINTER, _INT64, _POINTER, _INT32, _POINTER, _POINTER, _POINTER]),
    "ims_free": (None, [_POINTER]),
    "ims_entropy_ns": (_INT32, [_POINTER, _INT64, _INT32, _INT32, _POINTER, _POINTER]),
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
    if loaded.ims_abi() != _ABI:
        raise UsageError(f"{LIBRARY} is version {loaded.ims_abi()}, but version {_ABI} is needed", _BUILD)
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def is_available() -> bool:
    """Return whether the library can be used."""
    try:
        library()
    except UsageError:
        return False
    return True


def reason(status: int, message: str) -> str:
    """Return why an image is refused, with its kind and a colon before the library's words, as `coding` says it."""
    return f"{'too large' if status == Status.TOO_LARGE else 'damaged'}: {message}"


def address(array: NDArray[Any]) -> int:
    """Return where the array's memory begins."""
    found: int = array.__array_interface__["data"][0]  # several times as fast as array.ctypes.data
    return found


def text(message: bytes) -> str:
    """Return a message of the library's, MESSAGE_BYTES long, without what lies behind its final zero."""
    return message.partition(b"\0")[0].decode(errors="replace")


@dataclass(frozen=True)
class JpegInfo:
    """A JPEG that the native decoder can decode: pixels, channels (1 or 3), and whether it is progressive."""

    height: int
    width: int
    channels: int
    progressive: bool


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
    """An image, its versions, the seconds that decoding it took, and how often libjpeg met stray bytes in it."""

    info: JpegInfo
    versions: tuple[Version, ...]
    decode_seconds: float
    num_stray: int


class _Info(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int32) for name in ("width", "height", "components", "progressive", "extraneous"))


class _Version(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("shorter_side", "quality", "width", "height")),
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_int64),
        ("nanoseconds", ctypes.c_int64),
    )


def read_info(data: Encoded) -> JpegInfo | None:
    """What the headers of a JPEG say; None where it is for Pillow. Raises ImageError where they are damaged."""
    info = _Info()
    return _to_info(info) if _call("ims_read_info", data, ctypes.byref(info)) else None


def check_jpeg(data: Encoded) -> bool:
    """Decode a JPEG of any colours to its end marker; return False where there is no verdict: it is none, or of a kind
    that libjpeg does not decode. Raises ImageError where it is damaged or too large, as `shrink_jpeg` does.
    """
    return _call("ims_check", data, ctypes.byref(_Info()))


def shrink_jpeg(data: Encoded, shorter_sides: Sequence[int], quality: int) -> Shrunk | None:
    """A JPEG's versions with these shorter sides, decoded once and to its end marker; None where it is for Pillow.

    One that is no larger keeps its size. Each is antialiased and encoded with `quality` as `coding.encode_jpeg` does,
    or, with quality 0, uint8[height, width, 3] in RGB. A warning of libjpeg's counts as damage unless it is a
    remark on a header or on stray bytes: native/jpeg_errors.c. Raises ImageError where the image is damaged or too
    large, and MemoryError.
    """
    versions = (_Version * len(shorter_sides))(*(_Version(side, quality) for side in shorter_sides))
    info, nanoseconds = _Info(), ctypes.c_int64()
    outputs = (ctypes.byref(versions), len(versions), ctypes.byref(info), ctypes.byref(nanoseconds))
    if not _call("ims_shrink", data, *outputs):
        return None
    try:
        made = tuple(map(_to_version, versions))
    finally:
        for version in versions:
            library().ims_free(version.data)
    return Shrunk(_to_info(info), made, nanoseconds.value * 1e-9, info.extraneous)


def entropy_seconds(data: Encoded, rows: int = 0) -> float:
    """CPU time that libjpeg takes for entropy decoding alone, the floor of any decoder that uses it: of the whole image
    (`jpeg_read_coefficients`), or of its first `rows` rows (`jpeg_skip_scanlines`). Raises ImageError.
    """
    seconds = _entropy_seconds(data, rows, False)
    if seconds is None:
        raise ImageError(f"{len(data)} bytes that are no JPEG which libjpeg decodes")
    return seconds


def own_entropy_seconds(data: Encoded, rows: int) -> float | None:
    """The same by our own decoder of Huffman codes, of the first `rows` rows; None where it leaves them to libjpeg: in
    progressive images, or in more than one scan. Raises ImageError.
    """
    return _entropy_seconds(data, rows, True)


def _entropy_seconds(data: Encoded, rows: int, own_huffman: bool) -> float | None:
    nanoseconds = ctypes.c_int64()
    is_done = _call("ims_entropy_ns", data, rows, own_huffman, ctypes.byref(nanoseconds))
    return nanoseconds.value * 1e-9 if is_done else None


def crc32c(data: Encoded, portable: bool = False) -> int:
    """CRC-32C of `data`, not masked; `portable` computes it without the processor's instruction."""
    view = np.frombuffer(data, np.uint8)
    value: int = library().ims_crc32c(address(view), len(view), portable)
    return value


def _call(name: str, data: Encoded, *arguments: Any) -> bool:
    """Call a function with an image, other arguments, and room for a message; return False where it is for Pillow.

    Raises ImageError where the image is damaged or too large, and MemoryError.
    """
    view, message = np.frombuffer(data, np.uint8), ctypes.create_string_buffer(MESSAGE_BYTES)
    status = getattr(library(), name)(address(view), len(view), *arguments, message)
    if status == Status.MEMORY:
        raise MemoryError
    if status not in (Status.OK, Status.UNSUPPORTED):
        raise ImageError(reason(status, text(message.raw)))
    return bool(status == Status.OK)


def _to_info(found: _Info) -> JpegInfo:
    return JpegInfo(found.height, found.width, found.components, bool(found.progressive))


def _to_version(made: _Version) -> Version:
    return Version(ctypes.string_at(made.data, made.length), made.height, made.width, made.nanoseconds * 1e-9)
