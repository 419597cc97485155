import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imagesprint.console import Console
from imagesprint.errors import ImageError, UsageError
from imagesprint.images.coding import open_image
from imagesprint.prepare.preparing import prepare
from imagesprint.records.image_record import ImageRecord
from imagesprint.records.index import Index
from imagesprint.records.manifest import INDEXED, Manifest
from imagesprint.records.tfrecord import frame
from imagesprint.records.verify import Verification, verify

WriteVariant = Callable[..., None]

RAW = ImageRecord(bytes(5 * 7 * 3), 5, 7, 0, "n0", "n0", "a.jpg", image_format="raw")
OTHER = replace(RAW, encoded=bytes([1]) * len(RAW.encoded))


def refuse(_: bytes) -> tuple[int, int]:
    raise AssertionError("raw pixels are not decoded")


def whats(root: Path) -> list[str]:
    return [problem.what for problem in verify(root, Console(quiet=True)).problems]


def test_raw_pixels_are_as_many_as_the_size_says(write_variant: WriteVariant, tmp_path: Path) -> None:
    write_variant(tmp_path / "sound" / "160", [RAW, replace(RAW, label=1, synset="n1")], [OTHER], "raw")
    assert verify(tmp_path / "sound", Console(quiet=True), refuse).is_sound
    write_variant(tmp_path / "short" / "160", [RAW, replace(RAW, encoded=RAW.encoded[1:])], [OTHER], "raw")
    assert whats(tmp_path / "short") == ["a.jpg has 104 bytes, not those of 7 × 5 pixels"]


def test_records_that_others_wrote_may_lack_a_synset(write_variant: WriteVariant, tmp_path: Path) -> None:
    write_variant(tmp_path / "full", [replace(RAW, synset="n1")], [replace(OTHER, synset="")])
    assert len(whats(tmp_path)) == 2
    folder = tmp_path / "full"
    replace(Manifest.read(folder), made_by=INDEXED).write(folder)
    assert whats(tmp_path) == ["a.jpg is of synset n1, its label stands for n0"]


SHARD = "train-00001-of-00003"


def check(path: Path) -> Verification:
    return verify(path, Console(quiet=True))


def size_of_image(encoded: bytes) -> tuple[int, int]:
    image = open_image(encoded)
    return image.height, image.width


def test_sound_data(photo_root: Path) -> None:
    found = verify(photo_root, Console(quiet=True), size_of_image)
    assert found.problems == []
    assert [(split.variant, split.split, split.num_records, split.num_shards) for split in found.splits] == [
        ("full", "train", 70, 3),
        ("full", "validation", 18, 1),
        ("32", "train", 70, 3),
        ("32", "validation", 18, 1),
    ]
    assert found.splits[1].class_counts == {"china": 9, "flower": 9}


def test_one_variant(photo_root: Path) -> None:
    found = check(photo_root / "32")
    assert found.problems == []
    assert [split.variant for split in found.splits] == ["32", "32"]


def test_unprepared_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no prepared dataset"):
        check(tmp_path)


def test_all_damaged_records_are_found(root: Path, flip_bit: Callable[[Path, int], None]) -> None:
    size = (root / "full" / SHARD).stat().st_size
    for position in (100, size // 2, size - 2):
        flip_bit(root / "full" / SHARD, position)
    flip_bit(root / "32" / "validation-00000-of-00001", 3000)
    problems = check(root).problems
    assert [(problem.variant, problem.split, problem.shard) for problem in problems] == [
        *[("full", "train", SHARD)] * 3,
        ("32", "validation", "validation-00000-of-00001"),
    ]
    records = [problem.record for problem in problems[:3]]
    assert records[0] == 0
    assert records[2] == 22
    assert all(re.search(r"CRC-32C", problem.what) for problem in problems)


def test_shard_cut_short_missing_or_longer(root: Path) -> None:
    os.truncate(root / "full" / SHARD, (root / "full" / SHARD).stat().st_size // 2)
    (root / "32" / SHARD).unlink()
    with (root / "32" / "train-00002-of-00003").open("ab") as file:
        file.write(frame(b"foreign"))
    whats = [(problem.variant, problem.shard, problem.what) for problem in check(root).problems]
    assert re.search("bytes long, not", whats[0][2])
    assert re.search(r"cut short here: \d+ records are missing", whats[1][2])
    assert whats[2][:2] == ("32", SHARD)
    assert re.search("No such file", whats[2][2])
    assert re.search("bytes long, not", whats[3][2])
    assert re.search("23 bytes follow the last record", whats[4][2])
    assert len(whats) == 5


def test_damaged_index_leaves_the_shards_checked(root: Path, flip_bit: Callable[[Path, int], None]) -> None:
    (root / "full" / "train.index.npz").write_bytes(b"nothing")
    flip_bit(root / "full" / SHARD, 100)
    problems = check(root).problems
    assert [problem.shard for problem in problems] == ["", SHARD]
    assert "train.index.npz is damaged" in problems[0].what


def test_damaged_manifest_leaves_the_other_variant_checked(root: Path) -> None:
    (root / "full" / "dataset.json").unlink()
    found = check(root)
    assert [problem.variant for problem in found.problems] == ["full"]
    assert "dataset.json" in found.problems[0].what
    assert {split.variant for split in found.splits} == {"32"}


def test_shard_that_is_sound_but_another(root: Path) -> None:
    path = root / "full" / "dataset.json"
    text = path.read_text()
    crc = re.search(r'"crc32c": (\d+)', text)
    assert crc is not None
    path.write_text(text.replace(crc[0], f'"crc32c": {int(crc[1]) ^ 1}'))
    problems = check(root).problems
    assert [(problem.shard, problem.record) for problem in problems] == [("train-00000-of-00003", None)]
    assert "does not match its checksum" in problems[0].what


def test_labels_against_the_class_list(root: Path) -> None:
    path = root / "full" / "dataset.json"
    path.write_text(path.read_text().replace('"synset": "flower"', '"synset": "n1"'))
    problems = check(root / "full").problems
    assert len(problems) == 35 + 9
    assert "is of synset flower, its label stands for n1" in problems[0].what


def test_variants_that_disagree(root: Path, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    prepare(photos, other, variants=("32",), shards=3, workers=1, seed=1, console=Console(quiet=True))
    shutil.rmtree(root / "32")
    shutil.copytree(other / "32", root / "32")
    assert [(problem.variant, problem.split) for problem in check(root).problems] == [
        ("32", "train"),
        ("32", "validation"),
    ]


def test_every_image_is_decoded_on_request(photo_root: Path) -> None:
    calls = []

    def refuse(encoded: bytes) -> tuple[int, int]:
        calls.append(encoded)
        if len(calls) % 2:
            raise ImageError("damaged: no picture")
        return 1, 1

    problems = verify(photo_root / "32", Console(quiet=True), refuse).problems
    assert len(problems) == len(calls) == 88
    assert sum("cannot be decoded: damaged: no picture" in problem.what for problem in problems) == 44
    assert sum("is 1 × 1 pixels" in problem.what for problem in problems) == 44


def test_classes_that_differ_from_variant_to_variant(root: Path) -> None:
    path = root / "32" / "dataset.json"
    path.write_text(path.read_text().replace('"text": "flower"', '"text": "rose"'))
    problems = check(root).problems
    assert [(problem.variant, problem.split) for problem in problems] == [("32", "")]
    assert "its classes are not those of variant full" in problems[0].what


def test_folder_of_another_variant(root: Path) -> None:
    (root / "32").rename(root / "64")
    problems = check(root).problems
    assert [problem.variant for problem in problems] == ["64"]
    assert "is of variant '32', but its folder is named '64'" in problems[0].what


def test_number_of_classes_present(root: Path) -> None:
    path = root / "full" / "dataset.json"
    path.write_text(path.read_text().replace('"num_classes_present": 2', '"num_classes_present": 1', 1))
    problems = check(root).problems
    assert [(problem.variant, problem.split) for problem in problems] == [("full", "train")]
    assert "has 2 classes, dataset.json has 1" in problems[0].what


def test_record_is_counted_alike_with_and_without_an_index(root: Path) -> None:
    index = Index.read(root / "full" / "train.index.npz")
    rows = np.flatnonzero(index.shard == 1)
    with (root / "full" / SHARD).open("r+b") as file:
        file.seek(int(index.offset[rows[5]]) + 100)
        file.write(b"damage")
    with_index = check(root).problems
    (root / "full" / "train.index.npz").unlink()
    without = check(root).problems[1:]
    assert [problem.record for problem in with_index] == [problem.record for problem in without] == [5]


def test_label_far_beyond_the_classes(root: Path) -> None:
    path = root / "full" / "train.index.npz"
    index = Index.read(path)
    index.label[0] = 2**31 - 1
    index.write(path)
    counts = check(root / "full").splits[0].class_counts  # counting up to that label would take 16 GiB
    assert sum(counts.values()) == 69
