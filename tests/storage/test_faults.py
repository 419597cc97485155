"""What a store does while the network or the server fails."""

import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fault_proxy import FaultProxy, Faults
from imagesprint.errors import StorageError
from imagesprint.storage import attempts, opendal_store
from imagesprint.storage.store import PIECE, open_store
from s3_server import S3

SECONDS = 0.5  # that a request is given here
PATIENCE = 1.5


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all limits of time be short."""
    monkeypatch.setattr(attempts, "PATIENCE", PATIENCE)
    monkeypatch.setattr(opendal_store, "ATTEMPT", SECONDS)
    monkeypatch.setattr(opendal_store, "LONG_ATTEMPT", SECONDS)
    monkeypatch.setattr(opendal_store, "LONG_RETRIES", 1)


def test_what_passes_is_tried_again(s3: S3, fault_proxy: FaultProxy, tmp_path: Path) -> None:
    store = open_store(s3.url)
    data = os.urandom(1_000_000)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2 * PIECE + 5))
    for faults in (
        Faults(error_share=0.2),
        Faults(error_share=0.2, error=(500, "InternalError")),
        Faults(truncate_share=0.2),
        Faults(reset_share=0.2),
    ):
        fault_proxy.faults = faults
        for number in range(4):
            store.write(f"file{number}", data)
            assert store.read(f"file{number}", 1000, 500_000) == data[1000:501_000]
        store.upload(source, "large")
        store.download("large", tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == source.read_bytes()
        assert len(list(store.list())) == 5
        store.delete("large")


def test_who_created_it_knows_although_the_answer_was_lost(s3: S3, fault_proxy: FaultProxy) -> None:
    store = open_store(s3.url)
    assert store.create("first", b"x")
    fault_proxy.faults = Faults(reset_share=1.0)
    timer = threading.Timer(0.3, lambda: setattr(fault_proxy, "faults", Faults()))
    timer.start()
    assert store.create("mine", b"of this writer")
    assert not store.create("first", b"of this writer")
    timer.join()


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    ("faults", "why"),
    [
        (Faults(hang=True), "does not answer"),
        (Faults(latency=60), "does not answer"),
        (Faults(refuse=True), "refuses connections"),
        (Faults(error_share=1), "the store is overloaded"),
        (Faults(truncate_share=1), "the connection to 127.0.0.1:"),
        (Faults(reset_share=1), "the connection to 127.0.0.1:"),
    ],
)
def test_what_does_not_pass_ends_in_time(s3: S3, fault_proxy: FaultProxy, faults: Faults, why: str) -> None:
    open_store(s3.url).write("file", bytes(100_000))
    fault_proxy.faults = faults
    time.sleep(0.1)
    begun = time.monotonic()
    with pytest.raises(StorageError) as caught:
        open_store(s3.url).read("file", 0, 100_000)
    assert f"cannot read {s3.url}/file: " in caught.value.what
    assert why in caught.value.what
    assert time.monotonic() - begun < PATIENCE + SECONDS + 0.5


@pytest.mark.usefixtures("_impatient")
def test_lists_and_uploads_end_in_time(s3: S3, fault_proxy: FaultProxy, tmp_path: Path) -> None:
    store = open_store(s3.url)
    store.write("file", b"before")
    source = tmp_path / "source"
    source.write_bytes(bytes(2 * PIECE))
    for faults, why in ((Faults(hang=True), "does not answer"), (Faults(error_share=1), "the store is overloaded")):
        fault_proxy.faults = faults
        begun = time.monotonic()
        with pytest.raises(StorageError, match=why):
            store.upload(source, "file")
        with pytest.raises(StorageError, match=why):
            list(store.list())
        assert time.monotonic() - begun < 2 * SECONDS + 1.0 + PATIENCE + SECONDS + 1.0
    fault_proxy.faults = Faults()
    assert store.read("file") == b"before"


def test_a_slow_line_is_no_failure(s3: S3, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opendal_store, "ATTEMPT", SECONDS)
    store = open_store(s3.url)
    store.write("file", bytes(1_000_000))
    fault_proxy.faults = Faults(bytes_per_second=700_000)
    assert len(store.read("file")) == 1_000_000


def test_a_file_that_changes_is_not_read_as_two(s3: S3) -> None:
    store = open_store(s3.url)
    store.write("file", b"old")
    found = store.stat("file")
    assert found is not None
    store.write("file", b"new")
    with pytest.raises(StorageError, match="it changed while it was read"):
        store.read("file", 0, 3, found.etag)


def test_a_list_of_which_pages_fail_is_whole(s3: S3, fault_proxy: FaultProxy) -> None:
    store = open_store(s3.url)
    names = {f"{number:04}" for number in range(1010)}  # S3 gives 1,000 at once
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.write(name, b""), names))
    for faults in (Faults(error_share=0.5), Faults(truncate_share=0.5), Faults(reset_share=0.5)):
        fault_proxy.faults = faults
        found = [stored.key for stored in store.list()]
        assert len(found) == len(names)
        assert set(found) == names


def test_sizes_come_with_the_list(s3: S3, fault_proxy: FaultProxy) -> None:
    store = open_store(s3.url)
    for number in range(20):
        store.write(f"file{number}", bytes(number))
    fault_proxy.requests.clear()
    assert sum(stored.num_bytes for stored in store.list()) == sum(range(20))
    assert len(fault_proxy.requests) == 1


def test_after_a_fork_it_is_refused(s3: S3) -> None:
    store = open_store(s3.url)
    store.write("file", b"x")
    uses: tuple[Callable[[], bytes], ...] = (lambda: store.read("file"), lambda: open_store(s3.url).read("file"))
    for use in uses:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                use()
            except StorageError as error:
                os.write(writer, error.what.encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as said:
            assert "this process was forked from one that uses a store" in said.read()
        os.waitpid(pid, 0)


def test_a_host_that_is_not_there(monkeypatch: pytest.MonkeyPatch, s3: S3) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://nowhere.invalid:9000")
    monkeypatch.setattr(attempts, "PATIENCE", 0.0)
    with pytest.raises(StorageError, match=r"the host nowhere\.invalid:9000 is not found"):
        open_store(s3.url).read("file")


def test_a_full_listening_queue_ends_in_time(monkeypatch: pytest.MonkeyPatch, s3: S3) -> None:
    """Connections that are never accepted."""
    monkeypatch.setattr(attempts, "PATIENCE", 0.0)
    monkeypatch.setattr(opendal_store, "ATTEMPT", SECONDS)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        waiting = [socket.create_connection(listener.getsockname()) for _ in range(1)]
        with pytest.raises(StorageError, match="does not answer"):
            open_store(s3.url).read("file")
        for each in waiting:
            each.close()
