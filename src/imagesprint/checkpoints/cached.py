"""Files of weights that lie at a URL: brought into the cache `models/` once, under what tells their content."""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from imagesprint.checkpoints.naming import FOLDER, last_checkpoint
from imagesprint.errors import UsageError
from imagesprint.files import naming, shown_as
from imagesprint.storage.cache import CacheHold, cache_folder, make_room
from imagesprint.storage.store import Store, Stored, open_store
from imagesprint.storage.url import Place, Url

_STEP: Final = re.compile(r"step-(\d+)\.pt")


@contextmanager
def cached(place: Place) -> Iterator[Path]:
    """The file at `place`, for the time of the block: for a URL its copy in the cache, of which errors speak as of it.

    Raises UsageError where there is no such file.
    """
    if isinstance(place, Path):
        yield place
        return
    store = open_store(place)
    stored = store.stat("")
    if stored is None:
        raise UsageError(f"there is no file {place}", "name a run or a checkpoint")
    with cached_copy(store, "", stored) as file, shown_as(file, place):
        yield file


@contextmanager
def cached_copy(store: Store, key: str, stored: Stored) -> Iterator[Path]:
    """The copy in the cache of a file in a store, brought there unless it is; nothing evicts it during the block."""
    url = store.url / key if key else store.url
    content = f"{url} {stored.etag or stored.modified} {stored.num_bytes}"
    folder = cache_folder() / "models" / hashlib.sha256(content.encode()).hexdigest()[:16]
    file, held = folder / url.name, CacheHold(folder)
    with _alone(folder / ".lock"):
        if not file.exists():
            make_room(folder.parent, stored.num_bytes)
            store.download(key, file)
    yield file
    del held  # it is a lock, held until here


def last_of(place: Place) -> Place:
    """The last checkpoint of a run; a file as it is. Raises UsageError where there is neither."""
    return last_checkpoint(place) if isinstance(place, Path) else _last_url(place)[0]


def last_version(place: Place) -> tuple[Place, str]:
    """As `last_of`, and what tells its content from one that takes its place: a run may write its last one anew."""
    if isinstance(place, Url):
        url, stored = _last_url(place)
        return url, f"{stored.etag or stored.modified} {stored.num_bytes}"
    file = last_checkpoint(place)
    try:
        stat = file.stat()
    except OSError:  # gone meanwhile, or never there: who opens it says so
        return file, ""
    return file, f"{stat.st_ino} {stat.st_mtime_ns} {stat.st_size}"


def _last_url(url: Url) -> tuple[Url, Stored]:
    """The last checkpoint of the run at a URL; the URL itself where that is a file. Raises UsageError for neither."""
    store = open_store(url)
    if (itself := store.stat("")) is not None:
        return url, itself
    steps = {int(found[1]): stored for stored in store.list(FOLDER) if (found := _STEP.fullmatch(stored.key))}
    if not steps:
        raise UsageError(f"{url} holds no checkpoints/step-*.pt", "name a run or a checkpoint")
    last = steps[max(steps)]
    return url / FOLDER / last.key, last


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time fetches; the others then find it there."""
    with ExitStack() as stack:
        with naming("lock", path):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            stack.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
