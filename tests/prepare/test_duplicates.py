"""Images that are in train and in validation."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagesprint.console import Console
from imagesprint.errors import DataError
from imagesprint.prepare.preparing import Summary, prepare
from imagesprint.records.dataset import open_dataset
from imagesprint.records.verify import verify

ReadTree = Callable[[Path], dict[str, bytes]]


def make(source: Path, root: Path, **options: Any) -> Summary:
    settings = {"variants": ("full", "32"), "shards": 6, "workers": 1, "max_rejected": 0.1, **options}
    return prepare(source, root, **{"console": Console(quiet=True), **settings})


@pytest.fixture
def source(photos: Path, tmp_path: Path) -> Path:
    """Four validation files that are training files too, one of them in two classes, and one that is no image."""
    source = Path(shutil.copytree(photos, tmp_path / "source"))
    for number in range(4):
        shutil.copy(source / f"val/china/0{number}.jpg", source / f"train/china/copy{number}.jpg")
    shutil.copy(source / "val/china/00.jpg", source / "train/flower/again.jpg")
    for folder in ("train", "val"):
        (source / folder / "china/page.jpg").write_text("<html>")
    return source


def rows(root: Path, variant: str = "full") -> list[tuple[str, str]]:
    lines = (root / variant / "rejected.jsonl").read_text().splitlines()
    return sorted((row["file"], row["reason"]) for row in map(json.loads, lines))


def test_the_training_image_is_rejected(source: Path, tmp_path: Path) -> None:
    done = make(source, tmp_path / "root")
    assert done.images == {"train": 70, "validation": 18}
    assert done.rejected == {"duplicate": 5, "no image": 2}
    same = "duplicate: the same content as validation file val/china/0"
    expected = [(f"train/china/copy{number}.jpg", f"{same}{number}.jpg") for number in range(4)]
    assert [row for row in rows(tmp_path / "root") if "page" not in row[0]] == [
        *expected,
        ("train/flower/again.jpg", f"{same}0.jpg"),
    ]
    assert rows(tmp_path / "root") == rows(tmp_path / "root", "32")
    train = open_dataset(tmp_path / "root", "32", "train")
    names = {train.read_record(i).filename for i in range(len(train))}
    assert not any(name.startswith(("copy", "again")) for name in names)
    assert verify(tmp_path / "root", Console(quiet=True)).problems == []


def test_bytes_do_not_depend_on_the_course_of_events(source: Path, tmp_path: Path, read_tree: ReadTree) -> None:
    make(source, tmp_path / "once")
    expected = read_tree(tmp_path / "once")
    make(source, tmp_path / "workers", workers=2)
    for part in ("4:6", "0:2", "2:4"):
        make(source, tmp_path / "parts", part=part)
    make(source, tmp_path / "later", variants=("32",))
    make(source, tmp_path / "later")
    for name in ("workers", "parts", "later"):
        assert read_tree(tmp_path / name) == expected


class _Stopping(Console):
    """Ctrl-C when shards are about to be written again."""

    def line(self, text: str = "") -> None:
        if "are in validation too" in text:
            raise KeyboardInterrupt


def test_interrupted_while_shards_are_written_again(source: Path, tmp_path: Path, read_tree: ReadTree) -> None:
    once, root = tmp_path / "once", tmp_path / "root"
    make(source, once)
    with pytest.raises(KeyboardInterrupt):
        make(source, root, console=_Stopping(quiet=True))
    affected = [
        name for name in sorted(read_tree(once / "full")) if _differ(once / "full" / name, root / "full" / name)
    ]
    first, second = [name for name in affected if name.startswith("train-")][:2]
    (root / ".parts" / f"{first}.json").unlink()  # as if killed before the first was begun,
    shutil.copy(once / "full" / second, root / "full" / second)  # and when one variant of the second was written
    make(source, root)
    assert read_tree(root) == read_tree(once)


def _differ(one: Path, other: Path) -> bool:
    return other.exists() and one.read_bytes() != other.read_bytes()


def test_duplicates_count_as_rejected(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="7 of 95 files are rejected, the first of them train/") as caught:
        make(source, tmp_path / "root", max_rejected=0.03)
    assert caught.value.hint.endswith("see whether this is the right folder: so many are no accident")
    make(source, tmp_path / "root", max_rejected=0.074)
    assert not (tmp_path / "root/.parts").exists()


def test_class_of_duplicates_alone(source: Path, tmp_path: Path) -> None:
    for path in (source / "train/flower").iterdir():
        path.unlink()
    shutil.copy(source / "val/flower/00.jpg", source / "train/flower/00.jpg")
    with pytest.raises(DataError, match="every training image of class 'flower' is rejected"):
        make(source, tmp_path / "root", max_rejected=1)
