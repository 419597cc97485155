"""A source by URL: its tree is mirrored on this disk, so that every kind of source reads it as it reads a folder.

What a source reads beside images (tars, tables, lists of names: `Source.files`) is fetched before. Of an image that is
a file of its own the mirror has the name and the size; its bytes are read from the store when they are wanted.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import translate
from pathlib import Path
from typing import Final

from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.prepare.sources import SOURCE_KINDS, open_source
from imagesprint.prepare.sources.folders import FolderSource
from imagesprint.prepare.sources.remote_images import RemoteImages
from imagesprint.prepare.sources.source import Source
from imagesprint.storage.mirror import mirrored
from imagesprint.storage.naming import Naming
from imagesprint.storage.store import Store, Stored, open_store
from imagesprint.storage.url import READ_ONLY, Place, Url

_OF_ONE_FILE: Final = (".tar", ".parquet")  # what one file alone may be a source of


@contextmanager
def open_source_place(place: Place, kind: str | None, names: Naming, console: Console) -> Iterator[Source]:
    """Open the source at `place`, as `open_source` does; by URL, `names` learns what its mirror is called.

    Raises what `open_source` does, and StorageError.
    """
    if isinstance(place, Path):
        yield open_source(place, kind)
        return
    store, entries = _list(place, console)
    with mirrored(store, entries, place.name or place.host, _wanted(kind), console) as folder:
        names.add(folder, place)
        opened = open_source(folder, kind)
        if isinstance(opened, FolderSource):
            opened.remote = RemoteImages(store.url, folder, {stored.key: stored for stored in entries})
        yield opened


def _wanted(kind: str | None) -> Callable[[str], bool]:
    """Return what tells of a path whether a source of that kind, or of any, reads it beside its images."""
    patterns = {pattern for entry in SOURCE_KINDS if kind in (None, entry.kind) for pattern in entry.files}
    found = re.compile("|".join(map(translate, sorted(patterns))), re.IGNORECASE)
    return lambda path: found.match(path) is not None


def _list(url: Url, console: Console) -> tuple[Store, list[Stored]]:
    """Return the store of a source and all its files, by their paths below it. Raises UsageError if there are none."""
    if url.scheme in READ_ONLY:
        return _single(url)
    store = open_store(url)
    entries = []
    for stored in store.list():
        entries.append(stored)
        if len(entries) % 1000 == 0:
            console.live(f"listing  {len(entries):,} files")
    if not entries:
        if store.stat("") is not None:
            raise UsageError(f"the source {url} is no folder", f"give the folder it lies in: {url.parent}")
        raise UsageError(f"there is no source folder {url}", "see how it is written, and what lies there")
    return store, sorted(entries, key=lambda stored: stored.key)


def _single(url: Url) -> tuple[Store, list[Stored]]:
    """Return the one file that a web server's URL names: it tells of no others."""
    if not url.name.lower().endswith(_OF_ONE_FILE):
        raise UsageError(
            f"{url} is no .tar or .parquet, and a web server lists no folder",
            "give the URL of one such file, or download what you want and give the folder it lies in",
        )
    store = open_store(url.parent)
    stored = store.stat(url.name)
    if stored is None:
        raise UsageError(f"there is no source {url}", "see how it is written")
    return store, [stored]
