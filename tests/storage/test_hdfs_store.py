"""What is of HDFS alone: NameNodes that are away, and names that only its NameNode can give."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hdfs_server import Hdfs, HdfsServer
from imagesprint.errors import StorageError, UsageError
from imagesprint.storage import attempts, hdfs_store, opendal_store
from imagesprint.storage.hdfs_store import _namenodes
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Url


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where connections are accepted, and never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def _configure(folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    rows = "".join(
        f"<property><name>{name}</name><value>{value}</value></property>" for name, value in settings.items()
    )
    (folder / "core-site.xml").write_text(f"<configuration>{rows}</configuration>")
    monkeypatch.setenv("HADOOP_CONF_DIR", str(folder))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("hdfs://127.0.0.1:1/x", "127.0.0.1:1 refuses connections"),
        ("hdfs://nowhere.invalid:9000/x", "the host nowhere.invalid:9000 is not found"),
        ("hdfs://nowhere.invalid/x", "the host nowhere.invalid is not found"),
    ],
)
def test_a_namenode_that_is_not_there(monkeypatch: pytest.MonkeyPatch, url: str, why: str) -> None:
    monkeypatch.setattr(attempts, "PATIENCE", 0.5)
    with pytest.raises(StorageError) as caught:
        open_store(Url(url)).read("file")
    assert caught.value.what == f"cannot read {url}/file: {why}"


def test_a_namenode_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    monkeypatch.setattr(attempts, "PATIENCE", 0.5)
    monkeypatch.setattr(opendal_store, "ATTEMPT", 0.3)
    store = open_store(Url(f"hdfs://{silent}/x"))
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.read("file"),
        lambda: store.stat("file"),
        lambda: store.write("file", b"x"),
        lambda: list(store.list()),
        store.folders,
        lambda: store.delete("file"),
    )
    for call in calls:
        begun = time.monotonic()
        with pytest.raises(StorageError, match=f"{silent} does not answer"):
            call()
        assert time.monotonic() - begun < 4


def test_where_namenodes_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    monkeypatch.delenv("HADOOP_HOME", raising=False)
    assert _namenodes(Url("hdfs://host:9000/x")) == ["host:9000"]
    assert _namenodes(Url("hdfs://host/x")) == ["host:8020"]
    with pytest.raises(UsageError, match="hdfs:///x names no NameNode"):
        _namenodes(Url("hdfs:///x"))
    settings = {
        "fs.defaultFS": "hdfs://ns/",
        "dfs.ha.namenodes.ns": "a, b",
        "dfs.namenode.rpc-address.ns.a": "one:1",
        "dfs.namenode.rpc-address.ns.b": "two:2",
    }
    _configure(tmp_path, monkeypatch, settings)
    assert _namenodes(Url("hdfs:///x")) == ["one:1", "two:2"]
    assert _namenodes(Url("hdfs://ns/x")) == ["one:1", "two:2"]
    assert _namenodes(Url("hdfs://other/x")) == ["other:8020"]


@pytest.mark.hdfs
def test_another_namenode_takes_over(hdfs: Hdfs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, silent: str) -> None:
    monkeypatch.setattr(opendal_store, "ATTEMPT", 1.0)
    address = hdfs.url.host
    for first in ("127.0.0.1:1", silent):
        settings = {
            "dfs.ha.namenodes.ns": "a,b",
            "dfs.namenode.rpc-address.ns.a": first,
            "dfs.namenode.rpc-address.ns.b": address,
        }
        _configure(tmp_path, monkeypatch, settings)
        store = open_store(Url(f"hdfs://ns/{hdfs.url.key}"))
        store.write("file", b"x")
        assert store.read("file") == b"x"


@pytest.mark.hdfs
def test_no_permission(hdfs: Hdfs, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(hdfs.url).write("file", b"x")
    monkeypatch.setenv("HADOOP_USER_NAME", "somebody")
    store = open_store(hdfs.url)
    assert store.read("file") == b"x"
    calls: tuple[Callable[[], None], ...] = (lambda: store.write("file", b"y"), lambda: store.delete("file"))
    for call in calls:
        with pytest.raises(StorageError, match="no permission") as caught:
            call()
        assert "HADOOP_USER_NAME" in caught.value.hint
        assert "\n" not in caught.value.what


@pytest.mark.hdfs
def test_nobody_reads_half_of_a_file(hdfs: Hdfs) -> None:
    store = open_store(hdfs.url)
    contents = [bytes([number]) * 200_000 for number in range(6)]
    store.write("file", contents[0])
    is_over = threading.Event()

    def read() -> int:
        count = 0
        mine = open_store(hdfs.url)
        while not is_over.is_set():
            assert mine.read("file") in contents
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        counts = [pool.submit(read) for _ in range(2)]
        try:
            for content in contents:
                store.write("file", content)
        finally:
            is_over.set()
        assert all(each.result() > 10 for each in counts)
    assert [stored.key for stored in store.list()] == ["file"]


@pytest.mark.hdfs
def test_a_folder_is_not_deleted(hdfs: Hdfs) -> None:
    store = open_store(hdfs.url)
    store.write("folder/file", b"x")
    store.delete("folder")
    assert store.read("folder/file") == b"x"


@pytest.mark.hdfs
def test_what_a_killed_writer_left_is_not_listed(hdfs: Hdfs) -> None:
    store = open_store(hdfs.url)
    store.write(f".file.0123{hdfs_store._UNFINISHED}", b"half")
    assert list(store.list()) == []


@pytest.mark.remote
@pytest.mark.hdfs
def test_servers_that_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = HdfsServer(tmp_path / "own")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(Url(f"{server.url}/x"))
    store.write("file", b"x")
    server.datanode.kill()
    with monkeypatch.context() as patched:
        patched.setattr(attempts, "PATIENCE", 0.5)
        with pytest.raises(StorageError, match=r"no DataNode answers|refuses connections"):
            store.read("file")
    server.datanode.start()
    assert store.read("file") == b"x"
    server.namenode.kill()
    timer = threading.Timer(3.0, server.namenode.start)
    timer.start()
    assert store.read("file") == b"x"
    store.write("file", b"y")
    assert store.read("file") == b"y"
    timer.join()
    server.kill()
