from pathlib import Path

import pytest

from imagesprint.errors import DataError
from imagesprint.prepare.foreign.classes import ForeignClasses
from imagesprint.records.manifest import ClassInfo


def gather(*shards: dict[int, tuple[str, str]]) -> ForeignClasses:
    """Shards 0, 1, … whose records have these labels, each with its synset and text; the last shard is read first."""
    classes = ForeignClasses()
    for number, labels in reversed(list(enumerate(shards))):
        classes.add(
            number, Path(f"shard-{number}"), {label: {synset: (7, text)} for label, (synset, text) in labels.items()}
        )
    return classes


def test_labels_count_from_0_where_0_is_seen_in_any_shard() -> None:
    assert gather({1: ("", "")}).first_label == 1
    assert gather({1: ("", "")}, {0: ("", "")}).first_label == 0


def test_classes_are_named_by_synset_else_text_else_label() -> None:
    found = gather({1: ("n1", "tench"), 2: ("", "crane")}, {1: ("", "fish"), 4: ("", "shark")})
    assert found.classes() == (
        ClassInfo("n1", "n1", "tench"),
        ClassInfo("crane", "", "crane"),
        ClassInfo("class 3", "", "class 3"),
        ClassInfo("shark", "", "shark"),
    )


def test_texts_that_are_the_same_do_not_make_one_class() -> None:
    names = [entry.name for entry in gather({0: ("", "crane"), 1: ("", "crane")}).classes()]
    assert names == ["crane (0)", "crane (1)"]


def test_the_first_shard_gives_the_text() -> None:
    assert gather({1: ("n1", "tench")}, {1: ("n1", "shark")}).classes()[0].text == "tench"
    assert gather({1: ("", "")}, {1: ("n1", "shark")}).classes()[0].text == "shark"


def test_a_label_of_two_synsets_and_a_synset_of_two_labels() -> None:
    with pytest.raises(DataError) as caught:
        gather({3: ("n1", "tench")}, {3: ("n2", "shark")}).classes()
    assert caught.value.what == "label 3 stands for n1 in shard-0, record 7 and for n2 in shard-1, record 7"
    with pytest.raises(DataError) as caught:
        gather({3: ("n1", "tench")}, {4: ("n1", "tench")}).classes()
    assert caught.value.what == "synset n1 has label 3 in shard-0, record 7 and label 4 in shard-1, record 7"
