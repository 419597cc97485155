import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagesprint.console import Console
from imagesprint.errors import DataError, RecordError, UsageError
from imagesprint.prepare.preparing import Summary, prepare
from imagesprint.records.dataset import open_dataset, open_root
from imagesprint.records.verify import verify

ReadTree = Callable[[Path], dict[str, bytes]]


def make(source: Path, root: Path, **options: Any) -> Summary:
    return prepare(source, root, **{"variants": ("full",), "workers": 1, "console": Console(quiet=True), **options})


@pytest.fixture
def source(photos: Path, tmp_path: Path) -> Path:
    """A copy of `photos` that a test may change."""
    return Path(shutil.copytree(photos, tmp_path / "source"))


def test_bytes_do_not_depend_on_the_workers(photos: Path, tmp_path: Path, read_tree: ReadTree) -> None:
    for workers in (1, 4):
        make(photos, tmp_path / str(workers), variants=("full", "48", "32"), shards=6, workers=workers)
    one = read_tree(tmp_path / "1")
    assert one == read_tree(tmp_path / "4")
    assert len(one) == 3 * (
        6 + 2 + 2 + 3
    )  # shards of train and of validation, indexes; dataset.json, rejected and converted.jsonl
    assert verify(tmp_path / "4", Console(quiet=True)).problems == []


def test_summary(photos: Path, tmp_path: Path) -> None:
    done = make(photos, tmp_path / "root", variants=("32", "full"))
    assert done.images == {"train": 70, "validation": 18}
    assert (done.classes, done.rejected, done.written) == (2, {}, ("full", "32"))
    sizes = {
        variant: sum(path.stat().st_size for path in (tmp_path / "root" / variant).glob("*-of-*"))
        for variant in ("full", "32")
    }
    assert done.variants == sizes
    assert done.images_per_second > 0


def test_variants_added_later_are_those_made_at_once(photos: Path, tmp_path: Path, read_tree: ReadTree) -> None:
    make(photos, tmp_path / "once", variants=("full", "48", "32"), shards=2)
    assert make(photos, tmp_path / "root", variants=("48",), shards=2).written == ("48",)
    done = make(photos, tmp_path / "root", variants=("full", "48", "32"), shards=2, workers=2)
    assert done.written == ("full", "32")
    assert read_tree(tmp_path / "once") == read_tree(tmp_path / "root")


def test_finished_root_is_left_alone(photos: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "root", variants=("full", "32"))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*")}
    done = make(photos, tmp_path / "root", variants=("32",))
    assert (done.written, done.images_per_second, done.images["train"]) == ((), 0, 70)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*")}


def test_finished_root_that_has_lost_a_shard(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    make(photos, root, variants=("full", "32"))
    shard = root / "32/train-00000-of-00001"
    shard.unlink()
    with pytest.raises(RecordError, match=f"shard {shard} cannot be read: No such file"):
        make(photos, root, variants=("full", "32"))
    assert make(photos, root, variants=("full",)).written == ()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"quality": 80}, "quality: 90 then, 80 now"),
        ({"seed": 5}, "seed: 0 then, 5 now"),
        ({"shards": 3}, "train_shards: 1 then, 3 now"),
    ],
)
def test_another_plan_is_refused(
    photos: Path, tmp_path: Path, read_tree: ReadTree, options: dict[str, Any], named: str
) -> None:
    make(photos, tmp_path / "root")
    before = read_tree(tmp_path / "root")
    with pytest.raises(UsageError, match=named):
        make(photos, tmp_path / "root", variants=("full", "32"), **options)
    assert read_tree(tmp_path / "root") == before


def test_changed_source_is_refused(source: Path, tmp_path: Path, read_tree: ReadTree) -> None:
    make(source, tmp_path / "root")
    before = read_tree(tmp_path / "root")
    (source / "train/china/00.jpg").unlink()
    with pytest.raises(UsageError, match="train_files: 70 then, 69 now"):
        make(source, tmp_path / "root", variants=("32",))
    assert read_tree(tmp_path / "root") == before


@pytest.mark.parametrize("variants", [("full", "32"), ("32",)])
def test_variant_that_would_reject_others_is_refused(source: Path, tmp_path: Path, variants: tuple[str, ...]) -> None:
    make(source, tmp_path / "root")
    row = {"split": "train", "file": "train/china/00.jpg", "reason": "an older Pillow could not read it"}
    (tmp_path / "root/full/rejected.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"00\.jpg was rejected when .*full was prepared, and now is not"):
        make(source, tmp_path / "root", variants=variants)
    assert open_root(tmp_path / "root").variants == ("full",)


def test_damaged_shard_of_an_unfinished_prepare_is_written_again(
    source: Path, photo_root: Path, tmp_path: Path, read_tree: ReadTree
) -> None:
    (source / "val/flower/page.jpg").write_text("<html>")
    with pytest.raises(DataError, match="1 of 89 files are rejected, the"):
        make(source, tmp_path / "root", variants=("full", "32"), shards=3)
    os.truncate(tmp_path / "root/full/train-00001-of-00003", 100)
    (tmp_path / "root/32/train-00002-of-00003").unlink()
    make(source, tmp_path / "root", variants=("full", "32"), shards=3, max_rejected=1)
    for name, data in read_tree(photo_root).items():
        if "train-" in name:
            assert (tmp_path / "root" / name).read_bytes() == data


def test_unfinished_root_with_another_plan(source: Path, tmp_path: Path) -> None:
    (source / "val/flower/page.jpg").write_text("<html>")
    with pytest.raises(DataError):
        make(source, tmp_path / "root")
    for options, named in (({"quality": 50}, "quality"), ({"variants": ("full", "32")}, "variants")):
        with pytest.raises(UsageError, match=f"unfinished prepare of another plan .*{named}"):
            make(source, tmp_path / "root", **options)
    with pytest.raises(UsageError, match="is not finished") as caught:
        open_dataset(tmp_path / "root", "full", "train")
    assert "same prepare command" in caught.value.hint


def test_adding_a_variant_is_interrupted_and_goes_on(source: Path, tmp_path: Path, read_tree: ReadTree) -> None:
    make(source, tmp_path / "root")
    broken = tmp_path / "root/32"
    broken.write_text("in the way")
    with pytest.raises(DataError, match="cannot write"):
        make(source, tmp_path / "root", variants=("full", "32"))
    broken.unlink()
    make(source, tmp_path / "root", variants=("full", "32"))
    make(source, tmp_path / "once", variants=("full", "32"))
    assert read_tree(tmp_path / "root") == read_tree(tmp_path / "once")


def test_killed_between_two_variants(photos: Path, tmp_path: Path, read_tree: ReadTree) -> None:
    """The state after a kill between the two dataset.json: .parts is there, one variant is finished."""
    parts = tmp_path / "root/.parts"
    make(photos, tmp_path / "root", variants=("full", "32"))
    whole = read_tree(tmp_path / "root")
    shutil.rmtree(tmp_path / "root")
    with pytest.raises(KeyboardInterrupt):
        make(photos, tmp_path / "root", variants=("full", "32"), console=_Interrupting())
    assert parts.exists()
    for name in whole:
        if name.startswith("full/"):
            (tmp_path / "root" / name).write_bytes(whole[name])
    make(photos, tmp_path / "root", variants=("full",))
    assert parts.exists()  # 32 still needs it
    make(photos, tmp_path / "root", variants=("full", "32"))
    for name in whole:
        if name.startswith("32/"):
            assert (tmp_path / "root" / name).read_bytes() == whole[name]
    assert not parts.exists()


class _Interrupting(Console):
    """Ctrl-C at the first sign of progress."""

    def live(self, text: str, *more: str, short: str = "", last: bool = False) -> None:  # noqa: ARG002
        raise KeyboardInterrupt


def test_root_that_cannot_be_written(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "root", Path("/proc/nothing")):
        with pytest.raises(UsageError, match=f"cannot write to {root}"):
            make(photos, root)
    if os.getuid() != 0:  # root may write everywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(UsageError, match="cannot write"):
            make(photos, tmp_path / "locked")


def test_foreign_files_are_not_touched(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "root/32").mkdir(parents=True)
    (tmp_path / "root/32/mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="32 is not empty"):
        make(photos, tmp_path / "root", variants=("full", "32"))
    assert [path.name for path in (tmp_path / "root").rglob("*")] == ["32", "mine.txt"]


def test_root_within_the_source(source: Path) -> None:
    for root in (source, source / "prepared", source / "train/china/../x"):
        with pytest.raises(UsageError, match="lies in the source"):
            make(source, root)
    assert {path.name for path in source.iterdir()} == {"train", "val"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"variants": ("full", "large")}, "'large' is no variant"),
        ({"variants": ("0",)}, "'0' is no variant"),
        ({"variants": ("32", "32")}, "one twice"),
        ({"variants": ("",)}, "'' is no variant"),
        ({"quality": 0}, "--quality 0"),
        ({"workers": 0}, "--workers 0"),
        ({"max_rejected": 2}, "--max-rejected 2"),
        ({"shards": 71}, "--shards 71"),
    ],
)
def test_options_that_make_no_sense(photos: Path, tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        make(photos, tmp_path / "root", **options)
    assert not (tmp_path / "root").exists()


def test_classes_without_validation_images_are_named(source: Path, tmp_path: Path) -> None:
    shutil.rmtree(source / "val/flower")
    warnings = []

    class Listening(Console):
        def warn(self, text: str) -> None:
            warnings.append(text)

    make(source, tmp_path / "root", console=Listening(quiet=True))
    assert warnings == ["1 of 2 classes have no validation images: flower"]


def test_file_names_that_are_not_utf8_and_files_of_one_content(source: Path, tmp_path: Path) -> None:
    data = (source / "train/china/00.jpg").read_bytes()
    for name in (b"caf\xe9.jpg", "日本 1.jpg".encode(), b"new\nline.jpg"):
        with open(os.path.join(os.fsencode(source / "train/china"), name), "wb") as file:
            file.write(data)
    make(source, tmp_path / "root", workers=2, shards=2)
    dataset = open_dataset(tmp_path / "root", "full", "train")
    names = {os.fsencode(dataset.read_record(i).filename) for i in range(len(dataset))}
    assert {b"caf\xe9.jpg", "日本 1.jpg".encode(), b"new\nline.jpg"} <= names
    assert sum(bytes(dataset.read(i)) == data for i in range(len(dataset))) == 4


class _Listening(Console):
    """Keeps the warnings."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def interrupt(source: Path, root: Path, **options: Any) -> None:
    """Leave a root with every shard written and nothing finished, as a kill just before the end would."""
    (source / "val/flower/page.jpg").write_text("<html>")
    with pytest.raises(DataError, match="1 of 89 files are rejected, the"):
        make(source, root, **options)


def test_killed_before_the_folders_of_the_variants_are_made(photos: Path, tmp_path: Path, read_tree: ReadTree) -> None:
    root = tmp_path / "root"
    with pytest.raises(KeyboardInterrupt):
        make(photos, root, variants=("full", "32"), console=_Interrupting())
    for variant in ("full", "32"):
        shutil.rmtree(root / variant)
    make(photos, root, variants=("full", "32"))
    make(photos, tmp_path / "once", variants=("full", "32"))
    assert read_tree(root) == read_tree(tmp_path / "once")


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b'{"variants": {}}', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("name", ["train-00001-of-00003.json", "32-train-00001-of-00003.index.npz"])
def test_damaged_parts_are_made_again(
    source: Path, photo_root: Path, tmp_path: Path, read_tree: ReadTree, name: str, content: bytes
) -> None:
    root = tmp_path / "root"
    options: dict[str, Any] = {"variants": ("full", "32"), "shards": 3}
    interrupt(source, root, **options)
    (root / ".parts" / name).write_bytes(content)
    make(source, root, max_rejected=1, **options)
    for file, data in read_tree(photo_root).items():
        if "train" in file:
            assert (root / file).read_bytes() == data


@pytest.mark.parametrize(
    ("key", "value"), [("num_records", 3), ("bytes", None), ("name", "../x"), ("crc32c", "1"), ("crc32c", -1)]
)
def test_sidecar_of_other_values_is_made_again(source: Path, tmp_path: Path, key: str, value: object) -> None:
    root = tmp_path / "root"
    interrupt(source, root)
    sidecar = root / ".parts/train-00000-of-00001.json"
    content = json.loads(sidecar.read_text())
    content["variants"]["full"][key] = value
    sidecar.write_text(json.dumps(content))
    make(source, root, max_rejected=1)
    assert verify(root, Console(quiet=True)).problems == []


@pytest.mark.parametrize("content", ["", "{", "null", "{}", '{"variants": 3}', '{"variants": [3]}', "[" * 100_000])
def test_damaged_plan(source: Path, tmp_path: Path, content: str) -> None:
    root = tmp_path / "root"
    make(source, root)
    parts = root / ".parts"
    parts.mkdir()
    (root / "32").mkdir()
    (parts / "plan.json").write_text(content)
    with pytest.raises(RecordError, match=r"plan\.json is damaged") as caught:
        make(source, root, variants=("32",))
    assert caught.value.hint.startswith(f"delete {parts} and {root / '32'}, together")
    shutil.rmtree(parts)
    shutil.rmtree(root / "32")
    make(source, root, variants=("32",))  # the hint was right


def test_temporary_files_of_a_killed_run_are_swept(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    interrupt(source, root)
    for name in ("full/.train.index.npz.123.tmp", "full/.dataset.json.123.tmp", ".parts/full-x.123.tmp"):
        (root / name).write_bytes(b"half")
    make(source, root, max_rejected=1)
    assert list(root.rglob("*.tmp")) == []


def test_noise_is_prepared(source: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (400, 400, 3), np.uint8) * 255
    Image.fromarray(noise).save(source / "train/china/noise.png")
    assert make(source, tmp_path / "root", variants=("full", "380"), quality=94).rejected == {}


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_root_that_cannot_be_listed(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir(mode=0o300)
    with pytest.raises((DataError, UsageError), match=r"cannot (read|write)"):
        make(photos, tmp_path / "root")
