"""Names of files and folders: splits, and the numbering of shards."""

import pytest

from imagesprint.errors import DataError
from imagesprint.prepare.names import Numbered, check_begun, check_whole, is_test, split_of


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("training_set", "train"),
        ("imagenet_val", "validation"),
        ("valid", "validation"),
        ("dev-00000-of-00001.parquet", "validation"),
        ("imagenet1k-validation-00.tar", "validation"),
        ("imagenet2012-train.tfrecord-00000-of-00001", "train"),
        ("test", None),
        ("eval", None),
        ("trainer", None),
        ("devices", None),
        ("train_val", None),
        ("0000.parquet", None),
    ],
)
def test_the_words_of_a_name_say_its_split(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_a_test_split_is_known_and_is_no_validation_split() -> None:
    assert is_test("test_set")
    assert is_test("Eval")
    assert not is_test("contest")


def test_numbers_are_read_wherever_they_stand() -> None:
    assert Numbered.of("train-00001-of-00003") == Numbered("train-", 1, 3)
    assert Numbered.of("train-00001-of-00003-bbbb.parquet") == Numbered("train-", 1, 3)
    assert Numbered.of("x.tfrecord-2-of-4") == Numbered("x.tfrecord-", 2, 4)
    assert Numbered.of("train_00001_OF_00003.parquet") == Numbered("train_", 1, 3)
    assert Numbered.of("train.1of3.tar") == Numbered("train.", 1, 3)
    assert Numbered.of("train-0001.tar") is None
    assert Numbered.of("a-1_of-3") is None


@pytest.mark.parametrize("check", [check_whole, check_begun])
def test_whole_sets_pass(check: object) -> None:
    assert callable(check)
    assert not check("train", [f"data/train-{i}-of-3.parquet" for i in range(3)])
    assert not check("train", [f"train-{i}-of-3" for i in (1, 2, 3)])
    assert not check("train", ["a.parquet", "b.parquet"])
    assert not check("train", [])


@pytest.mark.parametrize("check", [check_whole, check_begun])
def test_holes_and_two_generations_are_errors(check: object) -> None:
    assert callable(check)
    with pytest.raises(DataError, match=r"of 3 train shards 1 is missing: number 1 \(beside train-0-of-3\)"):
        check("train", ["train-0-of-3", "train-2-of-3"])
    with pytest.raises(DataError, match="of 3 train shards 1 is missing: number 2"):
        check("train", ["train-1-of-3", "train-3-of-3"])
    with pytest.raises(DataError, match="train-0-of-1-a and train-0-of-2-b are of two sets of train shards"):
        check("train", ["train-0-of-1-a", "train-0-of-2-b", "train-1-of-2-c"])
    with pytest.raises(DataError, match="of two sets"):
        check("train", ["train-0-of-1.parquet", "data/train-0-of-1.parquet"])
    with pytest.raises(DataError, match="old-train-0-of-2 and new-train-1-of-2 are of two sets of train shards"):
        check("train", ["old-train-0-of-2", "new-train-1-of-2"])


@pytest.mark.parametrize("check", [check_whole, check_begun])
def test_folders_and_what_follows_the_number_may_differ(check: object) -> None:
    assert callable(check)
    assert not check("train", ["a/train-0-of-2-1f3c.parquet", "b/train-1-of-2-77aa.parquet"])


@pytest.mark.parametrize("check", [check_whole, check_begun])
@pytest.mark.parametrize("numbers", [(0, 1, 2, 3), (0, 1, 2, 9), (1, 2, 3, 4)])
def test_a_number_beyond_the_total_is_an_error(check: object, numbers: tuple[int, ...]) -> None:
    assert callable(check)
    with pytest.raises(DataError, match=f"train-{numbers[-1]}-of-3 has a number beyond those of 3 train shards"):
        check("train", [f"train-{number}-of-3" for number in numbers])


def test_a_total_of_billions_takes_no_memory() -> None:
    with pytest.raises(DataError, match="99,999,999,998 are missing: numbers 1, 2, 3, 4, 5, …"):
        check_whole("train", ["train-0-of-99999999999"])


def test_the_first_shards_alone_are_an_error_or_a_note() -> None:
    names = [f"train-{i}-of-1024" for i in range(4)]
    with pytest.raises(DataError, match="of 1,024 train shards 1,020 are missing: numbers 4, 5, 6, 7, 8, …"):
        check_whole("train", names)
    assert check_begun("train", names) == (
        "of 1,024 train shards 1,020 are missing: numbers 4, 5, 6, 7, 8, …: what is there is all that is used",
    )


def test_numbers_without_a_total() -> None:
    with pytest.raises(DataError, match=r"of the train files that a/0\.tar is one of, 2 are missing: numbers 1, 2"):
        check_whole("train", ["a/0.tar", "a/3.tar"])
    with pytest.raises(DataError, match="a-000, a-0001 are of two sets of train files, numbered differently"):
        check_whole("train", ["a-000", "a-0001"])
    assert check_begun("train", ["a-0", "a-3", "b-5", "b-7"]) == (
        "train shards a-… go up to number 3, but 2 are missing: numbers 1, 2",
    )
    for first in (1, 7):
        assert check_whole("train", [f"a-{first:04}.tar", f"a-{first + 1:04}.tar"]) == (
            f"the train files a-… begin with number {first}: are those before it elsewhere?",
        )
    assert not check_whole("train", ["a-1.tar", "a-2.tar", "2019.tar", "2021.tar"])


def test_days_are_no_sequence() -> None:
    assert not check_whole("train", ["photos-2026-01-01.tar", "photos-2026-01-03.tar"])
    with pytest.raises(DataError, match="1 is missing: number 2"):
        check_whole("train", ["photos-2026-01.tar", "photos-2026-03.tar"])
