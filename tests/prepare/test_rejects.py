"""Files that are no images: left out, listed, counted, and an error where they are too many."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagesprint.console import Console
from imagesprint.errors import DataError
from imagesprint.prepare.preparing import Summary, prepare

ReadTree = Callable[[Path], dict[str, bytes]]


def make(source: Path, root: Path, **options: Any) -> Summary:
    return prepare(source, root, **{"variants": ("full",), "workers": 1, "console": Console(quiet=True), **options})


@pytest.fixture
def source(photos: Path, tmp_path: Path) -> Path:
    """A copy of `photos` that a test may change."""
    return Path(shutil.copytree(photos, tmp_path / "source"))


def test_rejected_files_are_listed_and_counted(source: Path, tmp_path: Path) -> None:
    (source / "train/china/page.jpg").write_text("<html>not found</html>")
    (source / "train/china/empty.jpg").touch()
    (source / "val/flower/cut.jpg").write_bytes((source / "val/flower/00.jpg").read_bytes()[:500])
    with pytest.raises(DataError, match="2 of 91 files are rejected so far, the first of them train/china/") as caught:
        make(source, tmp_path / "root", variants=("full", "32"))
    assert "--max-rejected 0.022" in caught.value.hint
    assert not (tmp_path / "root/full/dataset.json").exists()
    done = make(source, tmp_path / "root", variants=("full", "32"), max_rejected=0.033)
    assert done.images == {"train": 70, "validation": 18}
    assert done.rejected == {"empty": 1, "no image": 1, "damaged": 1}
    for variant in ("full", "32"):
        lines = (tmp_path / "root" / variant / "rejected.jsonl").read_text().splitlines()
        rows = sorted((row["split"], row["file"], row["reason"]) for row in map(json.loads, lines))
        assert [row[:2] for row in rows] == [
            ("train", "train/china/empty.jpg"),
            ("train", "train/china/page.jpg"),
            ("validation", "val/flower/cut.jpg"),
        ]
        assert rows[0][2] == "empty: the file has 0 bytes"
        assert "begins with b'<html>not found<'" in rows[1][2]
        assert rows[2][2].startswith("damaged: ")


def test_too_many_rejects_end_it_early_and_the_restart_goes_on(source: Path, tmp_path: Path) -> None:
    for path in (source / "train/china").glob("[0-2]*.jpg"):
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="of 88 files are rejected"):
        make(source, tmp_path / "root", shards=30, max_rejected=0.1)
    finished = list((tmp_path / "root/.parts").glob("train-*.json"))
    assert 2 <= len(finished) < 30
    make(source, tmp_path / "root", shards=30, max_rejected=0.5)
    assert all(path.is_file() for path in (tmp_path / "root/full").iterdir())
    assert not (tmp_path / "root/.parts").exists()


def test_split_of_rejects_alone(source: Path, tmp_path: Path) -> None:
    for path in source.glob("val/*/*.jpg"):
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="all 18 files of validation are rejected"):
        make(source, tmp_path / "root", max_rejected=1)


def test_class_whose_training_images_are_all_rejected(source: Path, tmp_path: Path) -> None:
    for path in source.glob("train/flower/*.jpg"):
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="every training image of class 'flower' is rejected"):
        make(source, tmp_path / "root", max_rejected=1)


def test_class_whose_validation_images_are_all_rejected(source: Path, tmp_path: Path) -> None:
    for path in source.glob("val/flower/*.jpg"):
        path.write_bytes(b"nothing")
    stream = io.StringIO()
    make(source, tmp_path / "root", max_rejected=1, console=Console(stream, quiet=True))
    assert stream.getvalue() == "warning: 1 of 2 classes have no validation images: flower\n"
