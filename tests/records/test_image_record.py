import dataclasses
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

from imagesprint.errors import RecordError
from imagesprint.records.image_record import (
    ImageRecord,
    bytes_feature,
    decode_example,
    encode_example,
    float_feature,
    int64_feature,
    locate_bytes,
)

FEATURES = {
    "image/encoded": bytes_feature([b"\xff\xd8" + bytes(300)]),
    "image/class/label": int64_feature([1, -1, 2**63 - 1, -(2**63), 0, 300]),
    "image/object/bbox/xmin": float_feature([0.5, 0.25]),
    "nothing/bytes": bytes_feature([]),
    "nothing/int64": int64_feature([]),
    "nothing/float": float_feature([]),
    "two": bytes_feature([b"", b"second"]),
}
VALUES: dict[str, list[Any]] = {
    "image/encoded": [b"\xff\xd8" + bytes(300)],
    "image/class/label": [1, -1, 2**63 - 1, -(2**63), 0, 300],
    "image/object/bbox/xmin": [0.5, 0.25],
    "nothing/bytes": [],
    "nothing/int64": [],
    "nothing/float": [],
    "two": [b"", b"second"],
}


def make_example_class(packed: bool) -> Any:
    """Return protobuf's class for tensorflow/core/example/example.proto, its numbers packed or one by one."""
    kinds = {"bytes_list": ("BytesList", 12), "float_list": ("FloatList", 2), "int64_list": ("Int64List", 3)}
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tf", syntax="proto3")
    for name, kind in kinds.values():
        field = file.message_type.add(name=name).field.add(name="value", number=1, label=3, type=kind)
        if name != "BytesList":
            field.options.packed = packed
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (field_name, (name, _)) in enumerate(kinds.items(), 1):
        feature.field.add(name=field_name, number=number, label=1, type=11, type_name=f".tf.{name}", oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=9)
    entry.field.add(name="value", number=2, label=1, type=11, type_name=".tf.Feature")
    features.field.add(name="feature", number=1, label=3, type=11, type_name=".tf.Features.FeatureEntry")
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, label=1, type=11, type_name=".tf.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tf.Example"))


def test_protobuf_reads_what_is_written() -> None:
    message = make_example_class(packed=True).FromString(encode_example(FEATURES))
    found = {
        name: list(getattr(feature, feature.WhichOneof("kind")).value)
        for name, feature in message.features.feature.items()
    }
    assert found == VALUES
    assert message.features.feature["nothing/float"].WhichOneof("kind") == "float_list"


@pytest.mark.parametrize("packed", [True, False])
def test_what_protobuf_writes_is_read(packed: bool) -> None:
    message = make_example_class(packed)()
    for name, values in VALUES.items():
        kind = "int64_list" if name == "image/class/label" else "float_list" if "bbox" in name else "bytes_list"
        getattr(message.features.feature[name], kind).value.extend(values)
    payload = message.SerializeToString()
    assert decode_example(payload) == VALUES
    start, length = locate_bytes(payload, "image/encoded")
    assert payload[start : start + length] == VALUES["image/encoded"][0]


def test_same_features_in_any_order_give_the_same_bytes() -> None:
    assert encode_example(FEATURES) == encode_example(dict(reversed(FEATURES.items())))


def test_round_trip_and_location() -> None:
    payload = encode_example(FEATURES)
    assert decode_example(payload) == VALUES
    start, length = locate_bytes(payload, "image/encoded")
    assert payload[start : start + length] == VALUES["image/encoded"][0]


@pytest.mark.parametrize("name", ["missing", "nothing/bytes", "image/class/label"])
def test_a_feature_without_bytes_cannot_be_located(name: str) -> None:
    with pytest.raises(RecordError, match=name):
        locate_bytes(encode_example(FEATURES), name)


def test_empty_payload_is_an_example_without_features() -> None:
    assert decode_example(b"") == {}


def test_no_truncation_and_no_garbage_ends_in_another_error() -> None:
    payload = encode_example(FEATURES)
    for size in range(1, len(payload)):
        with pytest.raises(RecordError):
            decode_example(payload[:size])
    for position in range(len(payload)):
        damaged = payload[:position] + bytes([payload[position] ^ 0x5A]) + payload[position + 1 :]
        try:
            decode_example(damaged)
        except RecordError:
            continue


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
