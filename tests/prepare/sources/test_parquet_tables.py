import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources.parquet_tables import ParquetTables


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
    assert listing.notes == ("tables of other splits are left out: data/test-00000-of-00001.parquet",)
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
    with pytest.raises(DataError, match="the tables have the label 7, but name 3 classes"):
        ParquetTables(tmp_path).scan()
    pyarrow.parquet.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet has other class names than train-00000"):
        ParquetTables(tmp_path).scan()


def test_class_without_images(tmp_path: Path) -> None:
    write(tmp_path, "train-0.parquet", [0, 2])
    with pytest.raises(DataError, match="class '1' has no images in the tables of train"):
        ParquetTables(tmp_path).scan()


def test_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "train-0.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"img": [b"x"], "fine_label": [0]}), path)
    with pytest.raises(DataError, match=f"{path} has the columns img, fine_label"):
        ParquetTables(tmp_path).scan()


def test_no_tables_for_training(tmp_path: Path) -> None:
    write(tmp_path, "validation-0.parquet", [0])
    with pytest.raises(UsageError, match=r"no table in .* has a name that begins with train-"):
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
