"""What all stores have in common that OpenDAL speaks to: reading, listing, deleting, and how a call is made."""

import os
import threading
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from imagesprint.errors import ImagesprintError, StorageError, needing
from imagesprint.files import naming
from imagesprint.storage import event_loop
from imagesprint.storage.attempts import ATTEMPT, FIRST_WAIT, LONG_ATTEMPT, LONG_RETRIES, LONGEST_WAIT, try_again
from imagesprint.storage.configuring import Service
from imagesprint.storage.failures import Failure, explain
from imagesprint.storage.store import PIECE, PIECES_AT_ONCE, Store, Stored
from imagesprint.storage.url import Url

with needing("remote"):
    import opendal
    from opendal import exceptions, layers

# They have no class in common.
ERRORS: Final[tuple[type[Exception], ...]] = tuple(each for each in vars(exceptions).values() if isinstance(each, type))
SEND_ERRORS: Final[tuple[type[Exception], ...]] = (*ERRORS, OSError)  # files of OpenDAL raise the latter
_MAX_PIECES: Final = 9000  # S3 has at most 10,000 in one file
# Its threads do not survive a fork, and calls of the child would wait for them forever.
_user: int | None = None

Answer = TypeVar("Answer")


class Opened:
    """OpenDAL's operators of one service: they differ in how long they wait and in what they try again themselves."""

    def __init__(self, service: Service, is_unsigned: bool = False) -> None:
        options = service.options | ({"skip_signature": "true"} if is_unsigned else {})
        self.address = service.address
        self.is_unsigned = is_unsigned
        self.can_be_unsigned = service.name in ("s3", "gcs") and "skip_signature" not in options
        short = layers.TimeoutLayer(timeout=ATTEMPT, io_timeout=ATTEMPT)
        long = layers.TimeoutLayer(timeout=ATTEMPT, io_timeout=LONG_ATTEMPT)
        again = layers.RetryLayer(
            max_times=LONG_RETRIES, factor=2.0, jitter=True, min_delay=FIRST_WAIT, max_delay=LONGEST_WAIT
        )
        bare = opendal.Operator(service.name, **options)
        self.operator = bare.layer(short)
        # What a file system took of a piece that failed is in the file already.
        self.sender = self.operator if service.name == "hdfs-native" else bare.layer(long).layer(again)
        # The other kind of operator keeps all threads of Python waiting while it asks for a page.
        self.lister = opendal.AsyncOperator(service.name, **options).layer(short)
        self.capability = bare.capability()


class OpenDalStore(Store):
    """See Store. What writes differs between object stores and file systems, and what is known of a file."""

    def __init__(self, url: Url) -> None:
        global _user
        super().__init__(url)
        _user = _user or os.getpid()
        self.lock = threading.Lock()
        self.opened: Opened | None = None

    @abstractmethod
    def open(self) -> Opened:
        """The operators for this place. It may ask the store; what it raises is of ERRORS, OSError or ours."""

    @abstractmethod
    def stored(self, key: str, found: Any) -> Stored:
        """What OpenDAL's metadata say."""

    def where(self, key: str) -> Url:
        """The URL of a file, for messages."""
        return self.url / key if key else self.url

    def path(self, key: str) -> str:
        """What OpenDAL calls a file."""
        return "/".join(part for part in (self.url.key, key) if part)

    def ready(self) -> Opened:
        """The operators, made by the first call. Raises StorageError in a child of a process that had a store open."""
        if _user != os.getpid():
            what = f"cannot use {self.url}: this process was forked from one that uses a store"
            raise StorageError(what, "start it anew instead, as subprocess or multiprocessing's spawn do")
        with self.lock:
            if self.opened is None:
                self.opened = self.open()
            return self.opened

    def explain(self, error: Exception) -> Failure:
        """What an error means, of ERRORS or OSError."""
        address = self.url.host if self.opened is None else self.opened.address
        return explain(self.url, address, f"{type(error).__name__} {error}")

    def call(
        self, operation: str, key: str, ask: Callable[[Opened], Answer], is_tried_by_opendal: bool = False
    ) -> Answer:
        """Return what `ask` does, tried again as `try_again` has it, unless OpenDAL itself has tried often enough."""

        def meaning(error: Exception) -> Failure:
            if isinstance(error, ImagesprintError):  # a local file that cannot be read is an OSError, too
                raise error
            failure = self.explain(error)
            return replace(failure, may_pass=False) if is_tried_by_opendal else failure

        return try_again(lambda: ask(self.ready()), SEND_ERRORS, meaning, f"{operation} {self.where(key)}")

    def stat(self, key: str) -> Stored | None:
        def look(opened: Opened) -> Any:
            try:
                return opened.operator.stat(self.path(key))
            except exceptions.NotFound:
                return None

        found = self.call("look at", key, look)
        return None if found is None or found.is_dir else self.stored(key, found)

    def read(self, key: str, start: int = 0, num_bytes: int | None = None, etag: str = "") -> bytes:
        if num_bytes == 0:
            return b""

        def get(opened: Opened) -> bytes:
            condition = etag if etag and opened.capability.read_with_if_match else None
            try:
                data = opened.operator.read(self.path(key), offset=start, size=num_bytes, if_match=condition)
            except exceptions.ConditionNotMatch:
                raise self.changed(key) from None
            if num_bytes is not None and len(data) != num_bytes:
                raise exceptions.RangeNotSatisfied(f"{len(data)} bytes came")
            return bytes(data)

        return self.call("read", key, get)

    def changed(self, key: str, operation: str = "read") -> StorageError:
        """The error that a file or folder is no longer what it was."""
        hint = "let nothing write there meanwhile, and give the same command again"
        return StorageError(f"cannot {operation} {self.where(key)}: it changed while it was read", hint)

    def folders(self, folder: str = "") -> Sequence[str]:
        base = self._base(folder)
        entries = self._entries(folder, base, recursive=False)
        return sorted(each.path.removeprefix(base).rstrip("/") for each in entries if each.path not in (base, "/"))

    def list(self, folder: str = "") -> Iterator[Stored]:
        base = self._base(folder)
        for entry in self._entries(folder, base, recursive=True):
            if entry.path.startswith(base):  # else it is a file, as a file system has it, of the folder's name
                yield self.stored(entry.path.removeprefix(base), entry.metadata)

    def _base(self, folder: str) -> str:
        place = self.path(folder)
        return f"{place}/" if place else ""

    def _entries(self, folder: str, base: str, recursive: bool) -> Iterator[Any]:
        """The files below `base`, or the folders straight in it."""

        done, last = 0, ""  # how many came, and the last of them
        entries: AsyncIterator[Any] | None = None

        async def those_after(opened: Opened, done: int, last: str) -> AsyncIterator[Any]:
            """The entries after the first `done`. OpenDAL's own retries may leave some out once time was up for one."""
            can_begin_after = opened.capability.list_with_start_after and done > 0
            begin = last if can_begin_after else None
            number = done if can_begin_after else 0
            async for entry in await opened.lister.list(base, recursive=recursive, start_after=begin):
                number += 1
                if number == done and entry.path != last:
                    raise self.changed(folder, "list")
                if number > done:
                    yield entry
            if number < done:
                raise self.changed(folder, "list")

        def take(opened: Opened) -> Sequence[Any]:
            nonlocal entries
            entries = entries or those_after(opened, done, last)
            try:
                return event_loop.run(event_loop.take(entries))
            except BaseException:
                entries = None
                raise

        while taken := self.call("list", folder, take):
            done, last = done + len(taken), taken[-1].path
            yield from (entry for entry in taken if entry.path.endswith("/") is not recursive)


def send(opened: Opened, path: str, pieces: Iterator[bytes], size: int) -> None:
    """Write a file in pieces to `path`: an object is there once the store was told that these were all.

    Raises one of SEND_ERRORS, and what `pieces` raises.
    """
    file = opened.sender.open(path, "wb", chunk=size, concurrent=PIECES_AT_ONCE)
    for piece in pieces:
        file.write(piece)
    file.close()  # not by `with`, which would also make a file of what came before an error


def piece_size(num_bytes: int) -> int:
    """How large the pieces of a file are that is sent."""
    return max(PIECE, -(-num_bytes // _MAX_PIECES))


def pieces_of(file: Path, size: int) -> Iterator[bytes]:
    """The pieces of a local file. Raises FileError."""
    with naming("read", file), file.open("rb") as source:
        while piece := source.read(size):
            yield piece
