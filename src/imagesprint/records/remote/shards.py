"""The shards of one split as the cache has them: sparse files, of whose records those count that are sound.

No list of what is there is kept: a record is there if its framing and its CRC-32C are right, which those of a hole are
not. So a kill at any time leaves a cache that the next fetcher goes on with. A shard whose records are all there gets
its final name; until then it is NAME.part.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from imagesprint.errors import RecordError
from imagesprint.files import naming
from imagesprint.records.index import Index
from imagesprint.records.manifest import FILE_NAME, Manifest
from imagesprint.records.remote.client import PARTIAL, SampleIds, size_of
from imagesprint.records.tfrecord import FRAME_BYTES, is_sound
from imagesprint.storage.cache import CacheHold, make_room
from imagesprint.storage.store import Store

# What a record is: perhaps in a file that an earlier fetcher left; not here; on its way; here; here, but damaged
# wherever it was read. The order matters: what is THERE or more can be given away.
UNKNOWN, ABSENT, COMING, THERE, DAMAGED = range(5)
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FullError(Exception):
    """The cache's disk has no space left."""


class CachedSplit:
    """A split of the variant that `store` is, with its shards in `folder` of the cache.

    `starts` and `ends`, int64[N], are where records lie in their shards, those of shard s being `first[s]` to
    `first[s + 1]`. `state`, uint8[N], is what each is; `wanted`, bool[N], whether somebody expects it. `kept`, bool[S]:
    whether the shard has a file in the cache; the others are streamed. Who changes these holds one lock.
    """

    def __init__(self, store: Store, folder: Path, split: str) -> None:
        index = _read_index(store, folder, split)
        self.store, self.folder = store, folder
        self.names = index.shard_names
        self.sizes = index.shard_sizes
        self.shard = index.shard
        self.starts = index.offset
        self.ends = index.offset + index.length + FRAME_BYTES
        self.first = np.searchsorted(index.shard, np.arange(len(self.names) + 1))
        self.state = np.full(len(index), ABSENT, np.uint8)
        self.wanted = np.zeros(len(index), np.bool_)
        self.kept = np.zeros(len(self.names), np.bool_)
        self.whole = np.zeros(len(self.names), np.bool_)
        self.lease = CacheHold(folder)
        self._find_files()

    def _path(self, shard: int) -> Path:
        return self.folder / self.names[shard]

    def _partial(self, shard: int) -> Path:
        return self.folder / (self.names[shard] + PARTIAL)

    def rows(self, shard: int) -> tuple[int, int]:
        """Return the first record of a shard, and the first behind it."""
        return int(self.first[shard]), int(self.first[shard + 1])

    def extent(self, sample_id: int) -> tuple[int, int]:
        """Return the first byte of a record in its shard, and the first behind it."""
        return int(self.starts[sample_id]), int(self.ends[sample_id])

    def _find_files(self) -> None:
        """See what earlier fetchers left, and reserve files for as many further shards as there is room for."""
        for shard, size in enumerate(self.sizes.tolist()):
            if size_of(self._path(shard)) == size:
                self.whole[shard] = self.kept[shard] = True
                self.state[slice(*self.rows(shard))] = THERE
                continue
            self._path(shard).unlink(missing_ok=True)  # whatever it is, it is not the shard
            if size_of(self._partial(shard)) == size:
                self.kept[shard] = True
                self.state[slice(*self.rows(shard))] = UNKNOWN
        missing = np.flatnonzero(~self.kept).tolist()
        room = make_room(self.folder.parent, int(self.sizes[missing].sum()))
        for shard in missing:
            room -= int(self.sizes[shard])
            if room < 0 or not self._reserve(shard):
                break

    def _reserve(self, shard: int) -> bool:
        """Make the sparse file of a shard; whether the disk has it."""
        path = self._partial(shard)
        with naming("write", path):
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    os.ftruncate(descriptor, int(self.sizes[shard]))
                finally:
                    os.close(descriptor)
            except OSError as error:
                if error.errno in _NO_SPACE:
                    return False
                raise
        self.kept[shard] = True
        return True

    def found(self, sample_ids: SampleIds) -> npt.NDArray[np.bool_]:
        """Whether each of these records, of any shards, is sound in the cache's files."""
        sound = np.zeros(len(sample_ids), np.bool_)
        for shard in np.unique(self.shard[sample_ids]).tolist():
            rows = np.flatnonzero(self.shard[sample_ids] == shard)
            with suppress(OSError), self._opened(shard, os.O_RDONLY) as descriptor:
                for row in rows.tolist():
                    start, end = self.extent(int(sample_ids[row]))
                    sound[row] = is_sound(memoryview(os.pread(descriptor, end - start, start)))
        return sound

    def write(self, sample_ids: SampleIds, data: memoryview, start: int) -> None:
        """Write records of one shard, in order, out of `data`, which lies at byte `start` of the shard.

        Raises FullError, FileError. Nothing between them is written: it may be there already, and sound.
        """
        if not len(sample_ids):
            return
        shard = int(self.shard[sample_ids[0]])
        try:
            with naming("write", self._path(shard)), self._opened(shard, os.O_WRONLY) as descriptor:
                for first, last in runs(sample_ids):
                    begin, end = int(self.starts[first]), int(self.ends[last])
                    while begin < end:
                        begin += os.pwrite(descriptor, data[begin - start : end - start], begin)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise FullError from error
            raise

    def _opened(self, shard: int, flags: int) -> "_Opened":
        return _Opened((self._path(shard), self._partial(shard)), flags)

    def left_in(self, shard: int) -> SampleIds:
        """Return the records of a kept shard that are neither there nor on their way."""
        if shard < 0 or not self.kept[shard]:
            return np.empty(0, np.int64)
        first, stop = self.rows(shard)
        return first + np.flatnonzero(self.state[first:stop] <= ABSENT)

    def most_wanted(self) -> int:
        """Return the kept shard that lacks most records which are expected, else any that lacks some; or −1."""
        lacks = self.state <= ABSENT
        lacking, wanted = self._per_shard(lacks), self._per_shard(lacks & self.wanted)
        value = np.where(self.kept & (lacking > 0), wanted + 1, 0)
        return int(value.argmax()) if value.any() else -1

    def _per_shard(self, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        before = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(rows, out=before[1:])
        counts: npt.NDArray[np.int64] = before[self.first[1:]] - before[self.first[:-1]]
        return counts

    def arrived(self, sample_ids: SampleIds, states: npt.NDArray[np.int64]) -> None:
        """Note what records of a file are now. A shard that has all of them gets its final name."""
        self.state[sample_ids] = states
        self.wanted[sample_ids[states >= THERE]] = False
        for shard in np.unique(self.shard[sample_ids]).tolist():
            if not self.whole[shard] and (self.state[slice(*self.rows(shard))] == THERE).all():
                with suppress(FileNotFoundError), naming("rename", self._partial(shard)):
                    self._partial(shard).rename(self._path(shard))  # unless another fetcher has
                self.whole[shard] = size_of(self._path(shard)) == self.sizes[shard]

    def stream_the_rest(self) -> None:
        """Write no further file: what is there stays in use."""
        self.kept &= self.whole


class _Opened:
    """A descriptor of the first of `paths` that is there. Raises OSError."""

    def __init__(self, paths: tuple[Path, ...], flags: int) -> None:
        self._paths, self._flags = paths, flags

    def __enter__(self) -> int:
        for path in (*self._paths, self._paths[0]):  # it may be finished between the two
            with suppress(FileNotFoundError):
                self._descriptor = os.open(path, self._flags | os.O_CLOEXEC)
                return self._descriptor
        raise FileNotFoundError(errno.ENOENT, "it is no longer in the cache", str(self._paths[0]))

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def runs(sample_ids: SampleIds) -> Iterator[tuple[int, int]]:
    """The first and the last of each run of consecutive ids."""
    breaks = np.flatnonzero(np.diff(sample_ids) != 1)
    firsts = sample_ids[np.concatenate([[0], breaks + 1])]
    lasts = sample_ids[np.concatenate([breaks, [len(sample_ids) - 1]])]
    return zip(firsts.tolist(), lasts.tolist(), strict=True)


def _read_index(store: Store, folder: Path, split: str) -> Index:
    """The index of a split, which is in the cache. Raises RecordError where it cannot be fetched by."""
    info = Manifest.read(folder, store.url).splits[split]
    place = store.url / info.index
    index = Index.read(folder / info.index, place)
    shards = [(shard.name, shard.bytes) for shard in info.shards]
    if shards != list(zip(index.shard_names, index.shard_sizes.tolist(), strict=True)):
        raise RecordError(f"index {place} has other shards than {FILE_NAME}", _verify(store))
    same = np.diff(index.shard) == 0
    ends = index.offset + index.length + FRAME_BYTES
    if (np.diff(index.shard) < 0).any() or (same & (index.offset[1:] < ends[:-1])).any():
        what = f"index {place} has its records in another order than they lie in the shards"
        raise RecordError(what, _verify(store))
    return index


def _verify(store: Store) -> str:
    return f"imagesprint verify {store.url} lists all damage; prepare that folder again"
