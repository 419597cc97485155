"""Class folders: which folders are those of splits, and which are classes of such names."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from imagesprint.errors import UsageError
from imagesprint.prepare.plan import make_plan
from imagesprint.prepare.sources.class_folders import ClassFolders
from imagesprint.prepare.sources.source import SourceImage


def make_tree(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def locations(samples: list[SourceImage]) -> list[tuple[str, int]]:
    return sorted((sample.location, sample.label) for sample in samples)


def test_val_without_train(tmp_path: Path) -> None:
    make_tree(tmp_path, ["val/a/1"])
    with pytest.raises(UsageError, match="no train folder"):
        ClassFolders(tmp_path).scan()


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
    ("train", "validation"),
    [
        ("train", "valid"),
        ("training", "validation"),
        ("TRAIN", "Dev"),
        ("imagenet_train", "imagenet_val"),
        ("train2017", "val2017"),
        ("training_set/training_set", "validation_set/validation_set"),
        ("train/images", "val/images"),
    ],
)
def test_split_words(tmp_path: Path, train: str, validation: str) -> None:
    make_tree(tmp_path, [f"{train}/a/1", f"{train}/b/1", f"{validation}/a/1", f"{validation}/b/1"])
    listing = ClassFolders(tmp_path).scan()
    assert locations(listing.splits["train"]) == [(f"{train}/a/1", 0), (f"{train}/b/1", 1)]
    assert locations(listing.splits["validation"]) == [(f"{validation}/a/1", 0), (f"{validation}/b/1", 1)]
    assert listing.notes == ()


@pytest.mark.parametrize("name", ["test", "eval", "test_set", "heldout"])
def test_what_might_be_validation_is_offered_not_taken(tmp_path: Path, name: str) -> None:
    make_tree(tmp_path, ["train/a/1", "train/b/1", f"{name}/a/1", f"{name}/b/1"])
    listing = ClassFolders(tmp_path).scan()
    assert set(listing.splits) == {"train"}
    assert listing.notes == (f"of {tmp_path}, train is used and {name} left out",)
    with pytest.raises(UsageError, match="no validation split") as caught:
        make_plan(listing, "class-folders", None, 90, None, 0)
    assert f"or ln -s {name} {tmp_path}/val makes {name}, which has the same classes" in caught.value.hint
    (tmp_path / "val").symlink_to(name)
    assert locations(ClassFolders(tmp_path).scan().splits["validation"]) == [("val/a/1", 0), ("val/b/1", 1)]


def test_folders_with_a_split_word_that_are_none(tmp_path: Path) -> None:
    make_tree(tmp_path / "one", ["bullet_train/1", "cat/1", "validator/1"])
    assert len(ClassFolders(tmp_path / "one").scan().classes) == 3
    make_tree(tmp_path / "two", ["train/a/1", "train/b/1", "dev_kit/data/x", "train_small/a/1", "val_old/1.jpg"])
    listing = ClassFolders(tmp_path / "two").scan()
    assert locations(listing.splits["train"]) == [("train/a/1", 0), ("train/b/1", 1)]
    assert listing.notes == (f"of {tmp_path}/two, train is used and dev_kit, train_small, val_old left out",)
    make_tree(tmp_path / "three", ["a/1", "b/1", "bullet_train/2019/1"])
    with pytest.raises(UsageError, match="bullet_train holds folders alone"):
        ClassFolders(tmp_path / "three").scan()


def test_given_one_of_two_splits(tmp_path: Path) -> None:
    make_tree(tmp_path, ["train/a/1", "train/b/1", "val/a/1", "val/b/1"])
    for name in ("train", "val"):
        assert (
            ClassFolders(tmp_path / name).scan().offer == f"give {tmp_path} as SOURCE, which holds the other split, too"
        )
    make_tree(tmp_path / "other", ["train/a/1", "val/1"])
    assert ClassFolders(tmp_path / "other/train").scan().offer.startswith(f"give {tmp_path}/other as")
    make_tree(tmp_path, ["valid/a/1"])  # which of them is meant is not clear
    assert ClassFolders(tmp_path / "train").scan().offer == ""


def test_classes_named_like_a_split_are_a_doubt(tmp_path: Path) -> None:
    listing = ClassFolders(make_tree(tmp_path, ["bus/1", "car/1", "val/1"])).scan()
    assert [entry.name for entry in listing.classes] == ["bus", "car", "val"]
    assert listing.notes == (f"val in {tmp_path} is taken for a class, as it holds images: is it one?",)


@pytest.mark.parametrize("names", [["train/1.jpg"], ["train/1.jpg", "test/1.jpg"], ["val/1.jpg"]])
def test_flat_split_alone_is_no_class(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(UsageError, match="holds no class folders"):
        ClassFolders(make_tree(tmp_path, names)).scan()
