"""Stands in for google-crc32c where nothing can be installed (gpu_check.py): the same sums, a thousand times slower.

Only what is written, or read without the native decoder, is summed here; the native decoder has code of its own.
"""


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli's polynomial, RFC 3720, bits reversed
    return value


_TABLE = [_entry(value) for value in range(256)]


def extend(crc: int, data: bytes) -> int:
    """Return the CRC-32C of what `crc` is the sum of, followed by `data`."""
    table, crc = _TABLE, crc ^ 0xFFFFFFFF
    for byte in bytes(data):
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def value(data: bytes) -> int:
    """Return the CRC-32C of `data`."""
    return extend(0, data)
