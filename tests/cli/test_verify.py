import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


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


def test_folders_that_hold_no_prepared_data(imagesprint: Callable[..., Any], tmp_path: Path, photos: Path) -> None:
    done = imagesprint("verify", photos)
    assert done.code == 2
    assert f"imagesprint prepare SOURCE {photos}" in done.stderr
    assert imagesprint("verify", tmp_path / "none").code == 2
