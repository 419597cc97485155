"""TFRecord framing: how records lie in a shard.

A shard is a run of records, each of them little-endian

    uint64 length | uint32 masked CRC-32C of those 8 bytes | payload | uint32 masked CRC-32C of the payload

as TensorFlow writes it (tensorflow/core/lib/io/record_writer.h).
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from imagesprint.errors import RecordError
from imagesprint.files import naming
from imagesprint.storage.url import Place

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
HEADER_BYTES = _LENGTH.size + _CRC.size
FOOTER_BYTES = _CRC.size
FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES  # what a record takes beside its payload

_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h, kMaskDelta
_READ_CHUNK = 1 << 20


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C of `data`, rotated and offset as TFRecord stores it."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """Return the record that holds `payload`: FRAME_BYTES longer than it."""
    return b"".join(frame_pieces(payload))


def frame_pieces(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """Return header, payload and footer of the record, for writing it without a copy."""
    length = _LENGTH.pack(len(payload))
    return length + _CRC.pack(masked_crc(length)), payload, _CRC.pack(masked_crc(payload))


def iter_records(path: Path, shown: Place | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield (byte offset of the record, payload) for every record of the shard at `path`, in order.

    Raises RecordError, naming shard (`shown`, where `path` is a copy) and byte offset, at the first record that is cut
    short or whose CRC is wrong.
    """
    place = shown or path
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RecordError(f"cannot read shard {place}: {error.strerror}") from error
    try:
        with naming("read", path):
            size = os.fstat(fd).st_size
        offset = 0
        while offset < size:
            payload = read_record(fd, offset, _read_length(fd, offset, size, place), place)
            yield offset, payload
            offset += FRAME_BYTES + len(payload)
    finally:
        os.close(fd)


def read_record(fd: int, offset: int, length: int, path: Place, in_shard: int | None = None) -> bytes:
    """Return the payload of the record at byte `offset` of the open shard, known to be `length` bytes long.

    One pread, whatever other threads read from `fd` meanwhile. Both CRCs are checked. `path` is for messages, and
    `in_shard` where the record lies in it, if `fd` is another file. Raises RecordError naming shard and byte offset.
    """
    data = _bytes_of(fd, offset, length + FRAME_BYTES, path)
    offset = offset if in_shard is None else in_shard
    if len(data) < length + FRAME_BYTES:
        raise damaged(path, offset, f"is cut short: {len(data)} of {length + FRAME_BYTES} bytes are there")
    _check_header(data, offset, path)
    (stored_length,) = _LENGTH.unpack_from(data)
    if stored_length != length:
        raise damaged(path, offset, f"is {stored_length} bytes long, not {length} as the index has it")
    payload = data[HEADER_BYTES : HEADER_BYTES + length]
    if _CRC.unpack_from(data, HEADER_BYTES + length)[0] != masked_crc(payload):
        raise damaged(path, offset, "does not match its CRC-32C")
    return payload


def is_tfrecord(path: Path) -> bool:
    """Return whether the file begins with the header of a record and its CRC is right. Raises OSError."""
    with path.open("rb") as file:
        return is_header(file.read(HEADER_BYTES))


def is_header(data: bytes) -> bool:
    """Return whether `data`, HEADER_BYTES or fewer, is the header of a record and its CRC is right."""
    return len(data) == HEADER_BYTES and _CRC.unpack_from(data, _LENGTH.size)[0] == masked_crc(data[: _LENGTH.size])


def is_sound(record: memoryview) -> bool:
    """Return whether `record` is a whole record, from its header to its footer, and both of its CRCs are right."""
    length = len(record) - FRAME_BYTES
    if not is_header(bytes(record[:HEADER_BYTES])) or _LENGTH.unpack_from(record)[0] != length:
        return False
    found: int = _CRC.unpack_from(record, HEADER_BYTES + length)[0]
    return found == masked_crc(bytes(record[HEADER_BYTES : HEADER_BYTES + length]))


def file_crc(path: Path) -> int:
    """Return the plain CRC-32C of a whole file. Raises FileError."""
    crc = 0
    with naming("read", path), path.open("rb", buffering=0) as file:
        while chunk := file.read(_READ_CHUNK):
            crc = google_crc32c.extend(crc, chunk)
    return crc


def _bytes_of(fd: int, offset: int, size: int, path: Place) -> bytes:
    """Return the `size` bytes of the record at `offset`, fewer only where the shard ends. Raises RecordError."""
    try:
        data = os.pread(fd, size, offset)
        while 0 < len(data) < size:  # one pread returns at most 2 GiB, and less after a signal
            more = os.pread(fd, size - len(data), offset + len(data))
            if not more:
                break
            data += more
    except OSError as error:
        raise damaged(path, offset, f"cannot be read: {error.strerror}") from error
    return data


def _read_length(fd: int, offset: int, size: int, path: Place) -> int:
    """Return the payload length that the header at `offset` announces, once its CRC and the shard's end allow it."""
    header = _bytes_of(fd, offset, HEADER_BYTES, path)
    if len(header) < HEADER_BYTES:
        raise damaged(path, offset, f"is cut short: {len(header)} bytes of its header are there")
    _check_header(header, offset, path)
    length: int = _LENGTH.unpack_from(header)[0]
    if offset + FRAME_BYTES + length > size:
        raise damaged(path, offset, f"is cut short: {size - offset} of {FRAME_BYTES + length} bytes are there")
    return length


def _check_header(data: bytes, offset: int, path: Place) -> None:
    if _CRC.unpack_from(data, _LENGTH.size)[0] != masked_crc(data[: _LENGTH.size]):
        raise damaged(path, offset, "has a damaged header (its length does not match its CRC-32C)")


def damaged(path: Place, offset: int, what: str) -> RecordError:
    """Return the error that says what is wrong with the record at byte `offset` of a shard."""
    return RecordError(
        f"shard {path}: the record at byte {offset} {what}",
        f"imagesprint verify {path.parent} lists all damage; prepare that folder again, or copy sound shards into it",
    )
