"""The fetcher: `python -m imagesprint.records.remote.fetcher LISTENER PLACE`, begun by the first who needs it.

LISTENER is the descriptor of a socket that listens at PLACE (`meeting.py`). Each who connects is served by a thread, in
the order in which it asks; `client.py` is the other side. It ends by itself a while after the last of them is gone,
whatever ended that one, and keeps nothing on the disk but the cache.
"""

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from imagesprint.errors import FileError, ImagesprintError
from imagesprint.records.remote.downloads import BEAT_SECONDS, Downloads
from imagesprint.records.remote.meeting import locked
from imagesprint.records.remote.metadata import find_variants, hold_index, hold_variant
from imagesprint.records.remote.shards import CachedSplit
from imagesprint.records.remote.wants import Wants
from imagesprint.records.remote.wire import WAITING, GoneError, Message, Wire, of_error
from imagesprint.storage.cache import CacheHold
from imagesprint.storage.store import Store, open_store
from imagesprint.storage.url import Url

IDLE_SECONDS: Final = 5.0  # without anybody: long enough for the ranks of a command that has only looked at its ROOT


class Fetcher:
    """What all connections share: stores and splits, each opened once, and the downloads."""

    def __init__(self) -> None:
        self.downloads = Downloads()
        self._lock = threading.Lock()
        self._stores: dict[str, Store] = {}
        self._splits: dict[tuple[str, str, str], CachedSplit] = {}
        self._served: set[socket.socket] = set()
        self._idle_since = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """How long nobody has been connected."""
        with self._lock:
            return 0.0 if self._served else time.monotonic() - self._idle_since

    def serve(self, connection: socket.socket) -> None:
        """Serve who connected, in a thread of its own."""
        with self._lock:
            self._served.add(connection)
        threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        client = Client(self, Wire(connection))
        try:
            with suppress(GoneError):
                client.serve()
        finally:
            client.close()
            connection.close()
            with self._lock:
                self._served.discard(connection)
                self._idle_since = time.monotonic()

    def store(self, url: str) -> Store:
        """Return the store at `url`."""
        with self._lock:
            if url not in self._stores:
                self._stores[url] = open_store(Url(url))
            return self._stores[url]

    def split(self, url: str, folder: str, split: str) -> CachedSplit:
        """Return a split of a variant, whose dataset.json and index are in the cache."""
        store, key = self.store(url), (url, folder, split)
        hold_index(store, Path(folder), split)
        with self._lock:
            if key not in self._splits or not self._splits[key].lease.is_valid:  # a cache that was deleted is empty
                self._splits[key] = CachedSplit(store, Path(folder), split)
            return self._splits[key]


class Client:
    """Who is connected by `wire`: a Root that asks what there is, or a Dataset, which wants records of one split."""

    def __init__(self, fetcher: Fetcher, wire: Wire) -> None:
        self._fetcher, self._downloads, self._wire = fetcher, fetcher.downloads, wire
        self._wants: Wants | None = None
        self._told_whole = np.empty(0, np.bool_)
        self._told_notices = 0
        self._leases: list[CacheHold] = []

    def serve(self) -> None:
        """Answer until the other side is gone: then GoneError."""
        kinds: dict[str, Callable[[Message, bytearray], None]] = {
            "find": self._find,
            "variant": self._variant,
            "index": self._index,
            "split": self._split,
            "expect": self._expect,
            "fill": self._fill,
            "need": self._need,
            "renew": self._renew,
            "counts": self._counts,
        }
        while True:
            message, body = self._wire.receive()
            try:
                kinds[next(iter(message))](message, body)
            except ImagesprintError as error:
                self._wire.send(of_error(error))

    def close(self) -> None:
        """Want nothing more."""
        if self._wants is not None:
            self._downloads.remove(self._wants)

    def _find(self, message: Message, _: bytearray) -> None:
        with self._beating():
            found = find_variants(self._fetcher.store(message["find"]))
        self._send_folders(found)

    def _variant(self, message: Message, _: bytearray) -> None:
        with self._beating():
            found = {message["variant"]: hold_variant(self._fetcher.store(message["variant"]))}
        self._send_folders(found)

    def _send_folders(self, found: dict[str, CacheHold]) -> None:
        self._leases += found.values()  # until the other side has its own
        self._wire.send({"folders": {name: str(lease.folder) for name, lease in found.items()}})

    def _index(self, message: Message, _: bytearray) -> None:
        with self._beating():
            hold_index(self._fetcher.store(message["url"]), Path(message["folder"]), message["index"])
        self._wire.send({"folders": {}})

    def _split(self, message: Message, _: bytearray) -> None:
        with self._beating():
            split = self._fetcher.split(message["url"], message["folder"], message["split"])
        self._wants = Wants(split)
        self._told_whole = np.zeros(len(split.names), np.bool_)
        self._downloads.add(self._wants)
        self._wire.send(self._news())

    def _expect(self, message: Message, body: bytearray) -> None:
        self._downloads.expect(self._wanting(), np.frombuffer(body, np.int64), bool(message.get("anew")))

    def _fill(self, _: Message, __: bytearray) -> None:
        self._downloads.fill(self._wanting().split)

    def _need(self, _: Message, body: bytearray) -> None:
        sample_ids = np.frombuffer(body, np.int64)
        taken = self._downloads.await_all(self._wanting(), sample_ids, self._beat)
        rows = [row for row, sample_id in enumerate(sample_ids.tolist()) if sample_id in taken]
        self._wire.send(self._news() | {"streamed": rows}, b"".join(taken[int(sample_ids[row])] for row in rows))

    def _renew(self, _: Message, body: bytearray) -> None:
        split = self._wanting().split
        with self._beating():
            sound = [self._downloads.renew(split, sample_id) for sample_id in np.frombuffer(body, np.int64).tolist()]
        self._wire.send({"sound": sound})

    def _counts(self, _: Message, __: bytearray) -> None:
        self._wire.send({"counts": vars(self._downloads.counts)})

    def _wanting(self) -> Wants:
        assert self._wants is not None  # what `client.py` sends first
        return self._wants

    def _news(self) -> dict[str, Any]:
        """Which shards have become whole since the last time, and what people should hear of."""
        whole = self._wanting().split.whole
        new = np.flatnonzero(whole & ~self._told_whole)
        self._told_whole[new] = True
        notices = self._downloads.notices[self._told_notices :]
        self._told_notices += len(notices)
        return {"whole": new.tolist(), "notices": notices}

    def _beat(self) -> None:
        self._wire.send({WAITING: True})

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Give signs of life to who waits for what is done inside."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(BEAT_SECONDS):
                with suppress(GoneError):
                    self._beat()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def main(words: list[str]) -> None:
    """Serve who connects to LISTENER, until nobody has for a while."""
    listener, place = socket.socket(fileno=int(words[0])), Path(words[1])
    for number in (signal.SIGINT, signal.SIGHUP):  # of a terminal that is not ours
        signal.signal(number, signal.SIG_IGN)
    fetcher = Fetcher()
    while True:
        ready, _, _ = select.select([listener], [], [], IDLE_SECONDS / 5)
        if ready:
            fetcher.serve(listener.accept()[0])
        elif fetcher.idle_seconds > IDLE_SECONDS and _withdraw(listener, place):
            os._exit(0)  # whatever threads are at: half a piece in the cache is none


def _withdraw(listener: socket.socket, place: Path) -> bool:
    """Stop listening, unless somebody has just come; whether that was done."""
    try:
        with locked(place, wait=False):
            if select.select([listener], [], [], 0)[0]:
                return False
            with suppress(OSError):
                place.unlink()
            listener.close()
            return True
    except FileError:  # somebody is starting one in our place, or tries whether we are there; or the folder is gone
        return not place.parent.exists()


if __name__ == "__main__":
    main(sys.argv[1:])
