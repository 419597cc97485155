"""A tree of a store on this disk: the names and sizes of all its files, and the bytes of those that are asked for.

A file whose bytes are not wanted is one of holes: as long as the stored one, and no space taken. One whose bytes are
wanted has its name only once it is whole, so that a mirror whose making was killed goes on where it stopped.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from imagesprint.console import Console
from imagesprint.errors import DataError, StorageError
from imagesprint.files import TEMPORARY_PATTERN, naming, no_lock, remove
from imagesprint.storage.cache import cache_folder, cache_limit, size_on_disk
from imagesprint.storage.store import Store, Stored
from imagesprint.storage.url import Url

MIRRORS: Final = "sources"  # in the cache
_SMALL: Final = 4 << 20  # bytes: what is no larger is read at once
_SMALL_AT_A_TIME: Final = 32  # files, to make up for the time that a store takes to answer
_LARGE_AT_A_TIME: Final = 2  # a download has several pieces under way itself
_RESERVE: Final = 256 << 20  # bytes of a disk that are left free
_MD5: Final = re.compile(r'"?([0-9a-f]{32})"?')
_FETCHES: Final = 4  # of a file whose bytes are not those that its etag says
_without_md5: Final[set[str]] = set()  # buckets

T = TypeVar("T")


def check_names(url: Url, entries: Iterable[Stored]) -> None:
    """Raise DataError for a key that no file below a folder can have: a store takes any."""
    files: set[str] = set()
    folders: set[str] = set()
    for stored in entries:
        parts = stored.key.split("/")
        if any(part in ("", ".", "..") or "\0" in part or len(os.fsencode(part)) > 255 for part in parts):
            raise DataError(
                f"{url} holds {stored.key!r}, which cannot be a file's name", "rename it, or remove it from there"
            )
        files.add(stored.key)
        for depth in range(len(parts) - 1, 0, -1):
            folder = "/".join(parts[:depth])
            if folder in folders:
                break
            folders.add(folder)
    both = sorted(files & folders)
    if both:
        raise DataError(
            f"{url / both[0]} is a file, and a folder of others, too", "rename the one or the other, or remove it"
        )


def mirror(
    store: Store, entries: Sequence[Stored], folder: Path, wanted: Callable[[str], bool], console: Console
) -> None:
    """Have the files of a listing in `folder`: those whose keys are `wanted` whole, others as files of holes.

    What is there already stays. Raises DataError where the disk has no space for the bytes, or a file is not the one
    that was listed; StorageError.
    """
    check_names(store.url, entries)
    with naming("write", folder):
        for name in sorted({stored.key.rpartition("/")[0] for stored in entries}):
            (folder / name).mkdir(parents=True, exist_ok=True)
    missing = [stored for stored in entries if not is_there(folder / stored.key, stored)]
    to_fetch = [stored for stored in missing if wanted(stored.key)]
    if to_fetch:
        num_bytes = sum(stored.num_bytes for stored in to_fetch)
        check_space(folder, num_bytes, f"{len(to_fetch):,} files of {store.url}")
        console.line(f"fetching {len(to_fetch):,} files, {num_bytes:,} bytes, of {store.url} into {folder}")
        for name in {stored.key.rpartition("/")[0] for stored in to_fetch}:
            for left in (folder / name).glob(TEMPORARY_PATTERN):  # of a killed command
                remove(left)
    for stored in missing:
        if not wanted(stored.key):
            place_holes(folder / stored.key, stored)
    fetch_files(store, to_fetch, folder, console)


def is_there(path: Path, stored: Stored) -> bool:
    """Whether there is a file as long as a stored one."""
    try:
        return path.stat().st_size == stored.num_bytes
    except OSError:
        return False


def place_holes(path: Path, stored: Stored) -> None:
    """Make a file of holes, as long as a stored one and of its time. Raises FileError."""
    with naming("write", path):
        with path.open("wb") as file:
            file.truncate(stored.num_bytes)
        os.utime(path, (stored.modified, stored.modified))


def check_space(folder: Path, num_bytes: int, what: str) -> None:
    """Raise DataError where the disk of `folder`, or --cache-limit, has no room for `num_bytes`."""
    free = shutil.disk_usage(folder).free - _RESERVE
    limit = cache_limit()
    if limit is not None:
        home = cache_folder() / MIRRORS
        free = min(free, limit - sum(size_on_disk(path) for path in home.rglob("*") if path.is_file()))
    if num_bytes > free:
        raise DataError(
            f"{what} take {num_bytes:,} bytes, but {max(0, free):,} are free for them in {folder}",
            "make room there, or give --cache DIR on a larger disk"
            + (f", or a larger --cache-limit than {limit:,} bytes" if limit is not None else ""),
        )


def fetch_files(store: Store, entries: Sequence[Stored], folder: Path, console: Console) -> None:
    """Fetch files of a listing whole; those that are finished stay if another fails.

    Raises DataError where one is not the one that was listed, StorageError, FileError.
    """
    small = [stored for stored in entries if stored.num_bytes <= _SMALL]
    large = [stored for stored in entries if stored.num_bytes > _SMALL]
    total, done = sum(stored.num_bytes for stored in entries), 0
    for some, threads in ((small, _SMALL_AT_A_TIME), (large, _LARGE_AT_A_TIME)):
        pool = ThreadPoolExecutor(threads)
        try:
            under_way = {pool.submit(_fetch, store, stored, folder / stored.key): stored for stored in some}
            for future in as_completed(under_way):
                future.result()
                done += under_way[future].num_bytes
                console.live(f"fetching  {done:,}/{total:,} bytes  {done / max(1, total):.0%}")
        finally:
            pool.shutdown(cancel_futures=True)


def _fetch(store: Store, stored: Stored, path: Path) -> None:
    if stored.num_bytes <= _SMALL:
        temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
        data = read_listed(store, stored)
        with naming("write", path):
            temporary.write_bytes(data)  # not synced: half a million of them are common, and a size tells
            temporary.replace(path)
    else:

        def download() -> Path:
            store.download(stored.key, path)
            check_listed(store, stored)
            return path

        try:
            fetch_checked(store, stored, download, _md5_of_file)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    with naming("write", path):
        os.utime(path, (stored.modified, stored.modified))


def read_listed(store: Store, stored: Stored) -> bytes:
    """The bytes of a file of a listing. Raises DataError or StorageError if it is not that file any more."""
    data = fetch_checked(store, stored, lambda: store.read(stored.key, etag=stored.etag), _md5_of_bytes)
    if len(data) != stored.num_bytes:
        raise changed(store, stored)
    if not stored.etag:
        check_listed(store, stored)
    return data


def read_present(store: Store, key: str) -> bytes | None:
    """The bytes of a small file as it is now, also where it is written meanwhile; None where there is none.

    Bits that flip on the way are noticed where the etag tells of them. Raises StorageError.
    """
    tries = 0
    while (stored := store.stat(key)) is not None:
        tries += 1
        try:
            return fetch_checked(store, stored, partial(store.read, key, etag=stored.etag), _md5_of_bytes)
        except StorageError:
            if tries == _FETCHES or store.stat(key) == stored:
                raise
    return None


def _md5_of_bytes(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _md5_of_file(path: Path) -> str:
    with naming("read", path), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def fetch_checked(store: Store, stored: Stored, fetch: Callable[[], T], md5: Callable[[T], str]) -> T:
    """Return what `fetch` brings of a file, which is asked again unless its `md5` is what the etag says.

    Not all etags of that form are MD5 sums: those of encrypted files are none. Where two fetches agree with each other
    and not with the etag, the bucket's are not looked at any more. Raises StorageError where nothing agrees.
    """
    said = _MD5.fullmatch(stored.etag)
    if said is None or store.url.host in _without_md5:
        return fetch()
    seen: set[str] = set()
    while len(seen) < _FETCHES:
        content = fetch()
        found = md5(content)
        if found == said[1]:
            return content
        if found in seen:
            _without_md5.add(store.url.host)
            return content
        seen.add(found)
    raise StorageError(
        f"{store.url / stored.key} comes with other bytes each time it is read", "see to the network or the store"
    )


def check_listed(store: Store, stored: Stored) -> None:
    """Raise DataError if a file is not the one of the listing any more: by its size, time and etag."""
    now = store.stat(stored.key)
    if now is None or (now.num_bytes, now.etag or now.modified) != (stored.num_bytes, stored.etag or stored.modified):
        raise changed(store, stored)


def changed(store: Store, stored: Stored) -> DataError:
    """The error that a stored file is not the one of the listing any more."""
    return DataError(
        f"{store.url / stored.key} changed since it was listed", "give the command again once nothing writes to it"
    )


@contextmanager
def mirrored(
    store: Store, entries: Sequence[Stored], name: str, wanted: Callable[[str], bool], console: Console
) -> Iterator[Path]:
    """Have a listing's files in a folder called `name` of the cache, for the time of the block and after it.

    They are used again by whoever has the same listing; those of an older one are removed. Raises what `mirror` does.
    """
    home = cache_folder().resolve() / MIRRORS / hashlib.sha256(str(store.url).encode()).hexdigest()[:16]
    digest = hashlib.sha256()
    for stored in sorted(entries, key=lambda stored: stored.key):
        digest.update(repr((stored, wanted(stored.key))).encode("utf-8", "surrogateescape"))
    folder = home / digest.hexdigest()[:16]
    with naming("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(home / f"{folder.name}.used", fcntl.LOCK_SH):
        for other in home.glob("*.used"):
            if other.stem != folder.name:
                _remove_unused(home / other.stem)
        made = home / f"{folder.name}.made"
        with locked(made, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_mine:
            if is_mine:
                mirror(store, entries, folder / name, wanted, console)
        if not is_mine:
            console.line(f"waiting for another process that fetches {store.url} into {folder}")
            with locked(made, fcntl.LOCK_EX):
                mirror(store, entries, folder / name, wanted, console)
        yield folder / name


@contextmanager
def locked(path: Path, how: int) -> Iterator[bool]:
    """Hold the lock of a file, for the time of the block; yields whether it could be had, as it always can without
    LOCK_NB.
    """
    while True:
        with naming("open", path):
            file = path.open("ab")
        with file:
            is_had = _lock(path, file.fileno(), how)
            if not is_had or os.fstat(file.fileno()).st_nlink:  # else somebody has removed it meanwhile
                yield is_had
                return


def _lock(path: Path, descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError as error:
        raise no_lock(path, error) from error
    return True


def _remove_unused(folder: Path) -> None:
    """Remove a mirror unless another process uses it."""
    used, made = folder.with_suffix(".used"), folder.with_suffix(".made")
    with locked(used, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_unused:
        if is_unused:
            shutil.rmtree(folder, ignore_errors=True)
            made.unlink(missing_ok=True)
            used.unlink(missing_ok=True)
