"""S3, GCS, Azure and HTTP by way of OpenDAL, which speaks them without further packages."""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from imagesprint.errors import FileError, StorageError, needing
from imagesprint.files import naming
from imagesprint.storage import event_loop
from imagesprint.storage.attempts import ATTEMPT, FIRST_WAIT, LONG_ATTEMPT, LONG_RETRIES, LONGEST_WAIT, try_again
from imagesprint.storage.configuring import Service, service_of
from imagesprint.storage.failures import NO_CREDENTIALS, Failure, explain
from imagesprint.storage.store import PIECE, PIECES_AT_ONCE, Store, Stored
from imagesprint.storage.url import READ_ONLY, Url

with needing("remote"):
    import opendal
    from opendal import exceptions, layers

_MAX_PIECES: Final = 9000  # S3 has at most 10,000 in one file
# They have no class in common.
_ERRORS: Final[tuple[type[Exception], ...]] = tuple(
    each for each in vars(exceptions).values() if isinstance(each, type)
)
_SEND_ERRORS: Final[tuple[type[Exception], ...]] = (*_ERRORS, OSError)  # files of OpenDAL raise the latter
_EXISTS: Final = (exceptions.ConditionNotMatch, exceptions.AlreadyExists)
# Its threads do not survive a fork, and calls of the child would wait for them forever.
_user: int | None = None

Answer = TypeVar("Answer")


class OpenDalStore(Store):
    """See Store."""

    def __init__(self, url: Url) -> None:
        global _user
        super().__init__(url)
        _user = _user or os.getpid()
        self._lock = threading.Lock()
        self._opened: _Opened | None = None
        self._has_answered = False
        self._keeps_to_conditions = False

    def _where(self, key: str) -> Url:
        return self.url / key if key else self.url

    def _path(self, key: str) -> str:
        place = self.url.key if self.url.scheme not in READ_ONLY else unquote(self.url.key)
        return "/".join(part for part in (place, key) if part)

    def _open(self) -> "_Opened":
        """The operators, made by the first call. Raises StorageError in a child of a process that had a store open."""
        if _user != os.getpid():
            what = f"cannot use {self.url}: this process was forked from one that uses a store"
            raise StorageError(what, "start it anew instead, as subprocess or multiprocessing's spawn do")
        with self._lock:
            if self._opened is None:
                self._opened = _Opened(service_of(self.url))
            return self._opened

    def _explain(self, error: Exception, is_again: bool = True) -> Failure:
        opened = self._opened
        said = f"{type(error).__name__} {error}"
        if opened is not None and opened.is_unsigned and isinstance(error, exceptions.PermissionDenied):
            said = NO_CREDENTIALS  # and it is not public
        failure = explain(self.url, self.url.host if opened is None else opened.address, said)
        return failure if is_again else replace(failure, may_pass=False)

    def _try(self, operation: str, key: str, call: Callable[["_Opened"], Answer], is_again: bool = True) -> Answer:
        """Return what `call` does; without credentials, unsigned, as public buckets allow.

        `is_again` tells whether it may be tried again: not what OpenDAL tries again itself.
        """

        def once() -> Answer:
            opened = self._open()
            try:
                return call(opened)
            except _ERRORS as error:
                if not (opened.can_be_unsigned and NO_CREDENTIALS in str(error)):
                    raise
                with self._lock:
                    self._opened = _Opened(service_of(self.url), is_unsigned=True)
                return call(self._opened)

        what = f"{operation} {self._where(key)}"
        return try_again(once, _ERRORS, lambda error: self._explain(error, is_again), what)

    def stat(self, key: str) -> Stored | None:
        def look(opened: "_Opened") -> Any:
            try:
                return opened.operator.stat(self._path(key))
            except exceptions.NotFound:
                return None
            except exceptions.PermissionDenied:
                opened.operator.read(self._path(key), offset=0, size=1)  # which is told why, other than HEAD
                raise

        found = self._try("look at", key, look)
        if found is None and not self._has_answered and self.url.scheme not in READ_ONLY:
            self._look_for_bucket()
        self._has_answered = True
        if found is None or found.is_dir:
            return None
        if found.content_length == 0 and self.url.scheme in READ_ONLY:
            return _stored(key, found, num_bytes=_http_size(str(self._where(key))))
        return _stored(key, found)

    def _look_for_bucket(self) -> None:
        """Raise StorageError where there is no bucket: asked for a file alone, S3 does not tell the difference."""

        def look(opened: "_Opened") -> None:
            with suppress(exceptions.NotFound, exceptions.PermissionDenied):  # who may not list may still read
                event_loop.run(_first(opened.lister))

        self._try("look at", "", look)

    def read(self, key: str, start: int = 0, num_bytes: int | None = None, etag: str = "") -> bytes:
        if num_bytes == 0:
            return b""

        def get(opened: "_Opened") -> bytes:
            condition = etag if etag and opened.capability.read_with_if_match else None
            try:
                data = opened.operator.read(self._path(key), offset=start, size=num_bytes, if_match=condition)
            except exceptions.ConditionNotMatch:
                hint = "let nothing write it meanwhile, and give the same command again"
                raise StorageError(f"cannot read {self._where(key)}: it changed while it was read", hint) from None
            if num_bytes is not None and len(data) != num_bytes:
                raise exceptions.RangeNotSatisfied(f"{len(data)} bytes came")
            return bytes(data)

        return self._try("read", key, get)

    def write(self, key: str, data: bytes) -> None:
        if len(data) > PIECE:
            pieces = (data[start : start + PIECE] for start in range(0, len(data), PIECE))
            self._send(key, pieces, PIECE)
        else:
            self._try("write", key, lambda opened: opened.operator.write(self._path(key), data))

    def upload(self, file: Path, key: str) -> None:
        with naming("read", file):
            num_bytes = file.stat().st_size
            if num_bytes <= PIECE:
                self.write(key, file.read_bytes())
            else:
                size = max(PIECE, -(-num_bytes // _MAX_PIECES))
                self._send(key, _pieces_of(file, size), size)

    def _send(self, key: str, pieces: Iterator[bytes], size: int) -> None:
        """Write a file in pieces: it is there once the store was told that these were all."""
        path = self._path(key)
        try:
            file = self._open().sender.open(path, "wb", chunk=size, concurrent=PIECES_AT_ONCE)
            for piece in pieces:
                file.write(piece)
            file.close()  # not by `with`, which would also make a file of what came before an error
        except FileError:
            raise
        except _SEND_ERRORS as error:
            raise self._explain(error).error(f"write {self._where(key)}") from None

    def create(self, key: str, data: bytes) -> bool:
        is_again = False  # whether an attempt before this one may have written it

        def put(opened: "_Opened") -> bool:
            nonlocal is_again
            was_again, is_again = is_again, True
            try:
                opened.operator.write(self._path(key), data, if_not_exists=True)
            except _EXISTS as error:
                if "(temporary)" in str(error):  # S3's 409: another is writing it
                    raise exceptions.RateLimited("status: 409") from None
                return was_again and opened.operator.read(self._path(key)) == data
            return True

        created = self._try("create", key, put)
        if created and not self._keeps_to_conditions:
            self._check_conditions(key, data)
        return created

    def _check_conditions(self, key: str, data: bytes) -> None:
        """Raise StorageError where the store writes, told not to, over a file that is there: this one, as it is."""

        def put_again(opened: "_Opened") -> bool:
            try:
                opened.operator.write(self._path(key), data, if_not_exists=True)
            except _EXISTS:
                return True
            return False

        self._keeps_to_conditions = self._try("create", key, put_again)
        if not self._keeps_to_conditions:
            what = "this store writes over a file that is there although it is told not to (If-None-Match)"
            hint = "update it (MinIO, Ceph and others learned it in 2024 and 2025), or use another for runs"
            raise StorageError(f"cannot create {self._where(key)}: {what}", hint)

    def replace(self, key: str, data: bytes, seen: Stored) -> bool:
        if not (seen.etag and self._open().capability.write_with_if_match):
            return super().replace(key, data, seen)

        def put(opened: "_Opened") -> bool:
            try:
                opened.operator.write(self._path(key), data, if_match=seen.etag)
            except (exceptions.ConditionNotMatch, exceptions.NotFound):  # also of an attempt whose answer was lost
                return False
            return True

        return self._try("write", key, put)

    def folders(self, folder: str = "") -> Sequence[str]:
        base = self._base(folder)
        entries = self._entries(folder, base, recursive=False)
        return sorted(each.path.removeprefix(base).rstrip("/") for each in entries if each.path not in (base, "/"))

    def list(self, folder: str = "") -> Iterator[Stored]:
        base = self._base(folder)
        for entry in self._entries(folder, base, recursive=True):
            yield _stored(entry.path.removeprefix(base), entry.metadata)

    def _entries(self, folder: str, base: str, recursive: bool) -> Iterator[Any]:
        """The files below `base`, or the folders straight in it."""
        if self.url.scheme in READ_ONLY:
            raise StorageError(f"cannot list {self._where(folder)}: HTTP has no lists of files", "name the file itself")

        async def all_of(opened: "_Opened") -> AsyncIterator[Any]:
            async for entry in await opened.lister.list(base, recursive=recursive):
                yield entry

        def begin(opened: "_Opened") -> tuple[AsyncIterator[Any], Sequence[Any]]:
            entries = all_of(opened)
            return entries, event_loop.run(event_loop.take(entries))

        entries, taken = self._try("list", folder, begin, is_again=False)
        while taken:
            yield from (entry for entry in taken if entry.path.endswith("/") is not recursive)
            taken = self._try("list", folder, lambda _: event_loop.run(event_loop.take(entries)), is_again=False)

    def _base(self, folder: str) -> str:
        place = self._path(folder)
        return f"{place}/" if place else ""

    def delete(self, key: str) -> None:
        self._try("delete", key, lambda opened: opened.operator.delete(self._path(key)))


class _Opened:
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
        self.sender = bare.layer(long).layer(again)
        # The other kind of operator keeps all threads of Python waiting while it asks for a page.
        self.lister = opendal.AsyncOperator(service.name, **options).layer(short).layer(again)
        self.capability = bare.capability()


async def _first(lister: Any) -> None:
    """Ask for one entry."""
    async for _ in await lister.list("/", limit=1):
        break


def _pieces_of(file: Path, size: int) -> Iterator[bytes]:
    with naming("read", file), file.open("rb") as source:
        while piece := source.read(size):
            yield piece


def _stored(key: str, found: Any, num_bytes: int | None = None) -> Stored:
    modified = found.last_modified.timestamp() if found.last_modified else 0.0
    size = found.content_length if num_bytes is None else num_bytes
    return Stored(key, size, modified, found.etag or "")


def _http_size(url: str) -> int:
    """The bytes of a file at a server whose answer to HEAD leaves that out, as an answer to a range has it."""
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    try:
        with urllib.request.urlopen(request, timeout=ATTEMPT) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            return int(total) if total.isdecimal() else int(answer.headers.get("Content-Length") or 0)
    except urllib.error.HTTPError:  # 416: it is empty
        return 0
