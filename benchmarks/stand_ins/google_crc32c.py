"""Stands in for google-crc32c where nothing can be installed (gpu_check.py): the same sums, by the native decoder's
code where that is built, else a thousand times slower.
"""

from functools import cache
from typing import Any


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli's polynomial, RFC 3720, bits reversed
    return value


_TABLE = [_entry(value) for value in range(256)]
_PLACE = {entry >> 24: place for place, entry in enumerate(_TABLE)}  # of each entry, by its highest byte
_ONES = 0xFFFFFFFF


@cache
def _native() -> Any:
    from imagesprint.errors import ImagesprintError
    from imagesprint.images.native import library

    try:
        return library()
    except ImagesprintError:
        return None


def extend(crc: int, data: bytes) -> int:
    """Return the CRC-32C of what `crc` is the sum of, followed by `data`."""
    native = _native()
    if native is not None:
        data = (_with_sum(crc) if crc else b"") + bytes(data)
        result: int = native.ims_crc32c(data, len(data), 0)
        return result
    table, crc = _TABLE, crc ^ _ONES
    for byte in bytes(data):
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ _ONES


def value(data: bytes) -> int:
    """Return the CRC-32C of `data`."""
    return extend(0, data)


def _with_sum(crc: int) -> bytes:
    """The four bytes whose CRC-32C is `crc`: they stand for all that it is the sum of."""
    state = crc ^ _ONES
    for _ in range(4):  # back by a byte each
        place = _PLACE[state >> 24]
        state = (state ^ _TABLE[place]) << 8 | place
    return (state ^ _ONES).to_bytes(4, "little")
