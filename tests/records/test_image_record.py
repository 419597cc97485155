import dataclasses

import numpy as np
import pytest

from imagesprint.errors import RecordError
from imagesprint.records.example import decode_example, encode_example, int64_feature
from imagesprint.records.image_record import ImageRecord

RECORD = ImageRecord(
    encoded=b"\xff\xd8jpeg",
    height=3,
    width=5,
    label=7,
    synset="n01440764",
    text="tench, Tinca tinca",
    filename="n01440764_18.JPEG",
    boxes=np.array([[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]], np.float32),
)


def test_features_are_those_of_the_inception_guide() -> None:
    found = decode_example(RECORD.to_example())
    boxes = {side: found.pop(f"image/object/bbox/{side}") for side in ("ymin", "xmin", "ymax", "xmax")}
    assert found == {
        "image/height": [3],
        "image/width": [5],
        "image/colorspace": [b"RGB"],
        "image/channels": [3],
        "image/class/label": [8],
        "image/class/synset": [b"n01440764"],
        "image/class/text": [b"tench, Tinca tinca"],
        "image/object/bbox/label": [8, 8],
        "image/format": [b"JPEG"],
        "image/filename": [b"n01440764_18.JPEG"],
        "image/encoded": [b"\xff\xd8jpeg"],
    }
    assert np.array_equal(np.array(list(boxes.values()), np.float32).T, RECORD.boxes)


def test_round_trip() -> None:
    found = ImageRecord.from_example(RECORD.to_example())
    assert dataclasses.replace(found, boxes=RECORD.boxes).to_example() == RECORD.to_example()
    assert found.boxes.dtype == np.float32
    assert np.array_equal(found.boxes, RECORD.boxes)


def test_no_boxes_and_a_file_name_that_is_not_utf8() -> None:
    record = ImageRecord(b"x", 1, 1, 0, "ü", "ü", b"caf\xe9.jpg".decode("utf-8", "surrogateescape"))
    found = ImageRecord.from_example(record.to_example())
    assert found.boxes.shape == (0, 4)
    assert (found.synset, found.filename) == (record.synset, record.filename)


def test_missing_feature_is_named() -> None:
    with pytest.raises(RecordError, match="image/encoded"):
        ImageRecord.from_example(encode_example({"image/height": int64_feature([3])}))
