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
    assert Numbered.of("train-0001.tar") is None


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


def test_the_first_shards_alone_are_an_error_or_a_note() -> None:
    names = [f"train-{i}-of-1024" for i in range(4)]
    with pytest.raises(DataError, match="of 1,024 train shards 1,020 are missing: numbers 4, 5, 6, 7, 8, …"):
        check_whole("train", names)
    assert check_begun("train", names) == (
        "of 1,024 train shards 1,020 are missing: numbers 4, 5, 6, 7, 8, …: what is there is all that is used",
    )
