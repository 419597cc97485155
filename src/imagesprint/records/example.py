"""tf.Example as bytes: the little of protocol buffers that it takes, without TensorFlow or protobuf.

message Example   { Features features = 1; }
message Features  { map<string, Feature> feature = 1; }        a map entry is { string key = 1; Feature value = 2; }
message Feature   { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
message BytesList { repeated bytes value = 1; }                FloatList: packed float; Int64List: packed int64
"""

import struct
from collections.abc import Iterator, Mapping, Sequence

from imagesprint.errors import RecordError

Values = list[bytes] | list[float] | list[int]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3  # fields of Feature


# An encoded message in pieces: an image goes through four messages into its record, and is copied once.
Pieces = list[bytes]


def bytes_feature(values: Sequence[bytes]) -> Pieces:
    """Return the encoded Feature that holds byte strings."""
    return _field(_BYTES_LIST, [piece for value in values for piece in _field(1, [value])])


def float_feature(values: Sequence[float]) -> Pieces:
    """Return the encoded Feature that holds float32 values."""
    return _field(_FLOAT_LIST, _field(1, [struct.pack(f"<{len(values)}f", *values)]) if values else [])


def int64_feature(values: Sequence[int]) -> Pieces:
    """Return the encoded Feature that holds int64 values."""
    packed = b"".join([_varint(value & 0xFFFFFFFFFFFFFFFF) for value in values])
    return _field(_INT64_LIST, _field(1, [packed]) if packed else [])


def map_entry(name: str, feature: Pieces) -> Pieces:
    """Return a feature under its name, as it lies in a tf.Example."""
    return _field(1, _field(1, [name.encode()]) + _field(2, feature))


def join_entries(entries: Pieces) -> Pieces:
    """Return the tf.Example of map entries, one after another."""
    return _field(1, entries)


def encode_example(features: Mapping[str, Pieces]) -> bytes:
    """Return the tf.Example of encoded features, sorted by name: the same features give the same bytes."""
    entries = [piece for name in sorted(features) for piece in map_entry(name, features[name])]
    return b"".join(join_entries(entries))


def decode_example(payload: bytes) -> dict[str, Values]:
    """Return the values of every feature of a tf.Example, packed or not. Raises RecordError if it is none."""
    return {name: _decode_feature(payload, start, end) for name, start, end in _iter_features(payload)}


def locate_bytes(payload: bytes, *names: str) -> tuple[int, int]:
    """Return (start, length) of the first byte string of a feature called one of `names` within `payload`.

    Raises RecordError if there is no such feature, or no byte string in it.
    """
    for found, start, end in _iter_features(payload):
        if found not in names:
            continue
        for number, _, list_start, list_end in _iter_fields(payload, start, end):
            for _, _, value_start, value_end in _iter_fields(payload, list_start, list_end):
                if number == _BYTES_LIST:
                    return value_start, value_end - value_start
    raise RecordError(
        f"the record has no {names[0]}", "imagesprint reads tf.Examples as the Inception guide names them"
    )


_ONE_BYTE = [bytes((value,)) for value in range(0x80)]  # nearly all of what is encoded


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, content: Pieces) -> Pieces:
    return [_ONE_BYTE[number << 3 | _BYTES] + _varint(sum(map(len, content))), *content]


def _iter_features(payload: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield (name, start, end) of each encoded Feature."""
    for example_field, _, features_start, features_end in _iter_fields(payload, 0, len(payload)):
        if example_field != 1:
            continue
        for features_field, _, entry_start, entry_end in _iter_fields(payload, features_start, features_end):
            if features_field != 1:
                continue
            name, value = "", (entry_start, entry_start)
            for number, _, start, end in _iter_fields(payload, entry_start, entry_end):
                if number == 1:
                    name = payload[start:end].decode("utf-8", "replace")
                elif number == 2:
                    value = (start, end)
            yield name, *value


def _decode_feature(payload: bytes, start: int, end: int) -> Values:
    values: Values = []
    for kind, _, list_start, list_end in _iter_fields(payload, start, end):
        items = [item for item in _iter_fields(payload, list_start, list_end) if item[0] == 1]
        if kind == _BYTES_LIST:
            values = [payload[first:last] for _, _, first, last in items]
        elif kind == _FLOAT_LIST:
            values = [value for _, _, first, last in items for value in _floats(payload, first, last)]
        elif kind == _INT64_LIST:
            values = [value for _, _, first, last in items for value in _int64s(payload, first, last)]
    return values


def _floats(payload: bytes, start: int, end: int) -> tuple[float, ...]:
    if (end - start) % 4:
        raise _no_example(start)
    return struct.unpack_from(f"<{(end - start) // 4}f", payload, start)


def _int64s(payload: bytes, start: int, end: int) -> Iterator[int]:
    while start < end:
        value, start = _read_varint(payload, start, end)
        yield value - (1 << 64) if value >> 63 else value


def _iter_fields(payload: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start, end of the content) of each field of the message in [start, end)."""
    while start < end:
        tag, start = _read_varint(payload, start, end)
        wire_type = tag & 7
        if wire_type == _BYTES:
            length, start = _read_varint(payload, start, end)
        elif wire_type == _VARINT:
            length = _read_varint(payload, start, end)[1] - start
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise _no_example(start)
        if start + length > end:
            raise _no_example(start)
        yield tag >> 3, wire_type, start, start + length
        start += length


def _read_varint(payload: bytes, start: int, end: int) -> tuple[int, int]:
    """Return (value, where it ends) of the unsigned 64-bit varint at `start`."""
    value = shift = 0
    while start < end and shift < 64:
        byte = payload[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, start
        shift += 7
    raise _no_example(start)


def _no_example(position: int) -> RecordError:
    return RecordError(
        f"the record is no tf.Example: it cannot be parsed at byte {position}",
        "imagesprint reads tf.Examples as the Inception guide names them",
    )
