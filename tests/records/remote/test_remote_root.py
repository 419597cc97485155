"""A ROOT by URL gives what one on the disk gives, whatever happens to the cache and to the fetcher."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from imagesprint.console import Console
from imagesprint.errors import MissingPackageError, RecordError, StorageError, UsageError
from imagesprint.records.dataset import Dataset, open_dataset, open_root
from imagesprint.records.remote import client
from imagesprint.records.remote.meeting import fetcher_pid, meeting_place
from imagesprint.records.verify import verify
from imagesprint.storage.cache import cache_folder
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Url
from s3_server import S3


def cached(pattern: str) -> list[Path]:
    """Files of datasets in the cache, by name."""
    return sorted((cache_folder() / "shards").glob(f"*/{pattern}"))


def wait_until(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something is so; fails where it is not in time."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def records(dataset: Dataset) -> list[bytes]:
    return [bytes(dataset.read(sample_id)) for sample_id in range(len(dataset))]


def everything(source: Url | Path, variant: str = "full") -> list[bytes]:
    return records(open_dataset(source, variant, "train"))


def fill_whole(dataset: Dataset) -> None:
    """Have all shards of the split in the cache, whole."""
    dataset.fill()
    wait_until(lambda: dataset.remote is not None and not list(cached("train-*.part")) and bool(cached("train-*")))


def test_a_root_by_url_is_the_one_on_the_disk(root_url: Url, photo_root: Path) -> None:
    there, here = open_root(root_url), open_root(photo_root)
    assert (there.variants, there.classes, there.class_texts) == (here.variants, here.classes, here.class_texts)
    for variant in here.variants:
        for split in ("train", "validation"):
            ours, theirs = there.dataset(variant, split), here.dataset(variant, split)
            assert ours.fingerprint == theirs.fingerprint
            assert records(ours) == records(theirs)
            assert ours.describe(3) == theirs.describe(3).replace(str(photo_root), str(root_url))
    assert str(open_root(str(root_url)).path) == str(root_url)


def test_shards_become_whole_and_are_then_read_without_the_fetcher(
    root_url: Url, photo_root: Path, kill_fetcher: Callable[[], bool]
) -> None:
    dataset = open_dataset(root_url, "full", "train")
    fill_whole(dataset)
    for shard in cached("train-*-of-*"):
        assert shard.read_bytes() == (photo_root / "full" / shard.name).read_bytes()
    again = open_dataset(root_url, "full", "train")
    assert kill_fetcher()
    assert records(again) == everything(photo_root)
    assert fetcher_pid(meeting_place()) is None  # nobody has started another
    assert again.remote is not None
    assert again.remote.cached_bytes() == sum(file.stat().st_size for file in (photo_root / "full").glob("train-0*"))


def test_what_a_kill_leaves_is_looked_at_not_trusted(
    root_url: Url, photo_root: Path, kill_fetcher: Callable[[], bool]
) -> None:
    dataset = open_dataset(root_url, "full", "train")
    expected = everything(photo_root)
    for sample_id in range(0, len(dataset), 3):  # some records of each shard
        assert bytes(dataset.read(sample_id)) == expected[sample_id]
    kill_fetcher()
    parts = cached("train-*.part")
    assert parts
    with parts[0].open("r+b") as file:  # as a kill in the middle of writing, or a crash of the machine
        file.write(bytes(600))
    assert records(dataset) == expected  # by a new fetcher
    assert everything(root_url) == expected


def test_a_cache_that_was_deleted_is_empty_also_for_a_fetcher_that_knew_it(root_url: Url, photo_root: Path) -> None:
    fill_whole(open_dataset(root_url, "full", "train"))
    shutil.rmtree(cache_folder())
    assert everything(root_url) == everything(photo_root)


def test_damage_in_the_cache_is_fetched_again(
    root_url: Url, photo_root: Path, kill_fetcher: Callable[[], bool]
) -> None:
    fill_whole(open_dataset(root_url, "full", "train"))
    shard, cut, _ = cached("train-*-of-*")
    os.truncate(cut, 700)
    kill_fetcher()
    with shard.open("r+b") as file:
        file.seek(500)
        file.write(b"damage")
    assert everything(root_url) == everything(photo_root)
    assert shard.read_bytes() == (photo_root / "full" / shard.name).read_bytes()


def test_damage_in_the_store_is_one_error_that_names_url_shard_and_record(root_url: Url, photo_root: Path) -> None:
    shard = "full/train-00001-of-00003"
    content = bytearray((photo_root / shard).read_bytes())
    content[len(content) // 2] ^= 1
    open_store(root_url).write(shard, bytes(content))
    dataset, bad = open_dataset(root_url, "full", "train"), list[str]()
    for sample_id in range(len(dataset)):
        try:
            dataset.read(sample_id)
        except RecordError as error:
            bad.append(error.what)
    assert len(bad) == 1
    assert f"shard {root_url}/{shard}: the record at byte " in bad[0]
    assert "does not match its CRC-32C" in bad[0]
    assert not list(cached("train-00001-of-00003"))  # it is not whole


def test_a_missing_shard_is_one_error(root_url: Url) -> None:
    open_store(root_url).delete("full/train-00002-of-00003")
    dataset = open_dataset(root_url, "full", "train")
    with pytest.raises(StorageError, match=f"{root_url}/full/train-00002-of-00003"):
        records(dataset)


def test_a_dataset_that_is_prepared_again_is_another_one(root_url: Url) -> None:
    first = everything(root_url)
    store = open_store(root_url)
    manifest = json.loads(store.read("full/dataset.json"))
    manifest["made_by"]["seed"] = 17
    store.write("full/dataset.json", json.dumps(manifest).encode())
    assert everything(root_url) == first
    assert sorted(json.loads(file.read_text())["made_by"]["seed"] for file in cached("dataset.json")) == [0, 0, 17]


def test_too_small_a_cache_keeps_some_shards_and_streams_the_rest(
    root_url: Url, photo_root: Path, monkeypatch: pytest.MonkeyPatch, kill_fetcher: Callable[[], bool]
) -> None:
    sizes = sorted(file.stat().st_size for file in (photo_root / "full").glob("train-0*"))
    monkeypatch.setenv("IMAGESPRINT_CACHE_LIMIT", str(sizes[-1] + 40_000))
    expected = everything(photo_root)
    for _ in range(2):
        dataset = open_dataset(root_url, "full", "train")
        dataset.expect(np.arange(len(dataset)), anew=True)
        dataset.fill()
        places = dataset.places(np.arange(0, len(dataset), 2))  # of files of both kinds
        assert len(set(places.fds.tolist())) == 2
        assert records(dataset) == expected
        kept = cached("train-0*")
        assert len(kept) == 1
        wait_until(lambda: len(cached("train-*-of-00003")) == 1)
        kill_fetcher()


def test_a_full_disk_turns_the_rest_into_streaming(
    root_url: Url, photo_root: Path, kill_fetcher: Callable[[], bool]
) -> None:
    open_dataset(root_url, "full", "train").read(0)  # which has its shards' room reserved
    kill_fetcher()
    program = f"""
import resource
from imagesprint.records.dataset import open_dataset
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # of the fetcher, too: as a disk without space
dataset = open_dataset({str(root_url)!r}, "full", "train")
theirs = open_dataset({str(photo_root)!r}, "full", "train")
assert all(dataset.read(i) == theirs.read(i) for i in range(len(theirs)))
print(dataset.remote.take_notices())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout
        == f"['the disk of the cache {cache_folder()} is full: what it lacks is read from the store each time']\n"
    )
    assert cached("train-*.part")


def test_the_dataset_that_was_used_longest_ago_makes_room(
    s3: S3,
    photo_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_fetcher: Callable[[], bool],
    upload: Callable[[Path, Url], Url],
) -> None:
    size = sum(file.stat().st_size for file in (photo_root / "32").glob("train*"))
    monkeypatch.setenv("IMAGESPRINT_CACHE_LIMIT", str(2 * size + size // 2))  # that of two, and a part of a third
    urls = [upload(photo_root / "32", s3.url / str(number) / "32").parent for number in range(3)]
    for number, url in enumerate(urls):  # each another dataset
        store = open_store(url)
        text = store.read("32/dataset.json").decode()
        store.write("32/dataset.json", text.replace("china", f"china{number}").encode())
        assert everything(url, "32") == everything(photo_root, "32")
        kill_fetcher()  # one holds what it serves
    texts = [file.read_text() for file in cached("dataset.json")]
    assert sorted(name for name in ("china0", "china1", "china2") if any(name in text for text in texts)) == [
        "china1",
        "china2",
    ]


def test_what_is_no_root_is_said(s3: S3, root_url: Url, photo_root: Path) -> None:
    with pytest.raises(UsageError, match=f"{s3.url}/nothing holds no prepared dataset"):
        open_root(s3.url / "nothing")
    with pytest.raises(UsageError, match="is one variant"):
        open_root(root_url / "full")
    open_store(root_url).write("half/.parts/plan.json", b"{}")
    with pytest.raises(UsageError, match=f"{root_url}/half is not finished"):
        open_root(root_url / "half")
    with pytest.raises(UsageError, match="has no variant '64'"):
        open_dataset(root_url, "64", "train")
    open_store(root_url).write("full/dataset.json", b"{}")
    with pytest.raises(RecordError, match=f"{root_url}/full/dataset.json is damaged"):
        open_root(root_url)
    open_store(root_url).write("full/dataset.json", (photo_root / "full/dataset.json").read_bytes())
    open_store(root_url).write("full/train.index.npz", b"no index")
    with pytest.raises(RecordError, match=f"index {root_url}/full/train.index.npz does not match its checksum"):
        open_dataset(root_url, "full", "train")


def test_without_the_extra_a_url_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without/opendal.py").write_text("raise ImportError('No module named opendal')\n")
    path = os.pathsep.join([str(tmp_path / "without"), *sys.path])
    monkeypatch.setenv("PYTHONPATH", path)
    with pytest.raises(MissingPackageError, match="opendal") as caught:
        open_root("s3://bucket/root")
    assert "imagesprint[remote]" in caught.value.hint


def test_several_who_begin_at_the_same_time_share_one_fetcher(root_url: Url, photo_root: Path) -> None:
    expected = everything(photo_root)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(everything, [root_url] * 6):
            assert found == expected
    assert len(list(meeting_place().parent.glob(f"{meeting_place().stem}.sock"))) == 1


def test_a_killed_fetcher_is_started_again(root_url: Url, photo_root: Path, kill_fetcher: Callable[[], bool]) -> None:
    expected = everything(photo_root)
    dataset = open_dataset(root_url, "full", "train")
    for sample_id in range(len(dataset)):
        assert bytes(dataset.read(sample_id)) == expected[sample_id]
        if sample_id % 20 == 10:
            assert kill_fetcher()


def test_a_fetcher_that_hangs_is_killed_and_started_again(
    root_url: Url, photo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(root_url, "full", "train")
    dataset.read(0)
    dataset.close()
    monkeypatch.setattr(client, "SILENCE_SECONDS", 2.0)
    dataset.read(1)
    pid = fetcher_pid(meeting_place())
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert records(dataset) == everything(photo_root)
    assert fetcher_pid(meeting_place()) != pid


def test_a_fetcher_that_always_ends_is_one_error(root_url: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagesprint.records.remote.meeting.MODULE", "imagesprint.records.remote.nowhere")
    with pytest.raises(StorageError, match=r"ended 4 times: .*No module named imagesprint.records.remote.nowhere"):
        open_root(root_url)


def test_the_fetcher_ends_a_while_after_the_last_who_asks(root_url: Url) -> None:
    program = f"""
from imagesprint.records.dataset import open_dataset
from imagesprint.storage.url import Url
dataset = open_dataset(Url({root_url.text!r}), "full", "train")
dataset.read(0)
print("read", flush=True)
input()
"""
    asks = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert asks.stdout is not None
    assert asks.stdout.readline() == "read\n"
    place = meeting_place()
    assert fetcher_pid(place) is not None
    asks.kill()
    asks.communicate()
    wait_until(lambda: fetcher_pid(place) is None)
    assert not place.exists()


def test_the_fetcher_ends_where_the_folder_of_its_socket_is_gone(tmp_path: Path) -> None:
    place = tmp_path / "gone" / "fetcher.sock"
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        words = [sys.executable, "-m", "imagesprint.records.remote.fetcher", str(listener.fileno()), str(place)]
        fetcher = subprocess.Popen(words, pass_fds=[listener.fileno()])
    shutil.rmtree(place.parent)
    assert fetcher.wait(60) == 0


def test_a_pickled_dataset_and_one_after_a_fork_read_on(root_url: Url, photo_root: Path) -> None:
    expected = everything(photo_root)
    dataset = open_dataset(root_url, "full", "train")
    dataset.read(0)
    copy = pickle.loads(pickle.dumps(dataset))
    assert records(copy) == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(dataset.read_record, range(20))[7].encoded == expected[7]
    assert records(dataset) == expected


def test_verify_finds_in_the_store_what_it_finds_on_the_disk(root_url: Url, photo_root: Path) -> None:
    sound = verify(root_url, Console(quiet=True))
    assert sound.is_sound
    assert sound.splits == verify(photo_root, Console(quiet=True)).splits
    assert verify(root_url / "32", Console(quiet=True)).is_sound
    assert not [file for file in cached("*/*") if file.name.startswith("train")]  # copies are gone
    store = open_store(root_url)
    store.delete("32/train-00000-of-00003")
    store.write("full/train-00001-of-00003", b"short")
    problems = verify(root_url, Console(quiet=True)).problems
    assert {(problem.variant, problem.shard) for problem in problems} == {
        ("full", "train-00001-of-00003"),
        ("32", "train-00000-of-00003"),
    }
    assert all(str(root_url) in problem.what for problem in problems if "cannot be read" in problem.what)
    with pytest.raises(UsageError, match="holds no prepared dataset"):
        verify(root_url / "nothing", Console(quiet=True))
