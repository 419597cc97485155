import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagesprint.images.native import is_available
from imagesprint.records.image_record import bytes_feature


def test_sound_data(imagesprint: Callable[..., Any], photo_root: Path) -> None:
    done = imagesprint("verify", photo_root, "--decode")
    assert done.code == 0
    assert "no damage found" in done.stdout
    assert "9–9" in done.stdout
    one = imagesprint("verify", photo_root / "32", "--json")
    assert one.code == 0
    assert one.json["ok"] is True
    assert [split["variant"] for split in one.json["splits"]] == ["32", "32"]


def test_damage_is_listed_and_exits_3(imagesprint: Callable[..., Any], photo_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photo_root, tmp_path / "root"))
    shard = root / "full" / "train-00001-of-00003"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    os.truncate(root / "32" / "validation-00000-of-00001", 5000)
    done = imagesprint("verify", root)
    assert done.code == 3
    assert "  full, train, train-00001-of-00003, record 0: " in done.stdout
    assert "3 problems:" in done.stdout
    found = imagesprint("verify", root, "--json")
    assert found.code == 3
    assert found.json["ok"] is False
    assert [(problem["variant"], problem["record"]) for problem in found.json["problems"]][:2] == [
        ("full", 0),
        ("32", None),
    ]


@pytest.mark.skipif(not is_available(), reason="the native decoder is not built")
def test_what_libjpeg_warns_of_is_damage_and_stray_bytes_are_counted(
    imagesprint: Callable[..., Any], write_foreign: Callable[..., Path], tmp_path: Path
) -> None:
    def change(record: dict[str, Any]) -> dict[str, Any]:
        encoded = b"".join(record["image/encoded"])
        start, end = encoded.index(b"\xff\xd8"), encoded.rindex(b"\xff\xd9")
        image = encoded[start:end]
        if b"05.jpg" in b"".join(record["image/filename"]):
            image = image[:-60] + b"\xff\x00" * 6 + image[-48:]  # ones alone are no Huffman code
        return record | {"image/encoded": bytes_feature([image + b"abc" * 9 + b"\xff\xd9"])}

    data = write_foreign(tmp_path, change=change)
    assert imagesprint("index", data).code == 0
    done = imagesprint("verify", data, "--decode")
    assert done.code == 3
    assert "decoder     native" in done.stderr
    assert "2 problems:" in done.stdout
    assert "05.jpg cannot be decoded: " in done.stdout
    assert "44 images have stray bytes before a marker, which harm no pixel" in done.stdout
    assert imagesprint("verify", data, "--json").json["images_with_stray_bytes"] is None


def test_folders_that_hold_no_prepared_data(imagesprint: Callable[..., Any], tmp_path: Path, photos: Path) -> None:
    done = imagesprint("verify", photos)
    assert done.code == 2
    assert f"imagesprint prepare SOURCE {photos}" in done.stderr
    assert imagesprint("verify", tmp_path / "none").code == 2


def test_images_in_both_splits_are_listed_and_exit_3(
    imagesprint: Callable[..., Any], write_foreign: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_foreign(tmp_path, train=("train-0",), validation=())
    shutil.copy(data / "train-0", data / "val-0")
    assert imagesprint("index", data).code == 0
    done = imagesprint("verify", data)
    assert done.code == 3
    assert "40 training images are in validation, too:" in done.stdout
    assert "  train-0, record 0, 00.jpg is val-0, record 0, 00.jpg" in done.stdout
    assert "… and 20 more; --json lists all" in done.stdout
    assert done.stderr.splitlines()[-2].startswith(f"error: train and validation of {data} share 40 images: train-0, ")
    found = imagesprint("verify", data, "--json")
    assert found.code == 3
    assert (found.json["ok"], found.json["problems"]) == (False, [])
    assert found.json["shared_content"][39] == {
        "train": {"shard": "train-0", "record": 39, "filename": "19.jpg"},
        "validation": {"shard": "val-0", "record": 39, "filename": "19.jpg"},
    }
    assert found.json["splits"][1]["class_counts"] == {"n00000001": 20, "n00000002": 20}
