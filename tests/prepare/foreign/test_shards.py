import bz2
import gzip
import lzma
import shlex
import subprocess
import zlib
from pathlib import Path

import pytest

from imagesprint.errors import DataError, RecordError, UsageError
from imagesprint.prepare.foreign.shards import find_shards, link_to_validation
from imagesprint.records.tfrecord import frame

TRAIN, VALIDATION = "train", "validation"


def write(folder: Path, *names: str, content: bytes | None = None) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(frame(name.encode()) if content is None else content)


def found(folder: Path) -> list[tuple[str, str, str]]:
    shards = find_shards(folder).shards
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
        ("flowers_dev_00000-of-00001.tfrecord", VALIDATION),
    ],
)
def test_the_split_is_a_word_of_the_name(tmp_path: Path, name: str, split: str) -> None:
    write(tmp_path, name)
    assert found(tmp_path) == [(split, name, name)]


@pytest.mark.parametrize(
    "name",
    ["test-00000-of-00001", "train/test-1", "train-val-1", "constraint-1", "values-1", "retrain-1", ".train-1", "1"],
)
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


def test_folders_with_other_names_of_a_split(tmp_path: Path) -> None:
    write(tmp_path, "imagenet_train/part-1", "imagenet_valid/part-1", "train_logs/events.out.tfevents.1")
    assert found(tmp_path) == [
        (TRAIN, "imagenet_train/part-1", "train-part-1"),
        (VALIDATION, "imagenet_valid/part-1", "validation-part-1"),
    ]
    write(tmp_path, "train/part-7", "val-7")  # what is named plainly comes first
    assert [path for _, path, _ in found(tmp_path)] == ["train/part-7", "val-7"]


def test_other_files_are_named_and_our_own_are_not(tmp_path: Path) -> None:
    write(tmp_path, "train-1", "train.index.npz", "val.json")
    write(tmp_path, "train.txt", "train.csv", content=b"n01440764 0")
    shards = find_shards(tmp_path)
    assert [shard.name for shard in shards.shards] == ["train-1"]
    assert shards.notes == (f"2 files are no TFRecords and are left out, the first of them {tmp_path}/train.csv",)


@pytest.mark.parametrize("stem", ["train-00000-of-00001", "x-train.tfrecord-00000-of-00001", "train.tfrecord"])
@pytest.mark.parametrize("content", [b"", b"0 1234\n1234 1300\n", frame(b"record")])
def test_files_beside_shards_are_none(tmp_path: Path, stem: str, content: bytes) -> None:
    write(tmp_path, stem, "val-1")
    write(tmp_path, "train/_SUCCESS", "_SUCCESS", "labels.txt", content=b"")
    write(
        tmp_path,
        *(stem + suffix for suffix in (".idx", ".index", ".IDX", ".md5", ".crc", ".crc32", ".sha256", ".json")),
        content=content,
    )
    assert [name for _, _, name in found(tmp_path)] == [stem, "val-1"]


@pytest.mark.parametrize("content", [b"", b"1234"])
@pytest.mark.parametrize("suffix", [".bin", ".lst", ".parquet"])
def test_a_suffix_that_no_shard_has(tmp_path: Path, suffix: str, content: bytes) -> None:
    write(tmp_path, "train-00000-of-00001", "val-1")
    write(tmp_path, f"train-00000-of-00001{suffix}", content=content)
    assert [name for _, _, name in found(tmp_path)] == ["train-00000-of-00001", "val-1"]
    assert "1 files are no TFRecords" in find_shards(tmp_path).notes[0]


def test_missing_and_empty_shards_are_named(tmp_path: Path) -> None:
    write(tmp_path, "train-00000-of-00004", "train-00001-of-00004", "validation-00000-of-00001")
    write(tmp_path, "validation-00000-of-00001", content=b"")
    assert find_shards(tmp_path).notes == (
        "of 4 train shards 2 are missing: numbers 2, 3: what is there is all that is used",
        f"1 shards are empty, the first of them {tmp_path}/validation-00000-of-00001",
    )
    write(tmp_path, "train-00003-of-00004")
    with pytest.raises(DataError, match="of 4 train shards 1 is missing: number 2"):
        find_shards(tmp_path)


def test_a_shard_that_may_be_a_copy_of_numbered_ones_is_named(tmp_path: Path) -> None:
    write(tmp_path, "train-00000-of-00001", "train.tfrecord", "val-1")
    assert find_shards(tmp_path).notes == (
        "1 shards are not numbered as those beside them: see that they are no copies, the first of them "
        f"{tmp_path}/train.tfrecord",
    )


def test_what_is_found_and_not_used_is_said(tmp_path: Path) -> None:
    write(tmp_path, "train-1", "val-1", "x-test-00000-of-00001", "test/a.tfrecord", "data-00000-of-00001")
    write(tmp_path, "notes-00000-of-00001", content=b"no record")
    shards = find_shards(tmp_path)
    assert shards.notes == (
        f"2 TFRecords are of a test split and are left out, the first of them {tmp_path}/x-test-00000-of-00001",
        f"1 TFRecords do not say their split and are left out, the first of them {tmp_path}/data-00000-of-00001",
    )
    assert [path.name for path in shards.tests] == ["x-test-00000-of-00001", "a.tfrecord"]


@pytest.mark.parametrize("name", ["x-test.tfrecord-00000-of-00001", "test/part-00000-of-00001"])
def test_a_test_shard_may_be_linked_as_validation(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    subprocess.run(shlex.split(link_to_validation(tmp_path / name)), check=True)
    assert [split for split, _, _ in found(tmp_path)] == [VALIDATION]


@pytest.mark.parametrize(
    "name", ["train-00000-of-00001", "train.tfrecord", "x-train.tfrecord-7", "train-00000-of-00001.tfrec"]
)
def test_a_shard_that_does_not_begin_soundly(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, content=b"nothing of the kind")
    with pytest.raises(RecordError, match=f"{tmp_path}/{name}: the record at byte 0 has a damaged header"):
        find_shards(tmp_path)


def test_a_file_named_as_the_sound_shards_beside_it_is_a_shard_too(tmp_path: Path) -> None:
    write(tmp_path, "train/part-1", "train/part-2")
    write(tmp_path, "train/part-3", "train/notes-3", content=b"")
    assert [path for _, path, _ in found(tmp_path)] == ["train/part-1", "train/part-2", "train/part-3"]
    write(tmp_path, "train/part-3", content=b"nothing of the kind")
    with pytest.raises(RecordError, match=r"part-3: the record at byte 0 has a damaged header"):
        find_shards(tmp_path)
    (tmp_path / "train/part-3").unlink()
    (tmp_path / "train/part-3").symlink_to("nowhere")
    with pytest.raises(RecordError, match="part-3 is a link to nowhere, which is not there"):
        find_shards(tmp_path)


ZSTD, SNAPPY = b"\x28\xb5\x2f\xfd\x04\x00", b"\xff\x06\x00\x00sNaPpY\x01"
PACKED = [
    *((gzip.compress(frame(b"r") * 9, mtime=0), "gzip", suffix) for suffix in ("", ".gz", ".tfrecord.gz", ".zz")),
    *((zlib.compress(frame(b"r") * 9, level), "zlib", "") for level in (0, 1, 6, 9)),
    (zlib.compress(frame(b"r") * 9), "zlib", ".tfrecord.zz"),
    (zlib.compress(b""), "zlib", ""),
    (bz2.compress(frame(b"r")), "bzip2", ".bz2"),
    (lzma.compress(frame(b"r")), "xz", ""),
    (ZSTD, "zstd", ".zst"),
    (SNAPPY, "snappy", ""),
]


@pytest.mark.parametrize(
    ("content", "kind", "suffix"), PACKED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_compressed_shards_are_said_to_be(tmp_path: Path, content: bytes, kind: str, suffix: str) -> None:
    path = tmp_path / f"train-00000-of-00001{suffix}"
    write(tmp_path, path.name, content=content)
    with pytest.raises(RecordError) as caught:
        find_shards(tmp_path)
    assert caught.value.what.startswith(f"shard {path} is compressed by {kind}")


@pytest.mark.parametrize("name", ["train 1", "train 1.gz", "train/part-1"])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_the_hint_unpacks_a_shard_whatever_its_name(tmp_path: Path, name: str, pack: object) -> None:
    assert callable(pack)
    content = frame(b"record") * 9
    write(tmp_path, name, content=pack(content))
    with pytest.raises(RecordError, match="is compressed by") as caught:
        find_shards(tmp_path)
    (tmp_path / "NEW").mkdir()
    command = caught.value.hint.split(", this one by ")[1].removesuffix(", then index NEW")
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    (unpacked,) = (tmp_path / "NEW").iterdir()
    assert unpacked.read_bytes() == content
    assert unpacked.name == Path(name.removesuffix(".gz")).name


def test_what_holds_records_is_never_called_compressed(tmp_path: Path) -> None:
    length = int.from_bytes(b"\x1f\x8b", "little")  # a record that begins as gzip does
    write(tmp_path, "train-00000-of-00001.gz", content=frame(bytes(length)))
    assert len(found(tmp_path)) == 1
    write(tmp_path, "train-00000-of-00001.gz.zz", content=zlib.compress(frame(b"record")))  # kept beside the unpacked
    write(tmp_path, "train.txt.gz", content=gzip.compress(b"a list of files"))
    assert len(found(tmp_path)) == 1


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001", "train-00000-of-00002"),
        ("train-1", "train/train-1"),
        ("train/part-1", "train-part-1"),
        ("train/part-1", "training/part-1"),
        ("train/part-1", "training/part-2"),
    ],
)
def test_two_sets_in_one_folder(tmp_path: Path, names: tuple[str, ...]) -> None:
    write(tmp_path, *names)
    with pytest.raises((DataError, UsageError), match=r"are of two sets of (train )?shards"):
        find_shards(tmp_path)


def test_copies_are_told_by_their_bytes(tmp_path: Path) -> None:
    write(tmp_path, "train.tfrecord", "train (1).tfrecord", "val-1", content=frame(b"record"))
    with pytest.raises(DataError, match=r"train \(1\).tfrecord and .*train.tfrecord hold the same bytes"):
        find_shards(tmp_path)
    write(tmp_path, "train (1).tfrecord", content=frame(b"others"))
    assert find_shards(tmp_path).notes == (
        "1 validation shards hold the same bytes as a train shard: accuracy will look better than it is, the first of "
        f"them {tmp_path}/val-1",
    )


@pytest.mark.parametrize("content", [b"", b"half", frame(b"record")])
def test_a_download_that_has_not_ended(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, "train-00000-of-00002", "val-1")
    write(tmp_path, "train-00001-of-00002.part", content=content)
    with pytest.raises(RecordError, match=r"train-00001-of-00002.part is a download that has not ended"):
        find_shards(tmp_path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of git-lfs"),
        (b"<!DOCTYPE html>", "a page of a web server"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x83\xaf\x70\xd1\x0d\x88\x4a\x3f" + bytes(56), "an ArrayRecord or Riegeli file"),
    ],
)
def test_other_files_under_a_shards_name(tmp_path: Path, content: bytes, what: str) -> None:
    write(tmp_path, "train-00000-of-00001", content=content)
    with pytest.raises(RecordError, match=f"train-00000-of-00001 is {what}, no TFRecord"):
        find_shards(tmp_path)


def test_a_gap_in_numbers_without_a_total_is_noted(tmp_path: Path) -> None:
    write(tmp_path, "train-0000.tfrecord", "train-0001.tfrecord", "train-0003.tfrecord", "val-2012", "val-2014")
    assert find_shards(tmp_path).notes == (
        f"train shards {tmp_path}/train-… go up to number 3, but 1 is missing: number 2",
    )
