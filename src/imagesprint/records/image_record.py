"""One image as a record: the features of the Inception guide, which TensorFlow and DALI read as they are."""

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from imagesprint.errors import RecordError
from imagesprint.records.example import (
    Values,
    bytes_feature,
    decode_example,
    encode_example,
    float_feature,
    int64_feature,
)

ENCODED = "image/encoded"
_BOX_SIDES = ("ymin", "xmin", "ymax", "xmax")
_T = TypeVar("_T", bytes, float, int)


def no_boxes() -> npt.NDArray[np.float32]:
    """Return boxes float32 [0, 4]: an image without a bounding box has none."""
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One labelled image.

    `label` counts from 0 (on disk from 1, as the Inception guide has it); `boxes` are float32 [K, 4] as
    ymin, xmin, ymax, xmax, each in 0..1; `filename` is the name of the source file, without its folder.
    """

    encoded: bytes
    height: int
    width: int
    label: int
    synset: str
    text: str
    filename: str
    boxes: npt.NDArray[np.float32] = field(default_factory=no_boxes)

    def to_example(self) -> bytes:
        """Return the record as an encoded tf.Example; the same record gives the same bytes."""
        features = {
            "image/height": int64_feature([self.height]),
            "image/width": int64_feature([self.width]),
            # As in the Inception set: readers decode to RGB in three channels, grey JPEGs too.
            "image/colorspace": bytes_feature([b"RGB"]),
            "image/channels": int64_feature([3]),
            "image/class/label": int64_feature([self.label + 1]),
            "image/class/synset": bytes_feature([_to_bytes(self.synset)]),
            "image/class/text": bytes_feature([_to_bytes(self.text)]),
            "image/object/bbox/label": int64_feature([self.label + 1] * len(self.boxes)),
            "image/format": bytes_feature([b"JPEG"]),
            "image/filename": bytes_feature([_to_bytes(self.filename)]),
            ENCODED: bytes_feature([self.encoded]),
        }
        for side, values in zip(_BOX_SIDES, self.boxes.T.tolist(), strict=True):
            features[f"image/object/bbox/{side}"] = float_feature(values)
        return encode_example(features)

    @classmethod
    def from_example(cls, payload: bytes) -> "ImageRecord":
        """Return the record in an encoded tf.Example. Raises RecordError naming a feature that is missing."""
        features = decode_example(payload)
        sides = [_values(features, f"image/object/bbox/{side}", float) for side in _BOX_SIDES]
        if len({len(values) for values in sides}) != 1:
            raise RecordError(f"the record's boxes have {[len(values) for values in sides]} values a side")
        return cls(
            encoded=_one(features, ENCODED, bytes),
            height=_one(features, "image/height", int),
            width=_one(features, "image/width", int),
            label=_one(features, "image/class/label", int) - 1,
            synset=_to_text(_one(features, "image/class/synset", bytes)),
            text=_to_text(_one(features, "image/class/text", bytes)),
            filename=_to_text(_one(features, "image/filename", bytes)),
            boxes=np.array(sides, np.float32).reshape(4, -1).T,
        )


def _values(features: dict[str, Values], name: str, kind: type[_T]) -> list[_T]:
    return [value for value in features.get(name, []) if isinstance(value, kind)]


def _one(features: dict[str, Values], name: str, kind: type[_T]) -> _T:
    values = _values(features, name, kind)
    if len(values) != 1:
        raise RecordError(
            f"the record has {len(values)} values of type {kind.__name__} in {name}, not one",
            "imagesprint reads tf.Examples as the Inception guide names them",
        )
    return values[0]


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # file names on Linux need not be UTF-8


def _to_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
