"""dataset.json and the indexes of a ROOT in a store, brought into the cache by the fetcher.

A variant's folder in the cache is `shards/DIGEST`, where DIGEST is of its dataset.json, which is read anew each time
and has the checksums of all else: what was prepared again lies in another folder.
"""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import google_crc32c

from imagesprint.errors import RecordError
from imagesprint.files import naming, write_atomically
from imagesprint.records.dataset import PARTS, is_variant_name, no_root, not_finished, one_variant
from imagesprint.records.manifest import FILE_NAME, Manifest
from imagesprint.records.tfrecord import file_crc
from imagesprint.storage.cache import CacheHold, cache_folder
from imagesprint.storage.mirror import read_present
from imagesprint.storage.store import Store
from imagesprint.storage.url import READ_ONLY

_writing: Final = threading.Lock()  # the ranks of a run ask for the same at the same time
FOLDER: Final = "shards"  # below the cache's
_DIGITS: Final = 32  # of a SHA-256, in hexadecimal
_TOGETHER: Final = 16  # variants that are looked for at a time
# What is looked for over HTTP, which has no folders to list: "full", and every shorter side that is a multiple of 32.
_USUAL: Final = ("full", *(str(side) for side in range(32, 545, 32)))


def find_variants(store: Store) -> dict[str, CacheHold]:
    """Return the variants of the ROOT that `store` is, by name, with the folders that hold their dataset.json.

    Raises UsageError where there is none, RecordError for a damaged one, StorageError.
    """
    url = store.url
    has_folders = url.scheme not in READ_ONLY
    names = [name for name in store.folders() if is_variant_name(name)] if has_folders else list(_USUAL)
    with ThreadPoolExecutor(_TOGETHER) as pool:
        is_there = pool.map(lambda name: store.stat(f"{name}/{FILE_NAME}") is not None, names)
        found = [name for name, there in zip(names, is_there, strict=True) if there]
        folders = dict(zip(found, pool.map(lambda name: hold_variant(store, name), found), strict=True))
    if folders:
        return folders
    if store.stat(FILE_NAME) is not None:
        raise one_variant(url)
    if has_folders and PARTS in store.folders():
        raise not_finished(url)
    raise no_root(url)


def hold_variant(store: Store, name: str = "") -> CacheHold:
    """Return the folder of the cache that holds dataset.json of a variant, `name` below `store`, or the one that it is.

    Raises RecordError where it is damaged, StorageError.
    """
    key = f"{name}/{FILE_NAME}" if name else FILE_NAME
    place = store.url / name if name else store.url
    data = read_present(store, key)
    if data is None:
        data = store.read(key)  # which says that it is not there
    Manifest.parse(data, place)
    lease = CacheHold(cache_folder() / FOLDER / hashlib.sha256(data).hexdigest()[:_DIGITS])
    file = lease.folder / FILE_NAME
    with _writing, naming("read", file):
        if not (file.is_file() and file.read_bytes() == data):
            write_atomically(file, partial(_write, data))
    return lease


def hold_index(store: Store, folder: Path, split: str) -> None:
    """Have the index of a split in the variant's folder of the cache, as dataset.json there has its checksum.

    Raises RecordError where what the store has is damaged, StorageError.
    """
    info = Manifest.read(folder, store.url).splits[split]
    path = folder / info.index
    with _writing:
        if path.is_file() and file_crc(path) == info.index_crc32c:
            return
        for _ in range(2):  # what was damaged on its way comes whole the second time
            data = store.read(info.index)
            if google_crc32c.value(data) == info.index_crc32c:
                write_atomically(path, partial(_write, data))
                return
    raise RecordError(
        f"index {store.url / info.index} does not match its checksum in {FILE_NAME}",
        f"imagesprint verify {store.url} lists all damage; prepare that folder again",
    )


def _write(data: bytes, file: BinaryIO) -> None:
    file.write(data)
