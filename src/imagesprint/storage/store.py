"""The one protocol of every store, and the way to open one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagesprint.storage.url import Url


@dataclass(frozen=True)
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
    Every call ends within the limits of its time, is tried again where that may help (503, a broken connection), and
    raises StorageError where it does not.
    """

    def __init__(self, url: Url) -> None:
        self.url = url

    @abstractmethod
    def stat(self, key: str) -> Stored | None:
        """What is known of a file; None where there is none."""

    @abstractmethod
    def read(self, key: str, start: int = 0, num_bytes: int | None = None) -> bytes:
        """The bytes [start, start + num_bytes) of a file, to its end for None. A shorter answer raises StorageError."""

    @abstractmethod
    def download(self, key: str, file: Path) -> None:
        """A whole file, atomically, in pieces of which several are under way; the folder must be there."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """A whole file, in place of what stood there: nobody ever reads half of it."""

    @abstractmethod
    def upload(self, file: Path, key: str) -> None:
        """As `write`, from a file of any size."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Write a file that is not there yet; False, and nothing done, where it is: of two callers one gets True."""

    def replace(self, key: str, data: bytes, seen: Stored) -> bool:
        """Write a file in place of the one that `stat` told of; False, and nothing done, where another stands there.

        Here by a look right before: a store that can compare as it writes does that instead.
        """
        if self.stat(key) != seen:
            return False
        self.write(key, data)
        return True

    @abstractmethod
    def list(self, folder: str = "") -> Iterator[Stored]:
        """All files below a folder, at any depth, in any order; nothing where there are none."""

    @abstractmethod
    def folders(self, folder: str = "") -> Sequence[str]:
        """The names of what lies straight in a folder and holds files."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a file; nothing happens where there is none."""


def open_store(url: Url) -> Store:
    """Open the store of `url`; nothing is asked of it yet. Raises MissingPackageError without the extra `remote`."""
    from imagesprint.storage.opendal_store import OpenDalStore

    return OpenDalStore(url)
