"""What is of object stores alone: HTTP, which can only be read, and stores that do not do as they are told."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imagesprint.errors import MissingPackageError, StorageError
from imagesprint.storage.store import PIECE, open_store
from imagesprint.storage.url import Url, parse_place

FILES = {"/data/a%20b.bin": os.urandom(300_000), "/data/large": os.urandom(2 * PIECE + 7), "/data/empty": b""}


class _Files(BaseHTTPRequestHandler):
    """Serves FILES, in ranges, too; below /dumb/ HEAD gives no length. PUT always works, and does nothing."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, has_body: bool) -> None:
        is_dumb = self.path.startswith("/dumb/")
        data = FILES.get(self.path.removeprefix("/dumb"))
        if data is None:
            return self.send_error(404)
        status, start, end = 200, 0, len(data)
        if "Range" in self.headers and data:
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            status, start, end = 206, int(first), min(int(last or end) + 1, end)
            if start >= len(data):
                return self.send_error(416)
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        if has_body or not is_dumb:
            self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if has_body:
            self.wfile.write(data[start:end])
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    """The address of a web server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("folder", ["data", "dumb/data"])
def test_http_is_read(web: str, tmp_path: Path, folder: str) -> None:
    place = parse_place(f"{web}/{folder}")
    assert isinstance(place, Url)
    store = open_store(place)
    for key, data in FILES.items():
        name = key.rpartition("/")[2].replace("%20", " ")
        found = store.stat(name)
        assert found is not None
        assert found.num_bytes == len(data)
        store.download(name, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == data
    assert open_store(place / "a%20b.bin").read("", 1000, 50) == FILES["/data/a%20b.bin"][1000:1050]
    assert store.stat("none") is None


def test_http_is_not_written_or_listed(web: str, tmp_path: Path) -> None:
    store = open_store(Url(f"{web}/data"))
    (tmp_path / "file").write_bytes(bytes(2 * PIECE))
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.write("file", b"x"),
        lambda: store.upload(tmp_path / "file", "file"),
        lambda: store.create("file", b"x"),
        lambda: store.delete("file"),
    )
    for call in calls:
        with pytest.raises(StorageError, match="this store cannot do that"):
            call()
    for call in (lambda: list(store.list()), store.folders):
        with pytest.raises(StorageError, match="HTTP has no lists of files"):
            call()


def test_a_store_that_writes_over_what_is_there_is_found_out(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ENDPOINT_URL", web), ("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("REGION", "z")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with pytest.raises(StorageError, match="writes over a file that is there although it is told not to"):
        open_store(Url("s3://bucket/run")).create("lock", b"mine")


@pytest.mark.parametrize(("url", "module"), [("s3://bucket/x", "opendal"), ("hdfs://host:1/x", "hdfs_native")])
def test_without_the_extra_a_url_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, url: str, module: str) -> None:
    for name in ("opendal_store", "object_store", "hdfs_store"):
        monkeypatch.delitem(sys.modules, f"imagesprint.storage.{name}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError) as caught:
        open_store(Url(url))
    assert caught.value.hint == "pip install 'imagesprint[remote]'"
