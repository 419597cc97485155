"""What a Root and a Dataset of a URL ask the node's fetcher for."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from imagesprint.errors import StorageError
from imagesprint.files import naming
from imagesprint.records.index import Index
from imagesprint.records.manifest import Manifest
from imagesprint.records.remote.meeting import connect, kill, last_words, meeting_place
from imagesprint.records.remote.wire import ERROR, WAITING, GoneError, Message, SilentError, Wire, to_error
from imagesprint.records.tfrecord import FRAME_BYTES, file_crc
from imagesprint.storage.cache import CacheHold, size_on_disk
from imagesprint.storage.url import Url

PARTIAL: Final = ".part"  # what is behind the name of a shard in the cache until all of its records are there
SILENCE_SECONDS: Final = 60.0  # without a word, which comes every five while it works, a fetcher counts as hung
TRIES: Final = 4  # fetchers that may end in the middle of one request before that is an error
_KEPT_WINDOWS: Final = 2  # what a new fetcher is told of what its predecessor was to expect

SampleIds = npt.NDArray[np.int64]


class Connection:
    """A connection to the fetcher, begun when first used, again after a fork, and again when the fetcher is gone.

    `greet` is called with each new one. Any thread may ask; they take turns.
    """

    def __init__(self, url: Url, greet: Callable[[Wire], None]) -> None:
        self._url, self._greet = url, greet
        self._begin()

    def _begin(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._wire: Wire | None = None

    def ask(self, message: Message, body: bytes = b"") -> tuple[Message, bytearray]:
        """Return the answer and its bytes. Raises the error that is the answer, StorageError where none comes."""
        if os.getpid() != self._pid:  # forked: the connection, and perhaps a lock that was held, are the parent's
            self._begin()
        with self._lock:
            for number in range(TRIES):
                time.sleep(0.1 * number)
                try:
                    wire = self._opened()
                    wire.send(message, body)
                    return answer(wire)
                except GoneError as error:
                    self._drop(is_hung=isinstance(error, SilentError))
        words = last_words(meeting_place())
        raise StorageError(
            f"the process that fetches from {self._url} ended {TRIES} times{words and f': {words}'}",
            "see to this machine's memory, and whether something kills its processes",
        )

    def tell(self, message: Message, body: bytes = b"") -> None:
        """Send what has no answer. Where it does not arrive, `greet` must make up for it."""
        if os.getpid() != self._pid:
            self._begin()
        with self._lock:
            try:
                self._opened().send(message, body)
            except GoneError as error:
                self._drop(is_hung=isinstance(error, SilentError))

    def close(self) -> None:
        """End the connection; the next request begins another."""
        if os.getpid() == self._pid and self._wire is not None:
            self._wire.close()
            self._wire = None

    def _opened(self) -> Wire:
        if self._wire is None:
            connection = connect()
            connection.settimeout(SILENCE_SECONDS)
            wire = Wire(connection)
            try:
                self._greet(wire)
            except BaseException:
                wire.close()
                raise
            self._wire = wire
        return self._wire

    def _drop(self, is_hung: bool) -> None:
        if is_hung:
            kill(meeting_place())
        self.close()


def answer(wire: Wire) -> tuple[Message, bytearray]:
    """Return the next answer and its bytes; raises the error that it is, GoneError."""
    while True:
        message, body = wire.receive()
        if ERROR in message:
            raise to_error(message)
        if WAITING not in message:
            return message, body


def find_variants(url: Url) -> dict[str, CacheHold]:
    """Return the variants of the ROOT at `url`, by name, with the folders of the cache that hold their dataset.json.

    Raises what `open_root` does, and StorageError.
    """
    return _ask_once(url, {"find": str(url)})


def hold_variant(url: Url) -> CacheHold:
    """Return the cache's folder with dataset.json of the variant at `url`. Raises RecordError, StorageError."""
    return _ask_once(url, {"variant": str(url)})[str(url)]


def hold_index(url: Url, folder: Path, manifest: Manifest, split: str) -> None:
    """Have the index of a split of the variant at `url` in the cache's folder. Raises RecordError, StorageError."""
    path = folder / manifest.splits[split].index
    if not path.is_file() or file_crc(path) != manifest.splits[split].index_crc32c:
        _ask_once(url, {"index": split, "url": str(url), "folder": str(folder)})


def _ask_once(url: Url, message: Message) -> dict[str, CacheHold]:
    """Ask by a connection of its own; the folders of the answer are held before it ends, as the fetcher does until."""
    connection = Connection(url, lambda _: None)
    try:
        return {name: CacheHold(Path(folder)) for name, folder in connection.ask(message)[0]["folders"].items()}
    finally:
        connection.close()


@dataclass(eq=False)
class Streamed:
    """Records that no shard of the cache has: those of `rows` lie at `offsets` of the file `fd`, until this is gone."""

    rows: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    fd: int
    _free: list[int]

    def __del__(self) -> None:
        self._free.append(self.fd)


class RemoteSplit:
    """What a Dataset of the variant at `url` needs to be there; `folder` is the variant's in the cache.

    Any thread may call it, also after a fork. While nothing is missing, no call costs more than a look at a table.
    """

    def __init__(self, url: Url, folder: Path, split: str, index: Index) -> None:
        self.waited = 0.0  # seconds, for what was not there yet
        self._url, self._folder, self._split = url, folder, split
        self._names = index.shard_names
        self._shard = index.shard
        self._sizes = index.length.astype(np.int64) + FRAME_BYTES
        self._is_whole = np.array([size_of(folder / name) for name in self._names], np.int64) == index.shard_sizes
        self._expected: deque[bytes] = deque(maxlen=_KEPT_WINDOWS)
        self._fills = False
        self._notices: list[str] = []
        self._free: list[int] = []  # memory files that nobody reads from
        self._pid = os.getpid()
        self._connection = Connection(url, self._greet)

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()
            for fd in self._free:
                os.close(fd)

    def _greet(self, wire: Wire) -> None:
        """Tell a fetcher what is wanted here, a new one also what the former did not live to fetch."""
        wire.send({"split": self._split, "url": str(self._url), "folder": str(self._folder)})
        self._note(answer(wire)[0])
        if self._fills:
            wire.send({"fill": True})
        for ids in tuple(self._expected):
            wire.send({"expect": True}, ids)

    @property
    def is_whole(self) -> bool:
        """Whether every shard is in the cache."""
        return bool(self._is_whole.all())

    def expect(self, sample_ids: SampleIds, anew: bool) -> None:
        """Have these records come, in this order, after those that were expected before; `anew`: in their place."""
        if self.is_whole:
            return
        if anew:
            self._expected.clear()
        ids = np.ascontiguousarray(sample_ids, np.int64).tobytes()
        self._connection.tell({"expect": True, "anew": anew}, ids)
        self._expected.append(ids)

    def fill(self) -> None:
        """Have the whole split come, beside what is expected and after the splits that were to come before."""
        if not self.is_whole:
            self._connection.tell({"fill": True})
            self._fills = True

    def need(self, sample_ids: SampleIds) -> Streamed | None:
        """Wait until these records are there: in the cache, but for those in the answer. Raises StorageError."""
        if self._is_whole[self._shard[sample_ids]].all():
            return None
        began = time.perf_counter()
        message, body = self._connection.ask({"need": True}, np.ascontiguousarray(sample_ids, np.int64).tobytes())
        self._note(message)
        rows = np.array(message["streamed"], np.int64)
        found = self._streamed(rows, self._sizes[sample_ids[rows]], body) if len(rows) else None
        self.waited += time.perf_counter() - began
        return found

    def renew(self, sample_ids: SampleIds) -> npt.NDArray[np.bool_]:
        """Fetch damaged records once more; which of them are sound now. Raises StorageError."""
        message, _ = self._connection.ask({"renew": True}, np.ascontiguousarray(sample_ids, np.int64).tobytes())
        return np.array(message["sound"], np.bool_)

    def open_shard(self, number: int) -> int:
        """Return a descriptor of a shard in the cache, whole or not. Raises OSError."""
        path = self._folder / self._names[number]
        for place in (path, path.with_name(path.name + PARTIAL), path):  # it may be finished between the two
            with suppress(FileNotFoundError):
                return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        raise FileNotFoundError(2, "it is no longer in the cache", str(path))

    def close(self) -> None:
        """End the connection to the fetcher; the next request begins another."""
        self._connection.close()

    def take_notices(self) -> list[str]:
        """Return what people should hear of that happened since the last call, such as a full disk."""
        notices, self._notices = self._notices, []
        return notices

    def counts(self) -> dict[str, float]:
        """Return what the fetcher did so far, for all who ask: `requests`, `num_bytes`, and in how many `seconds`."""
        counts: dict[str, float] = self._connection.ask({"counts": True})[0]["counts"]
        return counts

    def cached_bytes(self) -> int:
        """Return how many bytes of the split's shards are in the cache."""
        return sum(max(0, num_bytes) for num_bytes in self.shard_bytes())

    def shard_bytes(self) -> list[int]:
        """Return how many bytes of each shard are in the cache, −1 where no file there is for it."""
        places = [(path, path.with_name(path.name + PARTIAL)) for path in map(self._folder.joinpath, self._names)]
        found = [next((place for place in both if place.exists()), None) for both in places]
        return [-1 if place is None else size_on_disk(place) for place in found]

    def _note(self, message: Message) -> None:
        self._is_whole[message["whole"]] = True
        self._notices += message["notices"]

    def _streamed(self, rows: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], body: bytearray) -> Streamed:
        if os.getpid() != self._pid:  # those of before a fork are read in two processes
            self._pid, self._free = os.getpid(), []
        with naming("write", Path("memory")):
            fd = self._free.pop() if self._free else os.memfd_create("imagesprint", os.MFD_CLOEXEC)
            found = Streamed(rows, np.cumsum(sizes) - sizes, fd, self._free)
            view = memoryview(body)
            done = 0
            while done < len(view):
                done += os.pwrite(fd, view[done:], done)
        return found


def size_of(path: Path) -> int:
    """Return the size of a file, -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
