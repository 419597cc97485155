import gzip
from pathlib import Path

import pytest

from imagesprint.errors import RecordError, UsageError
from imagesprint.prepare.foreign.shards import find_shards
from imagesprint.records.tfrecord import frame

TRAIN, VALIDATION = "train", "validation"


def write(folder: Path, *names: str, content: bytes = frame(b"record")) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def found(folder: Path) -> list[tuple[str, str, str]]:
    shards, _ = find_shards(folder)
    return [(shard.split, str(shard.path.relative_to(folder)), shard.name) for shard in shards]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00001", TRAIN),
        ("imagenet2012-train.tfrecord-00000-of-00001", TRAIN),
        ("train_0001.tfrecord", TRAIN),
        ("TRAIN-1", TRAIN),
        ("ilsvrc_training.7", TRAIN),
        ("validation-00000-of-00001", VALIDATION),
        ("imagenet2012_real-validation.tfrecord-00000-of-00001", VALIDATION),
        ("val-0001.tfrecord", VALIDATION),
        ("valid.tfrecord", VALIDATION),
    ],
)
def test_the_split_is_a_word_of_the_name(tmp_path: Path, name: str, split: str) -> None:
    write(tmp_path, name)
    assert found(tmp_path) == [(split, name, name)]


@pytest.mark.parametrize("name", ["test-00000-of-00001", "constraint-1", "values-1", "retrain-1", ".train-1", "1"])
def test_files_of_no_split_are_left_out(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    assert found(tmp_path) == []


def test_folders_of_splits(tmp_path: Path) -> None:
    write(tmp_path, "train/train-00000-of-00002", "train/part-1", "Val/part-1", "other/train-1", "train/deep/train-1")
    assert found(tmp_path) == [
        (TRAIN, "train/part-1", "train-part-1"),
        (TRAIN, "train/train-00000-of-00002", "train-00000-of-00002"),
        (VALIDATION, "Val/part-1", "validation-part-1"),
    ]


def test_shards_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write(tmp_path, *(f"train-{number}" for number in (10, 2, 1, 33)), "train", "val-1")
    assert [path for _, path, _ in found(tmp_path)] == ["train", "train-1", "train-2", "train-10", "train-33", "val-1"]


def test_other_files_are_named_and_our_own_are_not(tmp_path: Path) -> None:
    write(tmp_path, "train-1", "train.index.npz", "val.json")
    write(tmp_path, "train.txt", "train.csv", content=b"n01440764 0")
    shards, notes = find_shards(tmp_path)
    assert [shard.name for shard in shards] == ["train-1"]
    assert notes == (f"2 files are no TFRecords and are left out, the first of them {tmp_path}/train.csv",)


def test_missing_and_empty_shards_are_named(tmp_path: Path) -> None:
    write(tmp_path, "train-00000-of-00004", "train-00003-of-00004", "validation-00000-of-00001")
    write(tmp_path, "validation-00000-of-00001", content=b"")
    _, notes = find_shards(tmp_path)
    assert notes == (
        "2 of 4 train shards are missing, the first is number 1",
        f"1 shards are empty, the first of them {tmp_path}/validation-00000-of-00001",
    )


@pytest.mark.parametrize("name", ["train-00000-of-00001", "train.tfrecord"])
def test_a_shard_that_does_not_begin_soundly(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, content=b"nothing of the kind")
    with pytest.raises(RecordError, match=f"{tmp_path}/{name}: the record at byte 0"):
        find_shards(tmp_path)
    write(tmp_path, name, content=gzip.compress(frame(b"record")))
    with pytest.raises(RecordError, match="is compressed by gzip"):
        find_shards(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001", "train-00000-of-00002"),
        ("train-1", "train/train-1"),
        ("train/part-1", "train-part-1"),
        ("train/part-1", "training/part-1"),
    ],
)
def test_two_sets_in_one_folder(tmp_path: Path, names: tuple[str, ...]) -> None:
    write(tmp_path, *names)
    with pytest.raises(UsageError, match="are of two sets of shards"):
        find_shards(tmp_path)
