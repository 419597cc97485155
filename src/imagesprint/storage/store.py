"""The one protocol of every store, and the way to open one."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from imagesprint.errors import StorageError
from imagesprint.files import write_atomically
from imagesprint.storage.url import Url

PIECE: Final = 5 << 20  # bytes of a large file that are read or written by one request: S3 takes no fewer
PIECES_AT_ONCE: Final = 4  # requests under way for one large file; so it takes PIECE times this of memory


@dataclass(frozen=True, slots=True)
class Stored:
    """A file in a store: `key` below the place that was asked for, bytes, seconds since 1970 (0 where the store does
    not say), and what changes with the content ("" where there is no such thing).
    """

    key: str
    num_bytes: int
    modified: float
    etag: str


class Store(ABC):
    """What lies below one URL. Keys are relative to it, with slashes; "" is the URL itself where that is a file.

    Any thread may call it; not after a fork: open it in the process that uses it, which must have been started by exec.
    A call raises StorageError where the store refuses, fails or does not answer. What may pass (a broken connection, no
    answer, 5xx, 503 SlowDown) is tried again, for `attempts.PATIENCE` seconds at the most; so a call ends within
    `attempts.LIMIT` seconds, one of many requests within that after the last of them that went well; and `upload`, or a
    `write` of more than PIECE bytes, within `attempts.LONG_LIMIT`.
    """

    def __init__(self, url: Url) -> None:
        self.url = url

    @abstractmethod
    def stat(self, key: str) -> Stored | None:
        """What is known of a file; None where there is none."""

    @abstractmethod
    def read(self, key: str, start: int = 0, num_bytes: int | None = None, etag: str = "") -> bytes:
        """The bytes [start, start + num_bytes) of a file, to its end for None: all of them or StorageError.

        With `etag`, of a Stored, the bytes of that content alone, where the store can tell; otherwise StorageError.
        """

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """A whole file, in place of what stood there: nobody ever reads half of it."""

    @abstractmethod
    def upload(self, file: Path, key: str) -> None:
        """As `write`, from a file of any size, in pieces. What was sent of one that failed is never seen as a file."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Write a file that is not there yet; False, and nothing done, where it is: of two callers one gets True.

        Raises StorageError where the store does not keep to that.
        """

    def replace(self, key: str, data: bytes, seen: Stored) -> bool:
        """Write a file in place of the one that `stat` told of; False, and nothing done, where another stands there.

        Where the store cannot compare as it writes, by a look right before, so of two callers in the same instant both
        may get True.
        """
        if self.stat(key) != seen:
            return False
        self.write(key, data)
        return True

    @abstractmethod
    def folders(self, folder: str = "") -> Sequence[str]:
        """The names of the folders straight in a folder, sorted; where they are real (HDFS), also of empty ones."""

    @abstractmethod
    def list(self, folder: str = "") -> Iterator[Stored]:
        """All files below a folder, at any depth, in any order; nothing where there are none."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a file; nothing happens where there is none."""

    def download(self, key: str, file: Path) -> None:
        """A whole file, atomically, in pieces of which several are under way; the folder must be there.

        Raises StorageError where it is not there or changes meanwhile, FileError where the disk does not take it.
        """
        found = self.stat(key)
        if found is None:
            where = self.url / key if key else self.url
            raise StorageError(f"cannot read {where}: there is no such file", "look at its name with your store's tool")
        whole = found

        def fill(out: BinaryIO) -> None:
            def piece(start: int) -> None:
                data = self.read(key, start, min(PIECE, whole.num_bytes - start), whole.etag)
                while data:
                    written = os.pwrite(out.fileno(), data, start)
                    start, data = start + written, data[written:]

            pool = ThreadPoolExecutor(PIECES_AT_ONCE)
            try:
                for _ in pool.map(piece, range(0, whole.num_bytes, PIECE)):
                    pass
            finally:
                pool.shutdown(cancel_futures=True)  # after a piece that failed, none of the others begins

        write_atomically(file, fill)


def open_store(url: Url) -> Store:
    """Open the store of `url`; nothing is asked of it yet. Raises MissingPackageError without the extra `remote`."""
    if url.scheme == "hdfs":
        from imagesprint.storage.hdfs_store import HdfsStore

        return HdfsStore(url)
    from imagesprint.storage.object_store import ObjectStore

    return ObjectStore(url)
