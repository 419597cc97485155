"""One image as a record: the features of the Inception guide, which TensorFlow and DALI read as they are."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from imagesprint.errors import RecordError
from imagesprint.records.example import (
    Pieces,
    Values,
    bytes_feature,
    decode_example,
    float_feature,
    int64_feature,
    join_entries,
    map_entry,
)
from imagesprint.records.manifest import FIRST_LABEL

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
