"""Files of weights at a URL, kept in the cache by their content."""

import threading
from pathlib import Path

import pytest

from imagesprint.checkpoints import cached as module
from imagesprint.checkpoints.cached import cached, last_of, last_version
from imagesprint.errors import CheckpointError, UsageError
from imagesprint.storage.store import open_store
from s3_server import S3


def copies(tmp_path: Path) -> list[Path]:
    return [file for file in (tmp_path / "cache" / "models").glob("*/*") if file.name != ".lock"]


def test_a_file_is_brought_once_and_anew_when_it_changed(s3: S3, tmp_path: Path) -> None:
    store, url = open_store(s3.url), s3.url / "x.pt"
    store.write("x.pt", b"first")
    for _ in range(2):
        with cached(url) as file:
            assert (file.name, file.read_bytes()) == ("x.pt", b"first")
            written = file.stat().st_mtime_ns
    (copy,) = copies(tmp_path)
    assert copy.stat().st_mtime_ns == written
    store.write("x.pt", b"other")
    with cached(url) as file:
        assert file.read_bytes() == b"other"
    with pytest.raises(UsageError, match=f"there is no file {s3.url}/none.pt"), cached(s3.url / "none.pt"):
        pass


def test_errors_speak_of_the_url(s3: S3) -> None:
    open_store(s3.url).write("x.pt", b"x")
    with pytest.raises(CheckpointError, match=f"{s3.url}/x.pt is none"), cached(s3.url / "x.pt") as file:
        raise CheckpointError(f"{file} is none", f"copy {file} again")


def test_several_that_want_it_at_once_bring_it_once(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(s3.url).write("x.pt", b"x" * 100_000)
    rooms: list[int] = []
    monkeypatch.setattr(module, "make_room", lambda _, wanted: rooms.append(wanted))

    def use() -> None:
        with cached(s3.url / "x.pt") as file:
            assert file.stat().st_size == 100_000

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rooms == [100_000]
    assert len(copies(tmp_path)) == 1


def test_the_limit_of_the_cache_holds_for_what_is_not_in_use(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGESPRINT_CACHE_LIMIT", "250kB")
    store = open_store(s3.url)
    for name in ("a.pt", "b.pt", "c.pt"):
        store.write(name, name.encode() * 25_000)
        with cached(s3.url / name):
            pass
    assert sorted(file.name for file in copies(tmp_path)) == ["b.pt", "c.pt"]


def test_the_last_checkpoint_of_a_run(s3: S3) -> None:
    store = open_store(s3.url)
    with pytest.raises(UsageError, match="holds no checkpoints"):
        last_of(s3.url)
    for name in ("step-0000004.pt", "step-0000012.pt", "step-0000020.pt.damaged"):
        store.write(f"checkpoints/{name}", b"x")
    last = s3.url / "checkpoints" / "step-0000012.pt"
    assert last_of(s3.url) == last_of(last) == last
    before = last_version(s3.url)
    assert before == last_version(s3.url) == last_version(last)
    store.write("checkpoints/step-0000012.pt", b"y")
    assert last_version(s3.url)[0] == last
    assert last_version(s3.url) != before
