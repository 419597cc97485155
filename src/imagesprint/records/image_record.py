"""One image as a record: tf.Example with the features of the Inception guide, as TensorFlow and DALI read it.

The little of protocol buffers that it takes, without TensorFlow or protobuf:

message Example   { Features features = 1; }
message Features  { map<string, Feature> feature = 1; }        a map entry is { string key = 1; Feature value = 2; }
message Feature   { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
message BytesList { repeated bytes value = 1; }                FloatList: packed float; Int64List: packed int64
"""

import functools
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from imagesprint.errors import RecordError
from imagesprint.records.manifest import FIRST_LABEL

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


ENCODED = "image/encoded"
# As the Inception guide and as tensorflow_datasets names them.
ENCODED_NAMES = (ENCODED, "image")
_LABEL_NAMES = ("image/class/label", "label")
_BOX_SIDES = ("ymin", "xmin", "ymax", "xmax")
_T = TypeVar("_T", bytes, float, int)


def no_boxes() -> npt.NDArray[np.float32]:
    """Return boxes float32 [0, 4]: an image without a bounding box has none."""
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One labelled image.

    `label` counts from 0 (on disk from 1, as the Inception guide has it); `boxes` are float32 [K, 4] as
    ymin, xmin, ymax, xmax, each in 0..1; `filename` is the name of the source file, without its folder;
    `image_format` is one of IMAGE_FORMATS.
    """

    encoded: bytes
    height: int
    width: int
    label: int
    synset: str
    text: str
    filename: str
    boxes: npt.NDArray[np.float32] = field(default_factory=no_boxes)
    image_format: str = "jpeg"

    def to_example(self) -> bytes:
        """Return the record as an encoded tf.Example; the same record gives the same bytes."""
        return self.encode()[0]

    def encode(self) -> tuple[bytes, int]:
        """Return what `to_example` does, and where in it image/encoded begins."""
        label = self.label + FIRST_LABEL
        before = [  # sorted by name, as everything is
            _int_entry("image/channels", 3),
            _int_entry("image/class/label", label),
            _text_entry("image/class/synset", self.synset),
            _text_entry("image/class/text", self.text),
            # As in the Inception set: readers decode to RGB in three channels, grey JPEGs too.
            _text_entry("image/colorspace", "RGB"),
        ]
        after = [
            *map_entry("image/filename", bytes_feature([_to_bytes(self.filename)])),
            _text_entry("image/format", self.image_format.upper()),
            _int_entry("image/height", self.height),
            *(_box_entries(label, self.boxes) if len(self.boxes) else [_NO_BOX_ENTRIES]),
            _int_entry("image/width", self.width),
        ]
        image = map_entry(ENCODED, bytes_feature([self.encoded]))
        pieces = join_entries([*before, *image, *after])
        start = sum(map(len, pieces[: len(pieces) - len(after) - 1]))  # the image's bytes are its entry's last piece
        return b"".join(pieces), start

    @classmethod
    def from_example(cls, payload: bytes, first_label: int = FIRST_LABEL) -> "ImageRecord":
        """Return the record in an encoded tf.Example; see `from_features`."""
        return cls.from_features(decode_example(payload), first_label)

    @classmethod
    def from_features(cls, features: Mapping[str, Values], first_label: int = FIRST_LABEL) -> "ImageRecord":
        """Return the record with the features of a tf.Example in which class 0 is called `first_label`.

        Records that others wrote may lack all but image and label: texts are then empty, sizes 0. Boxes are
        those of `sound_boxes`. Raises RecordError naming a feature that must be there once, and is not.
        """
        return cls(
            encoded=_one(features, ENCODED_NAMES, bytes),
            height=_first(features, "image/height", 0),
            width=_first(features, "image/width", 0),
            label=_one(features, _LABEL_NAMES, int) - first_label,
            synset=_to_text(_first(features, "image/class/synset", b"")),
            text=_to_text(_first(features, "image/class/text", b"")),
            filename=_to_text(_first(features, "image/filename", b"") or _first(features, "file_name", b"")),
            boxes=sound_boxes(features)[0],
            image_format="raw" if _first(features, "image/format", b"") == b"RAW" else "jpeg",
        )


def sound_boxes(features: Mapping[str, Values]) -> tuple[npt.NDArray[np.float32], bool]:
    """Return the boxes of a tf.Example, float32 [K, 4], and whether all of them were sound.

    What lies beyond 0..1 is clipped; an empty box is left out, and all are if a side has another number of values.
    """
    sides = [_values(features, f"image/object/bbox/{side}", float) for side in _BOX_SIDES]
    if not any(sides):
        return no_boxes(), True
    if len({len(values) for values in sides}) != 1:
        return no_boxes(), False
    stored = np.array(sides, np.float32).T
    clipped = np.clip(stored, 0, 1)
    full = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])  # False for what is no number, too
    return clipped[full], bool(np.array_equal(clipped[full], stored))


def _values(features: Mapping[str, Values], name: str, kind: type[_T]) -> list[_T]:
    return [value for value in features.get(name, []) if isinstance(value, kind)]


def _first(features: Mapping[str, Values], name: str, default: _T) -> _T:
    return next(iter(_values(features, name, type(default))), default)


def _one(features: Mapping[str, Values], names: tuple[str, ...], kind: type[_T]) -> _T:
    """Return the one value of the feature called one of `names`; RecordError if there is none, or more."""
    values = [value for name in names for value in _values(features, name, kind)]
    if len(values) != 1:
        raise RecordError(
            f"the record has {len(values)} values of type {kind.__name__} in {names[0]}, not one; "
            f"its features are {', '.join(sorted(features)) or 'none'}",
            "imagesprint reads tf.Examples as the Inception guide or tensorflow_datasets names them",
        )
    return values[0]


@functools.lru_cache(1 << 14)
def _int_entry(name: str, value: int) -> bytes:
    """Return the map entry of a number; there are few, and most come again and again."""
    return b"".join(map_entry(name, int64_feature([value])))


@functools.lru_cache(1 << 14)
def _text_entry(name: str, text: str) -> bytes:
    return b"".join(map_entry(name, bytes_feature([_to_bytes(text)])))


def _box_entries(label: int, boxes: npt.NDArray[np.float32]) -> Pieces:
    sides = dict(zip(_BOX_SIDES, boxes.T.tolist(), strict=True))
    entries = map_entry("image/object/bbox/label", int64_feature([label] * len(boxes)))
    for side in sorted(sides):
        entries += map_entry(f"image/object/bbox/{side}", float_feature(sides[side]))
    return entries


_NO_BOX_ENTRIES = b"".join(_box_entries(FIRST_LABEL, no_boxes()))


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # file names on Linux need not be UTF-8


def _to_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
