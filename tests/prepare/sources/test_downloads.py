from collections.abc import Callable
from pathlib import Path

import pytest

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources.downloads import Splits, find_files, sort_by_split


@pytest.fixture
def sort(tmp_path: Path) -> Callable[..., Splits]:
    """Makes empty files and folders (with a slash at their end) in SOURCE, and sorts its tars by split."""

    def make_and_sort(*names: str, below: str = "") -> Splits:
        for name in names:
            path = tmp_path / "source" / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.touch()
        source = tmp_path / "source" / below
        return sort_by_split(find_files(source, ".tar"), source)

    return make_and_sort


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("x-train-0.tar", "train"),
        ("X_TRAINING_0.TAR", "train"),
        ("valid-0.tar", "validation"),
        ("imagenet.val.0.tar", "validation"),
        ("dev0.tar", "validation"),
        ("validation/0.tar", "validation"),
        ("data/val/train.tar", "train"),  # the name before the folder
        ("data/val/0.tar", "validation"),
        ("val/test-0.tar", "test"),
        ("eval-0.tar", "test"),
        ("extra-0.tar", ""),
        ("train-val-0.tar", ""),
        ("trainval-0.tar", ""),
    ],
)
def test_the_split_that_a_path_says(sort: Callable[..., Splits], name: str, split: str) -> None:
    found = sort("train/zz.tar", name)
    for other in ("train", "validation"):
        assert (name in found.files.get(other, ())) == (split == other)
    left_out = (f"files of other splits are left out: {name}",) if split in ("test", "") else ()
    assert found.notes == left_out
    assert found.offer.endswith(name) == (split == "test")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["a-0000.tar", "a-0002.tar"], r"of the train files that a-0000.tar is one of, 1 is missing: number 1$"),
        (["a-1.tar", "a-2.tar", "a-9.tar"], r"6 are missing: numbers 3, 4, 5, 6, 7, …$"),
        (["a-00000-of-00002.tar"], "of 2 train shards 1 is missing: number 1"),
        (["a-00000-of-00001.tar", "a-00000-of-00002.tar", "a-00001-of-00002.tar"], "are of two sets of train shards"),
        (["a-00000-of-00002-0a.tar", "a-00000-of-00002-0b.tar", "a-00001-of-00002.tar"], "are of two sets of train"),
        (["a-000.tar", "a-0000.tar"], r"a-000.tar, a-0000.tar are of two sets of train files, numbered differently"),
        (["a-0.tar", "a-00000-of-00001.tar"], "are of two sets of train files"),
        (["a.tar", "a (1).tar"], r"a.tar and a \(1\).tar are one train file twice"),
        (["a.tar", "a - Copy.tar"], r"a.tar and a - Copy.tar are one train file twice"),
        (["train/0.tar", "training/0.tar"], r"train/0.tar and training/0.tar are one train file twice"),
        (["data/train-0.tar", "train-0.tar"], r"data/train-0.tar and train-0.tar are one train file twice"),
        (["a-0.tar", "a-1.tar.part"], r"a-1.tar.part is a download that has not ended"),
        (["a-0.tar", "a-0.tar.aria2"], r"a-0.tar.aria2 is a download that has not ended"),
        (["default/partial-train/0000.tar"], r"is of the first part of a split alone"),
    ],
)
def test_a_file_that_is_missing_or_of_another_set(sort: Callable[..., Splits], names: list[str], what: str) -> None:
    with pytest.raises(DataError, match=what):
        sort(*names)


@pytest.mark.parametrize(
    "names",
    [
        [f"a{i}.tar" for i in range(11)],
        ["2019.tar", "2021.tar"],
        ["a-0.tar", "a-0.tar.part"],  # left over of a first try
        ["a (1).tar", "a (2).tar"],
        ["a-0.tar", "a-1.tar", "b-0.tar"],
        [
            "a-00001-of-00002.tar",
            "a-00000-of-00002.tar",
            "._a-0.tar",
            ".cache/download/a-00001-of-00002.tar.incomplete",
        ],
        ["train/1.tar", "train/0.tar", "val/2.tar"],
    ],
)
def test_what_is_whole(sort: Callable[..., Splits], names: list[str]) -> None:
    tars = {name for name in names if name.endswith(".tar") and not name.startswith(".")}
    assert {name for files in sort(*names).files.values() for name in files} == tars


def test_files_from_the_middle_are_noted(sort: Callable[..., Splits]) -> None:
    assert sort("train-0007.tar", "train-0008.tar").notes == (
        "the train files train-… begin with number 7: are those before it elsewhere?",
    )


def test_no_file_of_train(sort: Callable[..., Splits]) -> None:
    with pytest.raises(UsageError, match=r"no \.tar file in .* is of train by its name or its folder's: val-0\.tar"):
        sort("val-0.tar")


def test_links_as_in_a_cache_of_hugging_face(sort: Callable[..., Splits], tmp_path: Path) -> None:
    snapshot = tmp_path / "source/datasets--o--n/snapshots/0a1b/data"
    snapshot.mkdir(parents=True)
    (snapshot / "train-0.tar").symlink_to("../../../blobs/77aa")
    found = sort("datasets--o--n/blobs/77aa", "datasets--o--n/refs/main")
    assert found.files == {"train": ["datasets--o--n/snapshots/0a1b/data/train-0.tar"]}
    (snapshot.parents[1] / "2c3d").mkdir()
    (snapshot.parents[1] / "2c3d/train-0.tar").symlink_to("../../blobs/77aa")
    with pytest.raises(
        UsageError, match=r"several folders of .* hold \.tar files: .*snapshots/0a1b/, .*snapshots/2c3d/"
    ):
        sort()


def test_loops_and_deep_folders_end(sort: Callable[..., Splits], tmp_path: Path) -> None:
    sort("a/b/train-0.tar")
    (tmp_path / "source/a/up").symlink_to("..")
    assert sort().files == {"train": ["a/b/train-0.tar"]}


def test_the_folder_above_is_offered(sort: Callable[..., Splits], tmp_path: Path) -> None:
    offer = sort("train/0.tar", "val/0.tar", below="train").offer
    assert offer == f"give {tmp_path.resolve()}/source as SOURCE, which holds the other split, too"
    assert sort().offer == ""
    assert sort("x/train/0.tar", below="x/train").offer == ""


def test_papers_and_scripts_beside_change_nothing(sort: Callable[..., Splits]) -> None:
    assert sort("shards/train-0.tar", "docs/old/a.pdf", "scripts/x.py").files == {"train": ["shards/train-0.tar"]}


def test_folders_of_images_beside_are_named(sort: Callable[..., Splits], tmp_path: Path) -> None:
    found = sort("train-0.tar", "val-0.tar", "val/cat/1.jpg", "samples/1.png", "docs/x.md", "empty/")
    assert found.notes == (f"of {tmp_path}/source, the .tar files are used and the folders samples/, val/ left out",)


@pytest.mark.parametrize("beside", ["cat/1.jpg", "train/cat/1.jpg", "images/cat/1.jpg"])
def test_folders_of_images_are_meant_rather_than_what_lies_below(tmp_path: Path, beside: str) -> None:
    for name in ("downloads/a.tar", beside):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert not find_files(tmp_path, ".tar").places
