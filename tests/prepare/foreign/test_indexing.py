import io
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from imagesprint.console import Console
from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.foreign.indexing import Indexing, index_shards
from imagesprint.prepare.preparing import prepare
from imagesprint.records.dataset import open_dataset, open_root
from imagesprint.records.image_record import int64_feature
from imagesprint.records.verify import verify

WriteForeign = Callable[..., Path]
AssertSound = Callable[..., None]
CheckImage = Callable[[bytes], tuple[int, int]]

FOLDERS = {
    "train": ["train/train-00000-of-00002", "train/train-00001-of-00002"],
    "validation": ["validation/validation-00000-of-00001"],
}


def run(path: Path, workers: int = 1, index_dir: str | Path | None = None) -> Indexing:
    return index_shards(path, console=Console(quiet=True), index_dir=index_dir, workers=workers)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_shards_of_the_inception_script_become_a_root_of_links(
    write_foreign: WriteForeign, tmp_path: Path, assert_sound: AssertSound
) -> None:
    data = write_foreign(tmp_path / "data")
    before = snapshot(data)
    found = run(data)
    assert (found.root, [variant.name for variant in found.variants]) == (data, ["full"])
    (variant,) = found.variants
    assert (variant.is_linked, variant.is_new, variant.first_label) == (True, True, 1)
    assert variant.images == {"train": 40, "validation": 6}
    assert variant.first_classes == {1: "n00000001 china", 2: "n00000002 flower"}
    after = snapshot(data)
    assert {name: after[name] for name in before} == before
    assert sorted(after.keys() - before.keys()) == [
        "full/dataset.json",
        "full/train.index.npz",
        "full/validation.index.npz",
    ]
    assert_sound(data)
    data.rename(tmp_path / "elsewhere")  # the links are relative
    assert_sound(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        (FOLDERS["train"], FOLDERS["validation"]),
        (["train/part-0", "train/part-1"], ["val/part-0"]),
        (["imagenet2012-train.tfrecord-00000-of-00001"], ["imagenet2012-validation.tfrecord-00000-of-00001"]),
        (["train-1.tfrecord", "train-2.tfrecord"], ["val-1.tfrecord"]),
    ],
)
def test_other_layouts(
    write_foreign: WriteForeign, tmp_path: Path, train: list[str], validation: list[str], assert_sound: AssertSound
) -> None:
    data = write_foreign(tmp_path / "data", train, validation)
    run(data)
    assert_sound(data)


@pytest.mark.parametrize("given", ["data", "data/320"])
def test_a_folder_named_as_a_variant_is_indexed_in_place(
    write_foreign: WriteForeign, tmp_path: Path, given: str, assert_sound: AssertSound
) -> None:
    write_foreign(tmp_path / "data/320")
    found = run(tmp_path / given)
    assert found.root == tmp_path / "data"
    assert [(variant.name, variant.is_linked) for variant in found.variants] == [("320", False)]
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    assert_sound(tmp_path / "data", "320")


def test_the_folder_one_stands_in(
    write_foreign: WriteForeign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_sound: AssertSound
) -> None:
    monkeypatch.chdir(write_foreign(tmp_path / "data/full"))
    run(Path())
    assert_sound(tmp_path / "data")


def test_several_variants_of_one_root(write_foreign: WriteForeign, tmp_path: Path) -> None:
    write_foreign(tmp_path)
    write_foreign(tmp_path / "320")
    assert [variant.name for variant in run(tmp_path).variants] == ["full", "320"]
    assert open_root(tmp_path).variants == ("full", "320")
    assert verify(tmp_path, Console(quiet=True)).is_sound


def test_a_variant_with_other_images_is_refused(write_foreign: WriteForeign, tmp_path: Path) -> None:
    write_foreign(tmp_path / "full")
    write_foreign(tmp_path / "320", train=["train-1"])
    with pytest.raises(DataError, match=r"train records of .*full are not in the order of those in .*320"):
        run(tmp_path)
    assert open_root(tmp_path).variants == ("320",)


def test_labels_from_0(write_foreign: WriteForeign, tmp_path: Path, assert_sound: AssertSound) -> None:
    found = run(write_foreign(tmp_path / "data", first_label=0))
    assert found.variants[0].first_label == 0
    assert found.variants[0].first_classes == {0: "n00000000 china", 1: "n00000001 flower"}
    assert_sound(tmp_path / "data")


def test_bare_records_that_begin_at_3(write_foreign: WriteForeign, tmp_path: Path, check_image: CheckImage) -> None:
    needed = ("image/encoded", "image/class/label")
    data = write_foreign(tmp_path, change=lambda features: {name: features[name] for name in needed}, first_label=3)
    (variant,) = run(data).variants
    assert (variant.first_label, variant.num_classes) == (1, 4)
    assert variant.first_classes == {1: "class 1", 2: "class 2", 3: "class 3", 4: "class 4"}
    dataset = open_dataset(data, "full", "train")
    assert sorted(set(dataset.labels.tolist())) == [2, 3]
    record = dataset.read_record(0)
    assert (record.synset, record.text, record.filename) == ("", "", "")
    assert (record.height, record.width) == check_image(record.encoded)
    assert verify(data, Console(quiet=True), check_image).is_sound


def test_notes_are_shown(write_foreign: WriteForeign, tmp_path: Path, check_image: CheckImage) -> None:
    stream = io.StringIO()
    write_foreign(tmp_path, change=lambda features: {**features, "image/height": int64_feature([7])}, first_label=2)
    (tmp_path / "train.txt").write_text("list")
    index_shards(tmp_path, console=Console(stream, quiet=True), workers=1)
    assert stream.getvalue().splitlines() == [
        f"warning: 1 files are no TFRecords and are left out, the first of them {tmp_path}/train.txt",
        "warning: 46 records have another size than their image; the image's counts",
        "warning: 1 of 3 classes have no training images, the first is class 1",
        "warning: 1 of 3 classes have no validation images: class 1",
    ]
    assert verify(tmp_path, Console(quiet=True), check_image).is_sound


def test_any_number_of_workers_writes_the_same(write_foreign: WriteForeign, tmp_path: Path) -> None:
    written = []
    for workers in (1, 3):
        data = write_foreign(tmp_path / str(workers) / "full")
        run(data, workers)
        written.append({path.name: path.read_bytes() for path in data.iterdir()})
    assert written[0] == written[1]


def test_again_does_nothing(write_foreign: WriteForeign, tmp_path: Path) -> None:
    run(write_foreign(tmp_path))
    before = snapshot(tmp_path)
    found = run(tmp_path)
    assert [variant.is_new for variant in found.variants] == [False]
    assert found.images_per_second == 0
    assert snapshot(tmp_path) == before


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    os.utime(path, (2**31, 2**31))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda path: os.truncate(path, path.stat().st_size - 1), r"train-00001-of-00002 is \d+ bytes long, not \d+"),
        (damage, "train-00001-of-00002 has other bytes"),
        (Path.unlink, "train-00001-of-00002 is gone"),
        (
            lambda path: shutil.copy(path.with_name("validation-00000-of-00001"), path.with_name("train-2")),
            "train-2 is new",
        ),
    ],
)
@pytest.mark.parametrize("folder", ["data", "data/full"])
def test_shards_that_changed_are_named(
    write_foreign: WriteForeign, tmp_path: Path, change: Callable[[Path], object], match: str, folder: str
) -> None:
    data = write_foreign(tmp_path / folder)
    run(data)
    change(data / "train-00001-of-00002")
    with pytest.raises(DataError, match=match) as caught:
        run(data)
    made = "the folder " + str(data / "full") if folder == "data" else data / "dataset.json"
    assert f"delete {made}" in caught.value.hint


def test_a_prepared_variant_that_changed(photo_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photo_root, tmp_path / "root"))
    damage(root / "32" / "train-00001-of-00003")
    with pytest.raises(DataError, match="train-00001-of-00003 has other bytes") as caught:
        run(root)
    assert caught.value.hint == f"imagesprint verify {root / '32'} lists all damage"


def test_shards_that_were_copied_are_not_taken_for_changed(write_foreign: WriteForeign, tmp_path: Path) -> None:
    run(write_foreign(tmp_path))
    for path in tmp_path.glob("train-*"):
        os.utime(path, (2**31, 2**31))
    assert not run(tmp_path).variants[0].is_new


@pytest.mark.parametrize("workers", [1, 2])
def test_damage_leaves_nothing_behind(write_foreign: WriteForeign, tmp_path: Path, workers: int) -> None:
    data = write_foreign(tmp_path)
    damage(data / "validation-00000-of-00001")
    before = snapshot(data)
    with pytest.raises(DataError, match=r"validation-00000-of-00001: the record at byte \d+ does not match its CRC"):
        run(data, workers)
    assert snapshot(data) == before
    assert not (data / "full").exists()


def test_what_a_killed_index_left_does_not_matter(
    write_foreign: WriteForeign, tmp_path: Path, assert_sound: AssertSound
) -> None:
    data = write_foreign(tmp_path)
    (data / ".full.tmp").mkdir()
    (data / ".full.tmp" / "train-00000-of-00002").symlink_to("nowhere")
    run(data)
    assert_sound(data)
    assert not (data / ".full.tmp").exists()


def test_folders_without_both_splits(write_foreign: WriteForeign, tmp_path: Path, photos: Path) -> None:
    data = write_foreign(tmp_path / "data", validation=[])
    with pytest.raises(
        UsageError, match=f"there are no validation shards beside {data}/train-00000-of-00002"
    ) as caught:
        run(data)
    assert "validation-00000-of-00128" in caught.value.hint
    for path, match in ((photos, "no TFRecords of train and validation"), (tmp_path / "none", "there is no folder")):
        with pytest.raises(UsageError, match=match):
            run(path)


def test_shards_that_are_all_empty(write_foreign: WriteForeign, tmp_path: Path) -> None:
    data = write_foreign(tmp_path / "data")
    os.truncate(data / "validation-00000-of-00001", 0)
    with pytest.raises(DataError, match="all validation shards are empty"):
        run(data)


def test_a_folder_in_the_way(write_foreign: WriteForeign, tmp_path: Path) -> None:
    data = write_foreign(tmp_path / "data")
    (data / "full").mkdir()
    (data / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=f"{data}/full is not empty"):
        run(data)


def test_shards_below_a_folder_named_as_a_variant(write_foreign: WriteForeign, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train-00000-of-00002 does not lie in .*2012 itself") as caught:
        run(write_foreign(tmp_path / "2012", **FOLDERS))
    assert "give 2012 a name in letters" in caught.value.hint


def test_an_unfinished_prepare_is_left_alone(photo_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photo_root, tmp_path / "root"))
    (root / "full" / "dataset.json").unlink()
    (root / ".parts").mkdir()
    with pytest.raises(UsageError, match="is not finished: its `imagesprint prepare` was interrupted"):
        run(root)
    assert [variant.is_new for variant in run(photo_root).variants] == [False, False]


def test_prepare_into_what_is_indexed_is_refused(write_foreign: WriteForeign, tmp_path: Path, photos: Path) -> None:
    run(write_foreign(tmp_path))
    with pytest.raises(UsageError, match=r"prepared with another plan .*kind: tfrecords then, class-folders now"):
        prepare(photos, tmp_path, variants=("full", "32"), workers=1, console=Console(quiet=True))


def test_a_list_beside_the_shards_names_the_classes(write_foreign: WriteForeign, tmp_path: Path) -> None:
    needed = ("image/encoded", "image/class/label")
    data = write_foreign(
        tmp_path / "data/320", change=lambda features: {name: features[name] for name in needed}, first_label=0
    )
    (tmp_path / "data/labels.txt").write_text("0:china\n1:flower\n")
    assert run(data).variants[0].first_classes == {0: "china", 1: "flower"}
    assert open_root(tmp_path / "data").classes == ("china", "flower")
    assert verify(tmp_path / "data", Console(quiet=True)).is_sound


def test_test_shards_are_no_validation_shards(
    write_foreign: WriteForeign, tmp_path: Path, assert_sound: AssertSound
) -> None:
    names = [f"cifar10-{split}.tfrecord-00000-of-00001" for split in ("train", "test")]
    data = write_foreign(tmp_path / "data", names[:1], names[1:])
    with pytest.raises(UsageError, match="there are no validation shards beside") as caught:
        run(data)
    command = caught.value.hint.rpartition(": ")[2]
    assert command == f"ln -s {names[1]} {data}/cifar10-validation.tfrecord-00000-of-00001"
    subprocess.run(command, shell=True, check=True)
    run(data)
    assert_sound(data)


@pytest.mark.parametrize("place", ["data/train", "data", "."])
def test_a_list_beside_the_shards_or_in_the_folder_given(
    write_foreign: WriteForeign, tmp_path: Path, place: str
) -> None:
    needed = ("image/encoded", "image/class/label")
    write_foreign(
        tmp_path / "data",
        ["train/train-1"],
        ["val/val-1"],
        change=lambda features: {name: features[name] for name in needed},
    )
    (tmp_path / place / "labels.txt").write_text("1:china\n2:flower\n")
    assert run(tmp_path).variants[0].first_classes == {1: "china", 2: "flower"}


def test_a_folder_of_an_unfinished_download_is_passed_by(write_foreign: WriteForeign, tmp_path: Path) -> None:
    write_foreign(tmp_path / "3.0.1.incompleteABC")
    with pytest.raises(UsageError, match="there are no TFRecords of train and validation"):
        run(tmp_path)
    write_foreign(tmp_path / "3.0.1")
    assert run(tmp_path).root == tmp_path / "3.0.1"


@pytest.mark.parametrize(("given", "lies"), [("data", "data/5.1.0"), ("data/train", "data"), ("data/val", "data")])
def test_shards_one_level_below_or_above(
    write_foreign: WriteForeign, tmp_path: Path, given: str, lies: str, assert_sound: AssertSound
) -> None:
    write_foreign(tmp_path / lies, ["train/part-1"], ["val/part-1"])
    stream = io.StringIO()
    found = index_shards(tmp_path / given, console=Console(stream, quiet=True), workers=1)
    assert found.root == tmp_path / lies
    assert stream.getvalue() == (
        f"warning: {tmp_path / given} does not hold the TFRecords of both splits, but {tmp_path / lies} does: "
        "that is indexed\n"
    )
    assert_sound(tmp_path / lies)


def test_shards_in_several_folders_below(write_foreign: WriteForeign, tmp_path: Path) -> None:
    for version in ("5.0.0", "5.1.0"):
        write_foreign(tmp_path / version)
    with pytest.raises(UsageError, match="but in 2 of its folders") as caught:
        run(tmp_path)
    assert caught.value.hint == f"give one of them: {tmp_path}/5.0.0, {tmp_path}/5.1.0"
