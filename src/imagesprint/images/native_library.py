"""The native decoder's shared library, bound by ctypes, which lets go of the interpreter's lock.

`setup.py` builds it from native/ where a C compiler and libjpeg-turbo's headers are found. Its interface is
native/imagesprint.h, whose signatures and numbers are repeated here; the structs stand where they are used.
"""

import ctypes
import functools
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import UsageError

LIBRARY: Final = Path(__file__).with_name("libimagesprint.so")
MESSAGE_BYTES: Final = 200  # of why an image failed, with the final zero

_ABI = 6
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
