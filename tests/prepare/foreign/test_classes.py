from pathlib import Path

import pytest

from imagesprint.errors import DataError
from imagesprint.prepare.foreign.classes import ForeignClasses, NameList, SettledClasses
from imagesprint.records.manifest import ClassInfo


def gather(*shards: dict[int, tuple[str, str]], listed: NameList | None = None) -> SettledClasses:
    """Shards 0, 1, … whose records have these labels, each with its synset and text; the last shard is read first."""
    classes = ForeignClasses(listed)
    for number, labels in reversed(list(enumerate(shards))):
        classes.add(
            number, Path(f"shard-{number}"), {label: {synset: (7, text)} for label, (synset, text) in labels.items()}
        )
    return classes.settle()


def with_list(folder: Path, text: str, labels: list[int], name: str = "labels.txt") -> SettledClasses:
    """The classes of records that say nothing but their `labels`, beside a list of names with `text`."""
    (folder / name).write_text(text, encoding="utf-8")
    return gather(dict.fromkeys(labels, ("", "")), listed=NameList.find([folder]))


def names(classes: SettledClasses) -> list[str]:
    return [entry.name for entry in classes.classes]


def test_labels_count_from_0_where_0_is_seen_in_any_shard() -> None:
    assert gather({1: ("", "")}).first_label == 1
    assert gather({1: ("", "")}, {0: ("", "")}).first_label == 0


def test_classes_are_named_by_synset_else_text_else_label() -> None:
    found = gather({1: ("n1", "tench"), 2: ("", "crane")}, {1: ("", "fish"), 4: ("", "shark")})
    assert found.classes == (
        ClassInfo("n1", "n1", "tench"),
        ClassInfo("crane", "", "crane"),
        ClassInfo("class 3", "", "class 3"),
        ClassInfo("shark", "", "shark"),
    )


def test_texts_that_are_the_same_do_not_make_one_class() -> None:
    assert names(gather({0: ("", "crane"), 1: ("", "crane")})) == ["crane (0)", "crane (1)"]


def test_the_first_shard_gives_the_text() -> None:
    assert gather({1: ("n1", "tench")}, {1: ("n1", "shark")}).classes[0].text == "tench"
    assert gather({1: ("", "")}, {1: ("n1", "shark")}).classes[0].text == "shark"


def test_a_label_of_two_synsets_and_a_synset_of_two_labels() -> None:
    with pytest.raises(DataError) as caught:
        gather({3: ("n1", "tench")}, {3: ("n2", "shark")})
    assert caught.value.what == "label 3 stands for n1 in shard-0, record 7 and for n2 in shard-1, record 7"
    with pytest.raises(DataError) as caught:
        gather({3: ("n1", "tench")}, {4: ("n1", "tench")})
    assert caught.value.what == "synset n1 has label 3 in shard-0, record 7 and label 4 in shard-1, record 7"


@pytest.mark.parametrize(
    ("text", "labels", "first_label", "expected"),
    [
        ("0:daisy\n1:roses\n2:tulips\n", [0, 1, 2], 0, ["daisy", "roses", "tulips"]),
        ("\ufeff2:tulips\r\n0: daisy\r\n1:roses", [0, 1, 2], 0, ["daisy", "roses", "tulips"]),
        ("0 daisy\n1 roses", [0, 1], 0, ["daisy", "roses"]),
        ("1:daisy\n2:roses", [1, 2], 1, ["daisy", "roses"]),
        ("0:daisy\n1:roses\n2:tulips", [1, 2], 0, ["daisy", "roses", "tulips"]),
        ("0:background\n1:daisy\n2:roses", [1, 2], 1, ["daisy", "roses"]),
        ("daisy\nroses\n\n", [0, 1], 0, ["daisy", "roses"]),
        ("daisy\nroses\ntulips", [0, 1], 0, ["daisy", "roses", "tulips"]),
        ("daisy\nroses", [1, 2], 1, ["daisy", "roses"]),
        ("daisy\nroses", [2], 1, ["daisy", "roses"]),
        ("background\ndaisy\nroses", [1, 2], 1, ["daisy", "roses"]),
        ("crane\ncrane", [0, 1], 0, ["crane (0)", "crane (1)"]),
    ],
)
def test_a_list_names_the_classes(
    tmp_path: Path, text: str, labels: list[int], first_label: int, expected: list[str]
) -> None:
    found = with_list(tmp_path, text, labels)
    assert (names(found), found.first_label, found.notes) == (expected, first_label, ())


@pytest.mark.parametrize(
    ("text", "labels", "problem"),
    [
        ("daisy\nroses\ntulips", [1, 2], "its 3 names do not fit labels 1 to 2 for certain; write the label before"),
        ("daisy\nroses", [0, 1, 2], "its 2 names do not fit labels 0 to 2 for certain; write the label before"),
        ("0:daisy\n1:roses", [1, 2], "its 2 names do not fit labels 1 to 2 for certain"),
        ("\n".join(f"image-{i}.jpg" for i in range(50)), [0, 1], "its 50 names do not fit labels 0 to 1"),
        ("0:daisy\n0:roses", [0, 1], "it has a number twice"),
        ("", [0, 1], "its 0 names do not fit"),
    ],
)
def test_a_list_that_may_be_of_other_classes_is_not_used(
    tmp_path: Path, text: str, labels: list[int], problem: str
) -> None:
    found = with_list(tmp_path, text, labels)
    first = 0 if 0 in labels else 1
    assert names(found) == [f"class {label}" for label in range(first, max(labels) + 1)]
    (note,) = found.notes
    assert note.startswith(f"{tmp_path}/labels.txt is not used: {problem}")


def test_a_list_that_is_no_utf_8_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes("0:café".encode("latin-1"))
    found = gather({0: ("", "")}, listed=NameList.find([tmp_path]))
    assert (names(found), found.notes) == (
        ["class 0"],
        (f"{tmp_path}/labels.txt is not used: it is no text in UTF-8",),
    )


def test_labels_of_tensorflow_datasets_count_from_0_whatever_is_seen(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("1:other\n2:names")
    found = with_list(tmp_path, "n01440764\nn01443537\n7 up\n", [1, 2], "label.labels.txt")
    assert found.first_label == 0
    assert found.classes == (
        ClassInfo("n01440764", "n01440764", "n01440764"),
        ClassInfo("n01443537", "n01443537", "n01443537"),
        ClassInfo("7 up", "", "7 up"),
    )
    many = with_list(tmp_path, "\n".join(f"name {i}" for i in range(1000)), [7], "label.labels.txt")
    assert (len(many.classes), many.notes) == (1000, ())


def test_records_that_name_their_classes_count_and_a_list_that_contradicts_them_is_said(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    said = {0: ("n1", "tench, Tinca tinca"), 1: ("", "great white_shark"), 2: ("", "")}
    path.write_text("0:TENCH\n1:Great-white shark\n2:hen\n3:cock")
    found = gather(said, listed=NameList.find([tmp_path]))
    assert found.classes == (
        ClassInfo("n1", "n1", "tench, Tinca tinca"),
        ClassInfo("great white_shark", "", "great white_shark"),
        ClassInfo("hen", "", "hen"),
        ClassInfo("cock", "", "cock"),
    )
    path.write_text("0:tench\n1:hen\n2:shark")
    found = gather(said, listed=NameList.find([tmp_path]))
    assert names(found) == ["n1", "great white_shark", "class 2"]
    assert found.notes == (f"{path} is not used: it calls label 1 'hen', the records call it 'great white_shark'",)
    path.write_text("n01440764 tench\nn01443537 goldfish")
    found = gather({0: ("n01443537", ""), 1: ("", "")}, listed=NameList.find([tmp_path]))
    assert "it calls label 0 'n01440764 tench', the records call it 'n01443537'" in found.notes[0]


def test_a_list_beside_the_shards_comes_before_one_above(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "labels.txt").write_text("above")
    places = [tmp_path / "full", tmp_path]
    above = NameList.find(places)
    (tmp_path / "full" / "labels.txt").write_text("beside")
    beside = NameList.find(places)
    assert above is not None
    assert beside is not None
    assert (above.names, beside.names) == ({0: "above"}, {0: "beside"})
    assert NameList.find([tmp_path / "none"]) is None
