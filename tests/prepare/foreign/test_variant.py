import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagesprint.errors import DataError
from imagesprint.prepare.foreign.shards import ForeignShard
from imagesprint.prepare.foreign.variant import DAMAGED, OTHER_SIZE, UNSOUND_BOXES, ShardScan, scan_shard
from imagesprint.records.image_record import Pieces, bytes_feature, float_feature, int64_feature
from imagesprint.records.tfrecord import file_crc, frame

WriteForeign = Callable[..., Path]
Features = dict[str, Pieces]
NAME = "train-00000-of-00001"


def scan(path: Path) -> ShardScan:
    return scan_shard(ForeignShard("train", path, path.stat().st_size, path.name), lambda _: None)


def scan_changed(write_foreign: WriteForeign, folder: Path, **changes: Pieces) -> ShardScan:
    write_foreign(folder, [NAME], change=lambda features: {**features, **changes})
    return scan(folder / NAME)


def test_a_sound_shard(write_foreign: WriteForeign, tmp_path: Path) -> None:
    path = write_foreign(tmp_path, [NAME]) / NAME
    ticks: list[int] = []
    found = scan_shard(ForeignShard("train", path, 0, "link"), ticks.append)
    assert (found.info.name, found.info.bytes, found.info.num_records) == ("link", path.stat().st_size, 40)
    assert found.info.crc32c == file_crc(path)
    assert found.index.shard_names == ("link",)
    assert found.index.label.tolist() == [1] * 20 + [2] * 20
    assert found.index.box_start.tolist()[:5] == [0, 2, 2, 2, 4]
    assert np.array_equal(found.index.boxes[0], [0.125, 0.25, 0.5, 0.75])
    assert found.labels == {1: {"n00000001": (0, "china")}, 2: {"n00000002": (20, "flower")}}
    assert not found.notes
    assert sum(ticks) == 40


def test_image_and_label_are_enough(write_foreign: WriteForeign, tmp_path: Path) -> None:
    whole = scan(write_foreign(tmp_path / "whole", [NAME]) / NAME)
    needed = ("image/encoded", "image/class/label")
    write_foreign(tmp_path / "bare", [NAME], change=lambda features: {name: features[name] for name in needed})
    bare = scan(tmp_path / "bare" / NAME)
    assert np.array_equal(bare.index.height, whole.index.height)
    assert np.array_equal(bare.index.width, whole.index.width)
    assert len(bare.index.boxes) == 0
    assert not bare.notes
    assert bare.labels == {1: {"": (0, "")}, 2: {"": (20, "")}}


def test_the_names_of_tensorflow_datasets(write_foreign: WriteForeign, tmp_path: Path) -> None:
    names = {"image": "image/encoded", "label": "image/class/label", "file_name": "image/filename"}
    write_foreign(tmp_path, [NAME], change=lambda features: {new: features[old] for new, old in names.items()})
    found = scan(tmp_path / NAME)
    assert found.index.label.tolist() == [1] * 20 + [2] * 20
    assert found.index.encoded_length.min() > 500


def test_a_size_that_disagrees_with_the_image(write_foreign: WriteForeign, tmp_path: Path) -> None:
    found = scan_changed(write_foreign, tmp_path, **{"image/height": int64_feature([7])})
    assert found.notes == {OTHER_SIZE: 40}
    assert found.index.height.min() >= 40


def test_images_that_are_damaged_behind_their_headers_are_counted(write_foreign: WriteForeign, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 48), 50).save(file, "JPEG")
    sides = {"image/height": int64_feature([48]), "image/width": int64_feature([64])}
    cut = bytes_feature([file.getvalue()[:-100]])
    found = scan_changed(write_foreign, tmp_path, **sides, **{"image/encoded": cut})
    assert found.notes == {DAMAGED: 40}
    assert len(found.index) == 40


@pytest.mark.parametrize(
    ("sides", "kept"),
    [
        ({"xmax": [1.5]}, [[0.25, 0.25, 0.5, 1.0]]),
        ({"ymin": [-0.5]}, [[0.0, 0.25, 0.5, 0.75]]),
        ({"xmin": [0.75]}, []),
        ({"xmin": [float("nan")]}, []),
        ({"xmin": [0.1, 0.2]}, []),
        ({"xmin": []}, []),
    ],
)
def test_unsound_boxes(
    write_foreign: WriteForeign, tmp_path: Path, sides: dict[str, list[float]], kept: list[list[float]]
) -> None:
    box = {"ymin": [0.25], "xmin": [0.25], "ymax": [0.5], "xmax": [0.75], **sides}
    changes = {f"image/object/bbox/{side}": float_feature(values) for side, values in box.items()}
    found = scan_changed(write_foreign, tmp_path, **changes)
    assert found.notes == {UNSOUND_BOXES: 40}
    assert found.index.boxes.tolist() == kept * 40


def too_large_png() -> bytes:
    file = io.BytesIO()
    Image.new("1", (70_000, 3)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("feature", "value", "match"),
    [
        ("image/class/label", int64_feature([-1]), "label -1 is none"),
        ("image/class/label", int64_feature([10**9]), "label 1000000000 is none"),
        (
            "image/class/label",
            int64_feature([]),
            "0 values of type int in image/class/label, .* its features are image/",
        ),
        ("image/class/label", int64_feature([1, 2]), "2 values of type int"),
        ("image/class/label", bytes_feature([b"1"]), "0 values of type int"),
        ("image/encoded", bytes_feature([]), "0 values of type bytes in image/encoded"),
        ("image/encoded", bytes_feature([b"<html>"]), "no image: it begins with b'<html>'"),
        (
            "image/encoded",
            bytes_feature([too_large_png()]),
            "too large: 70000 × 3 pixels, but a JPEG's side is at most",
        ),
    ],
)
def test_a_record_that_is_no_labelled_image(
    write_foreign: WriteForeign, tmp_path: Path, feature: str, value: Pieces, match: str
) -> None:
    with pytest.raises(DataError, match=f"{NAME}, record 0 at byte 0: .*{match}"):
        scan_changed(write_foreign, tmp_path, **{feature: value})


def test_a_record_that_is_no_example(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(frame(b"\xff" * 20))
    with pytest.raises(DataError, match=r"record 0 at byte 0: the record is no tf\.Example"):
        scan(tmp_path / NAME)


def test_damage_is_named_by_shard_and_byte(write_foreign: WriteForeign, tmp_path: Path) -> None:
    path = write_foreign(tmp_path, [NAME]) / NAME
    data = bytearray(path.read_bytes())
    second = int.from_bytes(data[:8], "little") + 16
    data[second + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{path}: the record at byte {second} does not match its CRC-32C") as caught:
        scan(path)
    assert "copy the shard anew" in caught.value.hint
    path.write_bytes(data[: second + 30])
    with pytest.raises(DataError, match=f"the record at byte {second} is cut short"):
        scan(path)
