import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from imagesprint.console import Console
from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.preparing import prepare
from imagesprint.prepare.sources import open_source
from imagesprint.prepare.sources.parquet import ParquetTables


def write(folder: Path, name: str, labels: list[Any], **options: Any) -> Path:
    """Write a table with images of the texts "0", "1", … and no names of classes."""
    images = [{"bytes": str(i).encode(), "path": None} for i in range(len(labels))]
    columns = {"image": images, "label": labels}
    pyarrow.parquet.write_table(pyarrow.table({**columns, **options}), folder / name, row_group_size=2)
    return folder / name


def test_hugging_face_layout(miniature: Path) -> None:
    source = ParquetTables(miniature / "parquet")
    listing = source.scan()
    assert [entry.name for entry in listing.classes] == ["n01440764", "n02012849", "n03126707"]
    assert listing.notes == ("files of other splits are left out: data/test-00000-of-00001.parquet",)
    assert {split: len(samples) for split, samples in listing.splits.items()} == {"train": 12, "validation": 6}
    first = listing.splits["train"][0]
    assert first.location == "data/train-00000-of-00002.parquet/row 0/n01440764_10026.JPEG"
    assert [sample.block for sample in listing.splits["train"]] == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4]
    for sample in reversed(listing.splits["train"]):
        synset = listing.classes[sample.label].name
        assert source.read(sample) == (miniature / f"class-folders/train/{synset}/{sample.name}").read_bytes()


def test_without_names(tmp_path: Path) -> None:
    write(tmp_path, "train-00000-of-00001.parquet", [1, 0, 1])
    write(tmp_path, "val-00000-of-00001.parquet", [0])
    source = ParquetTables(tmp_path)
    listing = source.scan()
    assert [entry.name for entry in listing.classes] == ["0", "1"]
    assert [sample.location for sample in listing.splits["train"]] == [
        f"train-00000-of-00001.parquet/row {i}/train-00000-of-00001-{i}" for i in range(3)
    ]
    assert [source.read(sample) for sample in listing.splits["train"]] == [b"0", b"1", b"2"]
    assert len(listing.splits["validation"]) == 1


def test_row_without_an_image_is_empty(tmp_path: Path) -> None:
    images = [None, {"bytes": None, "path": "a.jpg"}, {"bytes": b"x", "path": "in/b.jpg"}]
    write(tmp_path, "train.parquet", [0, 0, 0], image=images)
    source = ParquetTables(tmp_path)
    samples = source.scan().splits["train"]
    assert [source.read(sample) for sample in samples] == [b"", b"", b"x"]
    assert [sample.name for sample in samples] == ["train-0", "a.jpg", "b.jpg"]


@pytest.mark.parametrize("label", [-1, None])
def test_unlabelled_images(tmp_path: Path, label: int | None) -> None:
    path = write(tmp_path, "train-0.parquet", [0, label])
    with pytest.raises(DataError, match=f"row 1 of {path} has the label {label}, which is none"):
        ParquetTables(tmp_path).scan()


@pytest.mark.parametrize("labels", [["cat", "dog"], [1.0, 2.0]])
def test_labels_that_are_no_integers(tmp_path: Path, labels: list[object]) -> None:
    table = pyarrow.table({"image": [{"bytes": b"x"}] * 2, "label": labels})
    pyarrow.parquet.write_table(table, tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=f"row 0 of .*train-0.parquet has the label {labels[0]!r}") as caught:
        ParquetTables(tmp_path).scan()
    assert caught.value.hint == "labels are integers that count the classes from 0"


def test_labels_and_class_names_that_do_not_fit(miniature: Path, tmp_path: Path) -> None:
    shutil.copytree(miniature / "parquet/data", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "train-00001-of-00002.parquet"
    table = pyarrow.parquet.read_table(path)
    labels = pyarrow.array([7] * len(table))
    pyarrow.parquet.write_table(table.set_column(1, "label", labels), path)
    with pytest.raises(DataError, match=r"there is a label 7 in the tables of .*, but 3 classes are named"):
        ParquetTables(tmp_path).scan()
    names = json.loads(table.schema.metadata[b"huggingface"])
    names["info"]["features"]["label"]["names"].reverse()
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), path)
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet has other class names than train-00000"):
        ParquetTables(tmp_path).scan()
    pyarrow.parquet.write_table(table.replace_schema_metadata({}), path)  # no names contradict none
    assert [entry.name for entry in ParquetTables(tmp_path).scan().classes] == ["n01440764", "n02012849", "n03126707"]


def test_labels_that_occur_nowhere_are_noted(tmp_path: Path) -> None:
    write(tmp_path, "train-0.parquet", [0, 3, 6])
    listing = ParquetTables(tmp_path).scan()
    assert [entry.name for entry in listing.classes] == list("0123456")
    [note] = listing.notes
    assert "4 of the labels 0 to 6 have no images in" in note
    assert "(1, 2, 4, …)" in note
    write(tmp_path, "val-0.parquet", [0, 2])
    with pytest.raises(DataError, match="class 2 has no training images in"):
        ParquetTables(tmp_path).scan()
    write(tmp_path, "train-0.parquet", [10**9])
    with pytest.raises(DataError, match="there is a label 1,000,000,000 in"):
        ParquetTables(tmp_path).scan()


def test_named_class_without_images(miniature: Path, tmp_path: Path) -> None:
    shutil.copytree(miniature / "parquet/data", tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("train-*"):
        table = pyarrow.parquet.read_table(path)
        pyarrow.parquet.write_table(table.set_column(1, "label", pyarrow.array([0] * len(table))), path)
    with pytest.raises(DataError, match="class 'n02012849' has no images in the tables of"):
        ParquetTables(tmp_path).scan()


@pytest.mark.parametrize(
    ("image", "label"),
    [("img", "label"), ("image", "labels"), ("jpg", "cls"), ("picture", "fine_label"), ("png", "class")],
)
@pytest.mark.parametrize("is_struct", [True, False])
@pytest.mark.parametrize("binary", [pyarrow.binary(), pyarrow.large_binary()])
def test_columns_of_other_names(tmp_path: Path, image: str, label: str, is_struct: bool, binary: Any) -> None:
    images = pyarrow.array([b"x", b"y"], binary)
    struct = pyarrow.StructArray.from_arrays([images, pyarrow.array(["a.jpg", None])], ["bytes", "path"])
    columns = {"text": ["a", "b"], label: [1, 0], image: struct if is_struct else images}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    source = ParquetTables(tmp_path)
    samples = source.scan().splits["train"]
    assert [(sample.label, source.read(sample)) for sample in samples] == [(1, b"x"), (0, b"y")]
    assert [sample.name for sample in samples] == (["a.jpg", "train-1"] if is_struct else ["train-0", "train-1"])


@pytest.mark.parametrize(
    "columns",
    [
        {"image": [b"x"], "caption": ["a cat"]},
        {"img": [b"x"], "fine_label": [0], "class": [0]},
        {"left": [b"x"], "right": [b"x"], "label": [0]},
        {"image": ["x.jpg"], "label": [0]},
        {"image": [[1, 2]], "label": [0]},
    ],
)
def test_other_columns(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    path = tmp_path / "train-0.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(DataError, match=f"{path} has the columns {', '.join(columns)}") as caught:
        ParquetTables(tmp_path).scan()
    assert caught.value.hint.startswith("prepare reads image, a struct with bytes, and label, an integer")


@pytest.mark.parametrize(
    ("path", "what"), [("in/a.jpg", "has the paths .* such as 'in/a.jpg'"), (None, "has no images")]
)
def test_no_bytes(tmp_path: Path, path: str | None, what: str) -> None:
    images = pyarrow.array(
        [{"bytes": None, "path": path}] * 2, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    )
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": [0, 0]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=f"train.parquet {what}"):
        ParquetTables(tmp_path).scan()


@pytest.mark.parametrize(
    "names",
    [
        ["valid-0.parquet", "training-0.parquet"],
        ["train/0000.parquet", "validation/0000.parquet"],
        ["data/train-0.parquet", "data/dev-0.parquet"],
        ["data/train/0000.PARQUET", "data/val/0000.PARQUET"],
        ["default/train/0000.parquet", "default/validation/0000.parquet"],
        ["cifar10/train-00000-of-00001.parquet", "cifar10/validation-00000-of-00001.parquet"],
        ["snapshots/0a1b/data/train-0.parquet", "snapshots/0a1b/data/validation-0.parquet", "blobs/0a1b", "refs/main"],
        ["datasets--o--n/snapshots/0a/plain/train/0.parquet", "datasets--o--n/snapshots/0a/plain/validation/0.parquet"],
    ],
)
def test_where_tables_lie(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.lower().endswith(".parquet"):
            write(tmp_path, name, [0] if "val" in name or "dev" in name else [0, 0])
        else:
            (tmp_path / name).touch()
    source = open_source(tmp_path)
    assert source.kind == "parquet"
    assert {split: len(samples) for split, samples in source.scan().splits.items()} == {"train": 2, "validation": 1}


def test_a_folder_of_one_split_or_tables_of_no_split(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    write(tmp_path / "train", "0000.parquet", [0])
    assert ParquetTables(tmp_path / "train").scan().notes == ()
    (tmp_path / "train").rename(tmp_path / "photos")
    assert list(ParquetTables(tmp_path / "photos").scan().splits) == ["train"]
    [note] = ParquetTables(tmp_path / "photos").scan().notes
    assert "no name of a .parquet file in" in note
    assert "all are taken as train" in note
    (tmp_path / "photos").rename(tmp_path / "partial-train")
    with pytest.raises(DataError, match=r"partial-train/0000\.parquet is of the first part of a split alone"):
        ParquetTables(tmp_path).scan()
    (tmp_path / "partial-train").rename(tmp_path / "photos")
    write(tmp_path / "photos", "test.parquet", [0])
    with pytest.raises(UsageError, match=r"no \.parquet file in .* is of train"):
        ParquetTables(tmp_path / "photos").scan()


def test_several_configurations(tmp_path: Path) -> None:
    for name in ("cifar10", "cifar100"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "train.parquet", [0])
    with pytest.raises(UsageError, match=r"hold \.parquet files: cifar10/, cifar100/") as caught:
        open_source(tmp_path).scan()
    assert caught.value.hint == f"give one of them as SOURCE: {tmp_path}/cifar10"
    assert open_source(tmp_path / "cifar10").scan().notes == ()
    write(tmp_path, "train.parquet", [0])
    [note] = open_source(tmp_path).scan().notes
    assert note == f".parquet files in other folders of {tmp_path} are left out: cifar10/, cifar100/"


def test_a_table_beside_class_folders_is_by_the_way(miniature: Path, tmp_path: Path) -> None:
    shutil.copytree(miniature / "class-folders", tmp_path, dirs_exist_ok=True)
    write(tmp_path, "metadata.parquet", [0])
    assert open_source(tmp_path).kind == "class-folders"
    write(tmp_path, "train-0.parquet", [0])
    assert open_source(tmp_path).kind == "parquet"


def test_tables_of_test_are_offered_for_validation(miniature: Path, tmp_path: Path) -> None:
    shutil.copytree(miniature / "parquet", tmp_path / "source")
    for path in tmp_path.glob("source/data/validation-*"):
        path.unlink()
    with pytest.raises(UsageError, match="no validation split") as caught:
        prepare(tmp_path / "source", tmp_path / "root", console=Console(quiet=True))
    assert caught.value.hint.endswith("to validate by it: data/test-00000-of-00001.parquet")


def test_saved_by_datasets(tmp_path: Path) -> None:
    for name in ("dataset_dict.json", "train/data-00000-of-00001.arrow", "train/state.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for path in (tmp_path, tmp_path / "train"):
        with pytest.raises(UsageError, match=r"holds \.arrow files, as save_to_disk") as caught:
            open_source(path).scan()
        assert "to_parquet" in caught.value.hint


def test_a_missing_shard_or_two_generations(miniature: Path, tmp_path: Path) -> None:
    shutil.copytree(miniature / "parquet", tmp_path, dirs_exist_ok=True)
    first, second = (tmp_path / f"data/train-0000{i}-of-00002.parquet" for i in range(2))
    shutil.copy(first, tmp_path)
    with pytest.raises(DataError, match=r"^data/train-00000-of-00002.parquet and train-00000-of-00002.parquet are one"):
        ParquetTables(tmp_path).scan()
    (tmp_path / first.name).rename(tmp_path / "data/train-00000-of-00001-0a1b.parquet")
    with pytest.raises(DataError, match="are of two sets of train shards"):
        ParquetTables(tmp_path).scan()
    (tmp_path / "data/train-00000-of-00001-0a1b.parquet").rename(tmp_path / "data/train.parquet")
    with pytest.raises(DataError, match=r"data/train\.parquet and data/train-00000.* are of two sets of train files"):
        ParquetTables(tmp_path).scan()
    (tmp_path / "data/train.parquet").unlink()
    second.rename(second.with_suffix(".parquet.incomplete"))
    with pytest.raises(DataError, match=r"is a download that has not ended"):
        ParquetTables(tmp_path).scan()
    second.with_suffix(".parquet.incomplete").unlink()
    with pytest.raises(DataError, match=r"of 2 train shards 1 is missing: number 1"):
        ParquetTables(tmp_path).scan()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a pointer of git-lfs"),
        (b"<!doctype html><title>Login</title>" * 9, "is a page of a web server"),
        (b"", "is empty: it has 0 bytes"),
        (b"\x1f\x8b\x08" + bytes(90), "is compressed with gzip"),
        (b"PAR1 and no end", "cannot be read: "),
    ],
)
def test_what_is_no_table_is_called_what_it_is(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(data)
    with pytest.raises(DataError, match=f"train-00000-of-00001.parquet {what}"):
        ParquetTables(tmp_path).scan()


def test_damaged_tables(tmp_path: Path) -> None:
    path = write(tmp_path, "train-0.parquet", [0, 0])
    source = ParquetTables(tmp_path)
    sample = source.scan().splits["train"][0]
    data = path.read_bytes()
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(bytes(60) + data[60:])  # the images' pages
    os.utime(path, ns=times)
    with pytest.raises(DataError, match=f"{path} cannot be read: "):
        source.read(sample)
    path.write_bytes(data[:-10])
    with pytest.raises(DataError, match=f"{path} changed while it was prepared"):
        source.read(sample)
    with pytest.raises(DataError, match=f"{path} cannot be read: "):
        ParquetTables(tmp_path).scan()
    path.unlink()
    with pytest.raises(DataError, match=f"cannot read {path}: No such file"):
        source.read(sample)


def test_pyarrow_is_optional(miniature: Path, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError\n")
    done = subprocess.run(
        [sys.executable, "-m", "imagesprint", "prepare", miniature / "parquet", tmp_path / "root"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 2
    assert "needs pyarrow, which is not installed" in done.stderr
    assert "hint: pip install pyarrow" in done.stderr
