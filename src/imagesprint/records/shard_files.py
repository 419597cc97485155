"""The files in which the records of a split lie: opened when first read, of a URL in the cache."""

import os
import resource
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imagesprint.errors import RecordError
from imagesprint.records.remote.client import RemoteSplit
from imagesprint.records.tfrecord import damaged, read_record
from imagesprint.storage.url import Place, Url

OPEN_SHARE = 4  # a dataset keeps open a quarter of what a process may: a run has a few datasets open at a time


@dataclass(frozen=True, eq=False)
class Places:
    """Where N records lie: `fds` int32[N] of files; int64[N] each, in bytes, where the record begins in its file, how
    long its payload is, where image/encoded begins in that and how long it is.

    They are of `shards`, `numbers` int32[N] of these, and begin there at `in_shards`, whatever file they are read from.
    """

    held: object
    shards: "Sequence[Place]"
    numbers: npt.NDArray[np.int32]
    in_shards: npt.NDArray[np.int64]
    fds: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    encoded_offsets: npt.NDArray[np.int64]
    encoded_lengths: npt.NDArray[np.int64]

    def path(self, row: int) -> Place:
        """Return the shard of a record."""
        return self.shards[int(self.numbers[row])]

    def read(self, row: int) -> memoryview:
        """Return the encoded image of a record. Raises as `payload` does."""
        start = int(self.encoded_offsets[row])
        return memoryview(self.payload(row))[start : start + int(self.encoded_lengths[row])]

    def payload(self, row: int) -> bytes:
        """Return the payload of a record. Raises RecordError, naming shard and record, if it is damaged."""
        fd, offset, length = int(self.fds[row]), int(self.offsets[row]), int(self.lengths[row])
        return read_record(fd, offset, length, self.path(row), int(self.in_shards[row]))

    def damaged(self, row: int, what: str) -> RecordError:
        """Return the error that says what is wrong with a record."""
        return damaged(self.path(row), int(self.in_shards[row]), what)


class _OpenShard:
    """A file descriptor that lives as long as somebody reads from it."""

    def __init__(self, open_shard: Callable[[], int], path: Place) -> None:
        self.fd = -1
        try:
            self.fd = open_shard()
        except OSError as error:
            raise unreadable(path, f"cannot open shard {path}: {error.strerror}") from error

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _may_open(shards: int) -> int:
    """Return how many of `shards` may be open at a time. Raises this process's soft limit if all could be then: many
    systems have 1,024, for the sake of programs that call select.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = shards * OPEN_SHARE
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(8, shards if soft == resource.RLIM_INFINITY else soft // OPEN_SHARE)


class Shards:
    """The shards of a dataset, opened when first read; the oldest are closed where the system's limit nears.

    No lock: the methods of OrderedDict that are used are atomic, and a shard that is dropped while another thread
    reads from it is closed by the last reference to it. A lock could be held by another thread at a fork.
    """

    def __init__(self, paths: Sequence[Place], remote: RemoteSplit | None) -> None:
        self.paths = paths
        self._remote = remote
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._limit = _may_open(len(paths))

    def open(self, number: int) -> _OpenShard:
        shard = self._open.get(number)
        if shard is None:
            path = self.paths[number]
            shard = self._open[number] = _OpenShard(partial(self._descriptor, number, path), path)
            if len(self._open) > self._limit:
                self._open.popitem(last=False)
        return shard

    def _descriptor(self, number: int, path: Place) -> int:
        if self._remote is not None:
            return self._remote.open_shard(number)
        return os.open(str(path), os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        self._open.clear()


def check_shard_size(path: Path, size: int) -> None:
    """Raise RecordError if the shard at `path` is missing or not `size` bytes long."""
    try:
        found = path.stat().st_size
    except OSError as error:
        raise unreadable(path, f"shard {path} cannot be read: {error.strerror}") from error
    if found != size:
        raise RecordError(f"shard {path} is {found} bytes long, not {size}", see_verify(path.parent))


def see_verify(path: Place) -> str:
    """Return the hint for a damaged folder of a variant."""
    return f"imagesprint verify {path} lists all damage; prepare that folder again, or copy sound shards into it"


def unreadable(path: Place, what: str) -> RecordError:
    """Return the error of a shard that cannot be opened; it may be a link that `index` made, to what was moved."""
    if isinstance(path, Url) or not path.is_symlink() or path.exists():
        return RecordError(what, see_verify(path.parent))
    return RecordError(
        f"shard {path} is a link to {os.readlink(path)}, which is not there",
        f"bring it back, or delete {path.parent} and index the shards where they are now: "
        f"imagesprint index DATA --index-dir {path.parent.parent}",
    )
