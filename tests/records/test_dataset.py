import io
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagesprint.console import Console
from imagesprint.errors import DataError, RecordError, UsageError
from imagesprint.records.dataset import open_dataset, open_root
from imagesprint.records.verify import verify


def test_root_lists_variants_and_classes(photo_root: Path) -> None:
    root = open_root(photo_root)
    assert root.variants == ("full", "32")
    assert root.classes == ("china", "flower")


def test_nearest_variant(photo_root: Path) -> None:
    root = open_root(str(photo_root))
    assert [root.nearest(name) for name in ("full", "400", "32", "16")] == ["full", "full", "32", "32"]
    root.variants = ("320", "160")
    assert [root.nearest(name) for name in ("full", "400", "200", "160", "9")] == ["320", "320", "320", "160", "160"]
    with pytest.raises(UsageError, match="'large' is no variant"):
        root.nearest("large")


def test_every_image_is_there_once(photo_root: Path, photos: Path) -> None:
    dataset = open_dataset(photo_root, "full", "val")
    assert dataset.split == "validation"
    stored = {
        (dataset.classes[dataset.labels[i]], dataset.read_record(i).filename): bytes(dataset.read(i))
        for i in range(len(dataset))
    }
    source = {(path.parent.name, path.name): path.read_bytes() for path in photos.glob("val/*/*")}
    assert stored == source


def test_sizes_are_those_of_the_images(photo_root: Path) -> None:
    for variant in ("full", "32"):
        dataset = open_dataset(photo_root, variant, "train")
        for i in range(0, len(dataset), 7):
            image = Image.open(io.BytesIO(dataset.read(i)))
            assert dataset.sizes[i].tolist() == [image.height, image.width]
            assert dataset.boxes(i).shape == (0, 4)


def test_sample_ids_mean_the_same_in_all_variants(photo_root: Path) -> None:
    full, small = (open_dataset(photo_root, variant, "train") for variant in ("full", "32"))
    assert [full.read_record(i).filename for i in range(len(full))] == [
        small.read_record(i).filename for i in range(len(small))
    ]
    assert full.labels.tolist() == small.labels.tolist()
    assert full.fingerprint != small.fingerprint
    assert full.fingerprint == open_dataset(photo_root, "full", "train").fingerprint


def test_describe_names_shard_record_and_file(photo_root: Path) -> None:
    dataset = open_dataset(photo_root, "full", "train")
    shard, record, name = dataset.describe(len(dataset) - 1).split(", ")
    assert shard == str(photo_root / "full" / "train-00002-of-00003")
    assert record == "record 23"
    assert name == dataset.read_record(len(dataset) - 1).filename


def test_threads_read_the_same(photo_root: Path) -> None:
    dataset = open_dataset(photo_root, "32", "train")
    expected = [bytes(dataset.read(i)) for i in range(len(dataset))]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: bytes(dataset.read(i % len(dataset))), range(20 * len(dataset))))
    assert found == expected * 20


def test_threads_that_open_a_shard_at_once_read_the_same(photo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(photo_root, "32", "validation")
    expected, together = bytes(dataset.read(0)), threading.Barrier(2)
    dataset.close()

    def waiting(call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, which two threads begin together."""
        return lambda *words: [together.wait(10), call(*words)][1]

    with ThreadPoolExecutor(2) as pool, monkeypatch.context() as patch:
        patch.setattr(os, "open", waiting(os.open))
        patch.setattr(os, "pread", waiting(os.pread))
        assert [bytes(content) for content in pool.map(dataset.read, (0, 0))] == [expected] * 2


def test_few_descriptors_are_enough(photos: Path, tmp_path: Path) -> None:
    """Sixty shards with twenty-four descriptors, eight of them for the dataset."""
    script = f"""
import resource
from pathlib import Path
from imagesprint.console import Console
from imagesprint.prepare.preparing import prepare
from imagesprint.records.dataset import open_dataset
root = Path({str(tmp_path / "root")!r})
prepare({str(photos)!r}, root, shards=60, workers=1, console=Console(quiet=True))
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 24))
dataset = open_dataset(root, "full", "train")
print(sum(len(dataset.read(i)) for _ in range(2) for i in range(len(dataset))))
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    total, limits = done.stdout.splitlines()
    assert int(total) == 2 * sum(path.stat().st_size for path in photos.glob("train/*/*"))
    assert limits == "(24, 24)"  # the soft one raised, as far as that may be


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_read_in_another_process(photo_root: Path, method: str) -> None:
    dataset = open_dataset(photo_root, "full", "train")
    expected = bytes(dataset.read(1))
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(dataset.read_record, (1,)).encoded == expected


def test_pickled_dataset_notices_that_it_was_prepared_again(root: Path) -> None:
    pickled = pickle.dumps(open_dataset(root, "full", "train"))
    path = root / "full" / "dataset.json"
    path.write_text(path.read_text().replace('"text": "flower"', '"text": "a flower"'))
    with pytest.raises(RecordError, match="prepared again"):
        pickle.loads(pickled)


def test_close_and_read_again(photo_root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    dataset = open_dataset(photo_root, "full", "train")
    data = bytes(dataset.read(0))
    dataset.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert bytes(dataset.read(0)) == data
    with pytest.raises(IndexError):
        dataset.read(len(dataset))


def test_missing_empty_and_unprepared_folders(tmp_path: Path, photos: Path, photo_root: Path) -> None:
    for path, match in ((tmp_path / "none", "there is no folder"), (tmp_path, "no prepared"), (photos, "no prepared")):
        with pytest.raises(UsageError, match=match) as caught:
            open_root(path)
        assert f"imagesprint prepare SOURCE {path}" in caught.value.hint
    with pytest.raises(UsageError, match="one variant") as caught:
        open_root(photo_root / "full")
    assert str(photo_root) in caught.value.hint
    with pytest.raises(UsageError, match="no variant '64'; it has full, 32"):
        open_dataset(photo_root, "64", "train")
    with pytest.raises(UsageError, match="no split 'test'"):
        open_dataset(photo_root, "full", "test")


def test_shard_cut_short_or_gone_is_found_when_opened(root: Path) -> None:
    shard = root / "full" / "train-00001-of-00003"
    size = shard.stat().st_size
    os.truncate(shard, size - 1)
    with pytest.raises(RecordError, match=f"train-00001-of-00003 is {size - 1} bytes long, not {size}"):
        open_dataset(root, "full", "train")
    shard.unlink()
    with pytest.raises(RecordError, match="train-00001-of-00003 cannot be read"):
        open_dataset(root, "full", "train")
    assert len(open_dataset(root, "full", "validation")) == 18


def test_flipped_bit_is_found_when_read(root: Path, flip_bit: Callable[[Path, int], None]) -> None:
    flip_bit(root / "full" / "train-00000-of-00003", 1000)
    dataset = open_dataset(root, "full", "train")
    with pytest.raises(RecordError, match=r"train-00000-of-00003: the record at byte \d+ does not match") as caught:
        list(map(dataset.read, range(len(dataset))))
    assert "imagesprint verify" in caught.value.hint
    assert dataset.describe(0).startswith(str(root / "full" / "train-00000-of-00003"))


def test_flipped_bit_in_the_index(root: Path, flip_bit: Callable[[Path, int], None]) -> None:
    flip_bit(root / "full" / "train.index.npz", 400)
    with pytest.raises(RecordError, match=r"train\.index\.npz does not match"):
        open_dataset(root, "full", "train")
    (root / "full" / "train.index.npz").unlink()
    with pytest.raises(RecordError, match=r"train\.index\.npz: No such file"):
        open_dataset(root, "full", "train")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 1}', "\x00", "null", "17", "[" * 100_000])
def test_damaged_manifest(root: Path, content: str) -> None:
    (root / "full" / "dataset.json").write_text(content)
    with pytest.raises(RecordError, match=r"dataset\.json is damaged"):
        open_root(root)


def test_manifest_of_another_version(root: Path) -> None:
    path = root / "full" / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(RecordError, match="version 99"):
        open_root(root)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("variant",), None),
        (("classes",), None),
        (("classes",), "ab"),
        (("classes", 0, "name"), 3),
        (("classes", 0, "synset"), None),
        (("classes", 0), ["china"]),
        (("made_by",), []),
        (("splits",), []),
        (("splits", "train"), None),
        (("splits", "train", "num_records"), None),
        (("splits", "train", "num_records"), 70.0),
        (("splits", "train", "num_classes_present"), True),
        (("splits", "train", "index"), None),
        (("splits", "train", "index"), "a\0b"),
        (("splits", "train", "index"), "../32/train.index.npz"),
        (("splits", "train", "index"), "\ud800"),
        (("splits", "train", "index_crc32c"), "1"),
        (("splits", "train", "shards"), 3),
        (("splits", "train", "shards", 0), None),
        (("splits", "train", "shards", 0, "name"), ""),
        (("splits", "train", "shards", 0, "name"), "/etc/passwd"),
        (("splits", "train", "shards", 0, "name"), ["x"]),
        (("splits", "train", "shards", 0, "bytes"), None),
        (("splits", "train", "shards", 0, "bytes"), -1),
        (("splits", "train", "shards", 0, "num_records"), "23"),
        (("splits", "train", "shards", 0, "crc32c"), {}),
        (("splits", "train", "shards", 0, "more"), 1),
    ],
)
def test_manifest_with_a_value_of_another_type(root: Path, keys: tuple[Any, ...], value: object) -> None:
    path = root / "full" / "dataset.json"
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=r"dataset\.json is damaged"):
        open_root(root)
    problems = verify(root, Console(quiet=True)).problems
    assert [(problem.variant, problem.split) for problem in problems] == [("full", "")]


def test_folder_of_another_variant(root: Path) -> None:
    shutil.rmtree(root / "full")
    (root / "32").rename(root / "64")
    with pytest.raises(RecordError, match="is of variant '32', but its folder is named '64'"):
        open_dataset(root, "64", "train")
    (root / "32").symlink_to(root / "64")  # by that name it is what it says
    (root / "64").rename(root / "elsewhere")
    (root / "32").unlink()
    (root / "32").symlink_to(root / "elsewhere")
    assert open_dataset(root, "32", "train").variant == "32"


def test_place_that_cannot_be_looked_at() -> None:
    for look in (open_root, lambda path: verify(path, Console(quiet=True))):
        with pytest.raises(DataError, match=r"cannot read .*: File name too long"):
            look("x" * 300)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_root_that_cannot_be_listed(root: Path) -> None:
    root.chmod(0o300)
    with pytest.raises(DataError, match=f"cannot read {root}: Permission denied"):
        open_root(root)
