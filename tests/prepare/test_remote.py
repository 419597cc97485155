"""`prepare` from and to URLs gives the bytes that it gives on a disk, also after kills and from several machines."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fault_proxy import FaultProxy, Faults
from hdfs_server import Hdfs
from imagesprint.console import Console
from imagesprint.errors import DataError, StorageError, UsageError
from imagesprint.prepare import SOURCES
from imagesprint.prepare.preparing import Summary, prepare
from imagesprint.storage import attempts, lease
from imagesprint.storage.store import Store, open_store
from imagesprint.storage.url import Place, Url
from s3_server import S3

ReadTree = Callable[[Path], dict[str, bytes]]
WORDS = ("--variants", "full,32", "--shards", "4", "--workers", "2")
OPTIONS: dict[str, Any] = {"variants": ("full", "32"), "shards": 4}


def make(source: Place, root: Place, **options: Any) -> Summary:
    return prepare(source, root, **{"workers": 1, "console": Console(quiet=True), **OPTIONS, **options})


def put(folder: Path, url: Url) -> Url:
    """Copy a folder to a URL, which is returned."""
    store = open_store(url)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.upload(path, str(path.relative_to(folder)))
    return url


def get(url: Url) -> dict[str, bytes]:
    """The bytes of all files below a URL."""
    store = open_store(url)
    return {stored.key: store.read(stored.key) for stored in store.list()}


@pytest.fixture(scope="session")
def large_root(large_photos: Path, tmp_path_factory: pytest.TempPathFactory, read_tree: ReadTree) -> dict[str, bytes]:
    """What an undisturbed `prepare` on a disk makes of `large_photos`."""
    root = tmp_path_factory.mktemp("large-root") / "root"
    make(large_photos, root)
    return read_tree(root)


class _Listening(Console):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def line(self, text: str = "") -> None:
        self.lines.append(text)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source(kind: str, miniature: Path, s3: S3, tmp_path: Path, read_tree: ReadTree) -> None:
    folder = tmp_path / "source"
    shutil.copytree(miniature / kind, folder / "photos")
    (folder / "photos/.DS_Store").write_bytes(b"litter")
    if kind == "class-folders":
        (folder / "photos/train/n01440764/broken %+é.jpg").write_bytes(b"no image")
        (folder / "photos/train/n01440764/notes.txt").write_text("no image by its name")
    options = {"shards": 2, "val_fraction": 0.3 if kind == "synset-tars" else None, "max_rejected": 0.1}
    here, there = _Listening(), _Listening()
    make(folder, tmp_path / "root", console=here, **options)
    source = put(folder, s3.url / "data")
    done = make(source, tmp_path / "by-url", console=there, **options)
    assert read_tree(tmp_path / "root") == read_tree(tmp_path / "by-url")
    assert done.root == tmp_path / "by-url"
    assert here.warnings == [warning.replace(str(source), str(folder)) for warning in there.warnings]


def test_root_by_url_is_that_of_a_disk(large_photos: Path, large_root: dict[str, bytes], s3: S3) -> None:
    done = make(large_photos, s3.url / "root", workers=2)
    assert get(s3.url / "root") == large_root
    assert (str(done.root), done.images) == (str(s3.url / "root"), {"train": 60, "validation": 6})
    assert not list(Path(os.environ["IMAGESPRINT_CACHE"], "prepared").rglob("*-of-*"))  # nothing stays on the disk
    again = make(large_photos, s3.url / "root")
    assert (again.written, again.images, again.variants) == ((), done.images, done.variants)


@pytest.mark.remote
@pytest.mark.hdfs
def test_from_s3_to_hdfs_killed_on_the_way(
    command: list[str], large_photos: Path, large_root: dict[str, bytes], s3: S3, hdfs: Hdfs, tmp_path: Path
) -> None:
    source, root = put(large_photos, s3.url / "photos"), hdfs.url / "root"
    process = start(command, source, root, tmp_path / "one", "--workers", "1")
    wait_for_shards(open_store(root), 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    make(source, root)
    assert get(root) == large_root
    make(put(large_photos, hdfs.url / "photos"), s3.url / "root")
    assert get(s3.url / "root") == large_root


def test_variants_added_later(photos: Path, s3: S3, tmp_path: Path, read_tree: ReadTree) -> None:
    make(photos, s3.url / "root", variants=("32",))
    source = put(photos, s3.url / "photos")
    assert make(source, s3.url / "root", variants=("full", "32")).written == ("full",)
    make(photos, tmp_path / "root")
    assert get(s3.url / "root") == read_tree(tmp_path / "root")
    with pytest.raises(UsageError, match=f"{s3.url}/root was prepared with another plan .quality: 90 then, 80 now"):
        make(photos, s3.url / "root", quality=80)


def test_duplicates_are_written_again(photos: Path, s3: S3, tmp_path: Path, read_tree: ReadTree) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "source"))
    shutil.copy(source / "val/china/00.jpg", source / "train/china/twin.jpg")
    make(source, tmp_path / "root", max_rejected=0.1)
    done = make(source, s3.url / "root", max_rejected=0.1)
    assert done.rejected == {"duplicate": 1}
    assert get(s3.url / "root") == read_tree(tmp_path / "root")


def start(command: list[str], source: object, root: object, cache: Path, *flags: str) -> subprocess.Popen[str]:
    words = [*command, "prepare", str(source), str(root), *WORDS, "--cache", str(cache), *flags]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_shards(store: Store, count: int) -> None:
    for _ in range(600):
        if sum(stored.key.endswith(".json") for stored in store.list(".parts")) > count:  # beside plan.json
            return
        time.sleep(0.02)
    raise AssertionError("no shard is finished after 12 s")


def test_killed_and_gone_on_with_from_an_empty_disk(
    command: list[str], large_photos: Path, large_root: dict[str, bytes], s3: S3, tmp_path: Path
) -> None:
    source, root = put(large_photos, s3.url / "photos"), s3.url / "root"
    process = start(command, source, root, tmp_path / "one", "--workers", "1")
    wait_for_shards(open_store(root), 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not any(key.endswith("dataset.json") for key in get(root))
    process = start(command, source, root, tmp_path / "another", "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "going on: " in err
    assert json.loads(out)["root"] == str(root)
    assert get(root) == large_root


@pytest.mark.remote
def test_two_parts_at_once(
    command: list[str], large_photos: Path, large_root: dict[str, bytes], s3: S3, tmp_path: Path
) -> None:
    source, root = put(large_photos, s3.url / "photos"), s3.url / "root"
    flags = ("--workers", "1", "--part")
    both = [start(command, source, root, tmp_path / "cache", *flags, part) for part in ("0:2", "2:4")]
    outcomes = [(process.communicate(timeout=120), process.returncode) for process in both]
    assert [code for _, code in outcomes] == [0, 0], outcomes
    assert get(root) == large_root
    assert sum("missing: " in out for (out, _), _ in outcomes) <= 1


@pytest.mark.remote
def test_parts_that_touch_are_refused(command: list[str], large_photos: Path, s3: S3, tmp_path: Path) -> None:
    first = start(command, large_photos, s3.url, tmp_path / "one", "--workers", "1", "--part", "0:3")
    wait_for_shards(open_store(s3.url), 1)
    os.killpg(first.pid, signal.SIGSTOP)
    second = start(command, large_photos, s3.url, tmp_path / "two", "--part", "2:4")
    _, err = second.communicate(timeout=60)
    os.killpg(first.pid, signal.SIGCONT)
    assert second.returncode == 2, err
    assert f"at work at {s3.url}: process {first.pid} on " in err
    assert "at some of train shards 2:4" in err
    assert first.wait(timeout=60) == 0
    first.communicate()


def test_unfinished_root_may_be_copied_to_a_disk_and_back(
    large_photos: Path, large_root: dict[str, bytes], s3: S3, tmp_path: Path, read_tree: ReadTree
) -> None:
    done = make(large_photos, s3.url / "one", part="0:2")
    assert done.missing["train"] == ((2, 4),)
    for key, data in get(s3.url / "one").items():
        (tmp_path / "root" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / key).write_bytes(data)
    assert make(large_photos, tmp_path / "root", part="2:3").missing["train"] == ((3, 4),)
    put(tmp_path / "root", s3.url / "two")
    make(large_photos, s3.url / "two")
    assert get(s3.url / "two") == large_root
    make(large_photos, tmp_path / "root")
    assert read_tree(tmp_path / "root") == large_root


def test_store_that_goes_away_in_the_middle(
    large_photos: Path,
    large_root: dict[str, bytes],
    s3: S3,
    fault_proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempts, "PATIENCE", 1.0)
    monkeypatch.setattr(lease, "_END", 0.5)
    root = s3.url / "root"

    def kill() -> None:
        wait_for_shards(open_store(root), 1)
        fault_proxy.faults.refuse = True

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(StorageError, match=f"cannot (write|delete) {root}/") as raised:
        make(large_photos, root)
    killer.join()
    assert "it goes on with the shards that are not there yet" in raised.value.hint
    fault_proxy.faults = Faults()
    console = _Listening()
    make(large_photos, root, console=console)
    assert any(
        re.fullmatch(r"sending train-0000\d-of-00004, which was finished before .*", line) for line in console.lines
    )
    assert any(line.startswith("going on: ") for line in console.lines)
    assert get(root) == large_root


def test_image_that_changes_after_the_listing(photos: Path, s3: S3, tmp_path: Path) -> None:
    source = put(photos, s3.url / "photos")

    class Changing(Console):
        def line(self, text: str = "") -> None:  # said before the first image is read
            if "(class-folders)" in text:
                data = (photos / "train/china/00.jpg").read_bytes()
                open_store(source).write("train/china/00.jpg", data[:-1] + b"x")

    with pytest.raises((DataError, StorageError), match="changed"):
        make(source, tmp_path / "root", console=Changing(quiet=True))


def test_bits_that_flip_on_the_way_are_noticed(
    photos: Path, s3: S3, fault_proxy: FaultProxy, tmp_path: Path, read_tree: ReadTree
) -> None:
    source = put(photos, s3.url / "photos")

    class Corrupting(Console):
        def line(self, text: str = "") -> None:  # said before the first image is read
            if "(class-folders)" in text:
                fault_proxy.faults.corrupt_share = 0.05

    make(source, tmp_path / "by-url", console=Corrupting(quiet=True))
    make(photos, tmp_path / "root")
    assert read_tree(tmp_path / "root") == read_tree(tmp_path / "by-url")


@pytest.mark.usefixtures("s3")  # for its cache
def test_one_file_of_a_web_server(miniature: Path, tmp_path: Path, read_tree: ReadTree) -> None:
    tar = next((miniature / "webdataset").glob("*train-0000.tar"))
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(tar, only)
    options = {"shards": 1, "val_fraction": 0.4}
    make(only, tmp_path / "root", **options)
    server = subprocess.Popen(
        ["python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"],
        cwd=only, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        port = server.stdout.readline().split(" port ")[1].split()[0]
        url = Url(f"http://127.0.0.1:{port}")
        make(url / tar.name, tmp_path / "by-url", **options)
        with pytest.raises(UsageError, match=r"nothing\.tar"):
            make(url / "nothing.tar", tmp_path / "by-url", **options)
    finally:
        server.kill()
        server.communicate()
    assert read_tree(tmp_path / "root") == read_tree(tmp_path / "by-url")


def test_what_cannot_be(photos: Path, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = put(photos, s3.url / "photos")
    for place, root, said in (
        (s3.url / "nothing", tmp_path / "root", f"there is no source folder {s3.url}/nothing"),
        (source / "val/china/00.jpg", tmp_path / "root", "the source .*00.jpg is no folder"),
        (source / "val/china", tmp_path / "root", "china holds 9 images, but no class folders"),
        (source, source / "root", "lies in the source"),
        (photos, Url("https://server/root"), "web servers are for reading"),
        (Url("https://server/photos"), tmp_path / "root", "a web server lists no folder"),
        (Url("https://server/photos.zip"), tmp_path / "root", r"is no \.tar or \.parquet"),
    ):
        with pytest.raises(UsageError, match=said) as raised:
            make(place, root)
        assert raised.value.hint
        assert str(tmp_path / "cache") not in raised.value.what
    for name, value in s3.server.reader.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=f"{s3.url}/root") as denied:
        make(photos, s3.url / "root")
    assert "permission" in f"{denied.value.what} {denied.value.hint}"


def test_foreign_files_at_the_url_are_not_touched(photos: Path, s3: S3) -> None:
    open_store(s3.url).write("32/mine.txt", b"mine")
    with pytest.raises(UsageError, match=f"{s3.url}/32 is not empty"):
        make(photos, s3.url)
    assert get(s3.url) == {"32/mine.txt": b"mine"}


def test_finished_root_that_has_lost_a_shard(photos: Path, s3: S3) -> None:
    make(photos, s3.url)
    open_store(s3.url).delete("32/train-00000-of-00004")
    with pytest.raises(DataError, match=f"shard {s3.url}/32/train-00000-of-00004 cannot be read"):
        make(photos, s3.url)
