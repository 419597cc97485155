import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources.class_folders import ClassFolders
from imagesprint.prepare.sources.opening import open_source
from imagesprint.prepare.sources.source import Sample


def make_tree(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def locations(samples: list[Sample]) -> list[tuple[str, int]]:
    return sorted((sample.location, sample.label) for sample in samples)


def test_train_and_val(tmp_path: Path) -> None:
    names = ["train/b/1.jpg", "train/a/2.jpg", "train/a/deep/er/3.png", "val/b/1.jpg", "train/a/notes.txt"]
    source = ClassFolders(make_tree(tmp_path, [*names, "train/a/.hidden.jpg", ".cache/x/y.jpg", "train/.git/config"]))
    listing = source.scan()
    assert [entry.name for entry in listing.classes] == ["a", "b"]
    assert locations(listing.splits["train"]) == [
        ("train/a/2.jpg", 0),
        ("train/a/deep/er/3.png", 0),
        ("train/a/notes.txt", 0),
        ("train/b/1.jpg", 1),
    ]
    assert locations(listing.splits["validation"]) == [("val/b/1.jpg", 1)]
    assert listing.notes == ()
    sample = listing.splits["validation"][0]
    assert (sample.name, sample.num_bytes, source.read(sample)) == ("1.jpg", 11, b"val/b/1.jpg")


def test_validation_is_another_name_for_val(tmp_path: Path) -> None:
    make_tree(tmp_path, ["train/a/1", "validation/a/1"])
    assert set(ClassFolders(tmp_path).scan().splits) == {"train", "validation"}
    make_tree(tmp_path, ["val/a/1"])
    with pytest.raises(UsageError, match=r"both val(idation)? and val(idation)?"):
        ClassFolders(tmp_path).scan()


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_one_tree(tmp_path: Path, prefix: str) -> None:
    listing = ClassFolders(make_tree(tmp_path, [f"{prefix}a/1", f"{prefix}b/1"])).scan()
    assert set(listing.splits) == {"train"}
    assert locations(listing.splits["train"]) == [(f"{prefix}a/1", 0), (f"{prefix}b/1", 1)]


def test_train_may_be_a_class(tmp_path: Path) -> None:
    listing = ClassFolders(make_tree(tmp_path, ["bus/1", "train/1"])).scan()
    assert [entry.name for entry in listing.classes] == ["bus", "train"]


def test_stray_files_are_named(tmp_path: Path) -> None:
    listing = ClassFolders(make_tree(tmp_path, ["train/a/1", "train/c/1", "train/z.txt", "train/b.csv"])).scan()
    assert len(listing.notes) == 1
    assert "2 files" in listing.notes[0]
    assert "b.csv" in listing.notes[0]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    make_tree(tmp_path / "elsewhere", ["1.jpg", "2.jpg"])
    make_tree(tmp_path / "source", ["train/a/0.jpg"])
    (tmp_path / "source/train/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "elsewhere")
    samples = ClassFolders(tmp_path / "source").scan().splits["train"]
    assert [location for location, _ in locations(samples)] == ["train/a/0.jpg", "train/b/1.jpg", "train/b/2.jpg"]


def test_broken_link_and_vanished_file(tmp_path: Path) -> None:
    source = ClassFolders(make_tree(tmp_path, ["a/1.jpg", "b/2.jpg"]))
    (tmp_path / "a/gone.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=f"a/gone.jpg is a broken link to {tmp_path}/nowhere"):
        source.scan()
    (tmp_path / "a/gone.jpg").unlink()
    (tmp_path / "c").symlink_to("loop")
    (tmp_path / "loop").symlink_to("c")
    with pytest.raises(DataError, match="is a broken link to"):  # a class would be missing
        source.scan()
    (tmp_path / "c").unlink()
    (tmp_path / "loop").unlink()
    sample = source.scan().splits["train"][0]
    (tmp_path / sample.location).unlink()
    with pytest.raises(DataError, match=f"{sample.location}: No such file"):
        source.read(sample)


def test_pipes_and_sockets_are_no_images(tmp_path: Path) -> None:
    make_tree(tmp_path, ["a/1.jpg"])
    os.mkfifo(tmp_path / "a/pipe")
    assert locations(ClassFolders(tmp_path).scan().splits["train"]) == [("a/1.jpg", 0)]


def test_class_in_val_but_not_in_train(tmp_path: Path) -> None:
    make_tree(tmp_path, ["train/a/1", "val/a/1", "val/zebra/1", "val/yak/1"])
    with pytest.raises(DataError, match=r"class 'yak' is in .*val but not in .*train \(and 1 more\)"):
        ClassFolders(tmp_path).scan()


def test_class_without_images(tmp_path: Path) -> None:
    make_tree(tmp_path, ["train/a/1", "train/empty/.keep"])
    with pytest.raises(DataError, match="class 'empty' has no images"):
        ClassFolders(tmp_path).scan()


def test_no_images_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no class folders"):
        ClassFolders(tmp_path).scan()
    make_tree(tmp_path, ["1.jpg"])
    with pytest.raises(UsageError, match="no class folders"):
        ClassFolders(tmp_path).scan()
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="no images"):
        ClassFolders(tmp_path).scan()
    make_tree(tmp_path, ["train/a/1"])
    (tmp_path / "val/a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no images in .*val"):
        ClassFolders(tmp_path).scan()


def test_val_without_train(tmp_path: Path) -> None:
    make_tree(tmp_path, ["val/a/1"])
    with pytest.raises(UsageError, match="no train folder"):
        ClassFolders(tmp_path).scan()


def test_missing_source_and_source_that_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no source folder"):
        open_source(tmp_path / "none")
    (tmp_path / "file.tar").touch()
    with pytest.raises(UsageError, match="is no folder"):
        open_source(tmp_path / "file.tar")


@pytest.mark.parametrize("names", [["val/1.jpg", "val/2.jpg"], ["val/.keep"], ["validation/1.jpg"]])
def test_validation_folder_without_class_folders(tmp_path: Path, names: list[str]) -> None:
    make_tree(tmp_path, ["train/a/1", "train/b/1", *names])
    with pytest.raises(UsageError, match=r"val(idation)? holds no class folders") as caught:
        ClassFolders(tmp_path).scan()
    assert "--val-fraction" in caught.value.hint


def test_flat_train_and_val_are_no_classes(tmp_path: Path) -> None:
    make_tree(tmp_path, ["train/1.jpg", "val/1.jpg"])
    with pytest.raises(UsageError, match="train holds no class folders"):
        ClassFolders(tmp_path).scan()


def test_split_folders_may_be_written_in_any_case(tmp_path: Path) -> None:
    make_tree(tmp_path, ["Train/a/1", "Train/b/1", "VAL/a/1"])
    listing = ClassFolders(tmp_path).scan()
    assert [entry.name for entry in listing.classes] == ["a", "b"]
    assert locations(listing.splits["validation"]) == [("VAL/a/1", 0)]
    make_tree(tmp_path, ["train/a/1"])
    with pytest.raises(UsageError, match="both Train and train"):
        ClassFolders(tmp_path).scan()


@pytest.mark.parametrize(
    ("names", "wrapper"),
    [
        (["photos/train/a/1", "photos/train/b/1", "photos/val/a/1"], "photos"),
        (["photos/a/1", "photos/b/1"], "photos"),
        (["train/train/a/1", "train/train/b/1"], "train/train"),
    ],
)
def test_one_folder_too_many(tmp_path: Path, names: list[str], wrapper: str) -> None:
    with pytest.raises(UsageError, match=f"{wrapper} holds folders alone, no images") as caught:
        ClassFolders(make_tree(tmp_path, names)).scan()
    assert f"give {tmp_path / wrapper} as SOURCE" in caught.value.hint
    assert len(ClassFolders(tmp_path / wrapper).scan().classes) == 2


def test_single_class_and_folders_beside_the_splits_are_named(tmp_path: Path) -> None:
    make_tree(tmp_path, ["train/a/1", "val/a/1", "test/1.jpg", "docs/x"])
    assert ClassFolders(tmp_path).scan().notes == (
        f"of {tmp_path}, train and val are used and docs, test left out",
        f"{tmp_path}/train holds a single class, a: is it the right folder?",
    )


def test_source_that_cannot_be_looked_at() -> None:
    with pytest.raises(DataError, match=r"cannot read .*: File name too long"):
        open_source(Path("x" * 300))
