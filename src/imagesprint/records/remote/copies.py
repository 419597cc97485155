"""Whole shards of a ROOT in a store, one after the other, for `verify`: what the cache has is not asked."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from imagesprint.errors import RecordError
from imagesprint.records.dataset import PARTS, is_variant_name, no_root, not_finished
from imagesprint.records.manifest import FILE_NAME, SPLITS, Manifest
from imagesprint.records.remote.metadata import FOLDER
from imagesprint.storage.cache import CacheHold, cache_folder
from imagesprint.storage.store import open_store
from imagesprint.storage.url import READ_ONLY, Url

_PREFIX: Final = "verify-"  # of a folder among the cached datasets: one that a kill left is evicted as they are


class Copies:
    """A ROOT at `url`, or one of its variants, in a folder of the cache that is gone after `with`."""

    def __init__(self, url: Url) -> None:
        self._url, self._store = url, open_store(url)

    def __enter__(self) -> Self:
        self._lease = CacheHold(cache_folder() / FOLDER / f"{_PREFIX}{secrets.token_hex(8)}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shutil.rmtree(self._lease.folder, ignore_errors=True)

    def variants(self) -> dict[Path, Url]:
        """Return the folders with dataset.json and the indexes of each variant, and where it lies in the store.

        Raises UsageError where there is none, StorageError.
        """
        if self._store.stat(FILE_NAME) is not None:
            found = {self._url.name: ""}
        else:
            names = [] if self._url.scheme in READ_ONLY else self._store.folders()
            found = {name: f"{name}/" for name in names if is_variant_name(name)}
            if not found:
                raise not_finished(self._url) if PARTS in names else no_root(self._url)
        folders = {}
        for name, key in found.items():
            folder = self._lease.folder / name
            folder.mkdir()
            if self._store.stat(key + FILE_NAME) is not None:
                self._store.download(key + FILE_NAME, folder / FILE_NAME)
                self._indexes(folder, key)
            folders[folder] = self._url / name if key else self._url
        return folders

    def _indexes(self, folder: Path, key: str) -> None:
        try:
            manifest = Manifest.read(folder)
        except RecordError:  # `verify` says so
            return
        for split in SPLITS:
            name = manifest.splits[split].index
            if self._store.stat(key + name) is not None:
                self._store.download(key + name, folder / name)

    @contextmanager
    def shard(self, place: Url, path: Path) -> Iterator[None]:
        """Have the shard at `place` at `path` while inside; not, if it is missing. Raises StorageError, FileError."""
        key = str(place).removeprefix(str(self._url)).lstrip("/")
        try:
            if self._store.stat(key) is not None:
                self._store.download(key, path)
            yield
        finally:
            path.unlink(missing_ok=True)
