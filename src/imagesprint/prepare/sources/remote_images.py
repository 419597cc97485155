"""Images that are read from a store, file by file, as they were listed; many reads are under way at a time."""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from imagesprint.prepare.sources.source import Listing, SourceImage
from imagesprint.storage.mirror import read_listed
from imagesprint.storage.store import Store, Stored, open_store
from imagesprint.storage.url import Url

# Of one process: with 50 ms an answer they bring 640 images/s, more than a core decodes and shrinks.
_READS: Final = 32
_BYTES: Final = 64 << 20  # of images that are read ahead, unless one alone is larger


class RemoteImages:
    """Reads the images below `url`, of which `mirror` has the names and `entries` the listing, by key.

    Small to pickle: what a worker needs to know of a file comes with its sample.
    """

    def __init__(self, url: Url, mirror: Path, entries: Mapping[str, Stored]) -> None:
        self._url, self._mirror, self._entries = url, mirror, entries
        self._store: Store | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_entries": {}, "_store": None}

    def find(self, listing: Listing, path: Path) -> Listing:
        """Return the listing of a source at `path` in the mirror, with the store's entries of its files."""
        folder = path.relative_to(self._mirror)
        splits = {
            split: [
                replace(sample, stored=self._entries[os.path.normpath(folder / sample.location)]) for sample in samples
            ]
            for split, samples in listing.splits.items()
        }
        return replace(listing, splits=splits)

    def read(self, sample: SourceImage) -> bytes:
        """Return the file of a sample. Raises DataError if it is not the one that was listed, StorageError."""
        assert sample.stored is not None
        return read_listed(self._open(), sample.stored)

    def read_all(self, samples: Sequence[SourceImage]) -> Iterator[bytes]:
        """Yield the file of each of `samples`, in order; those that follow are read meanwhile."""
        under_way: deque[tuple[Future[bytes], int]] = deque()
        num_bytes = 0
        self._open()  # once, not in every thread
        pool = ThreadPoolExecutor(_READS)
        try:
            for sample in samples:
                while under_way and (len(under_way) >= _READS or num_bytes + sample.num_bytes > _BYTES):
                    future, size = under_way.popleft()
                    yield future.result()
                    num_bytes -= size
                under_way.append((pool.submit(self.read, sample), sample.num_bytes))
                num_bytes += sample.num_bytes
            while under_way:
                yield under_way.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _open(self) -> Store:
        if self._store is None:
            self._store = open_store(self._url)
        return self._store
