"""S3, GCS, Azure and HTTP: files are objects, which are there at once and whole, or not."""

import http
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote

from imagesprint.errors import StorageError, needing
from imagesprint.files import naming
from imagesprint.storage import event_loop
from imagesprint.storage.attempts import ATTEMPT
from imagesprint.storage.configuring import service_of
from imagesprint.storage.failures import NO_CREDENTIALS, Failure, explain
from imagesprint.storage.opendal_store import ERRORS, OpenDalStore, Opened, piece_size, pieces_of, send
from imagesprint.storage.store import PIECE, Stored
from imagesprint.storage.url import READ_ONLY, Url

with needing("remote"):
    from opendal import exceptions

_NO_LENGTH: Final = re.compile(r"does not contain .*content length|status: (405|501)\b")  # of an answer to HEAD
_EXISTS: Final = (exceptions.ConditionNotMatch, exceptions.AlreadyExists)

Answer = TypeVar("Answer")


class ObjectStore(OpenDalStore):
    """See Store."""

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._is_http = url.scheme in READ_ONLY
        self._has_answered = False
        self._keeps_to_conditions = False

    def open(self) -> Opened:
        return Opened(service_of(self.url))

    def path(self, key: str) -> str:
        if not self._is_http:
            return super().path(key)
        return "/".join(part for part in (unquote(self.url.key), key) if part)

    def explain(self, error: Exception) -> Failure:
        if self.opened is not None and self.opened.is_unsigned and isinstance(error, exceptions.PermissionDenied):
            return explain(self.url, self.opened.address, NO_CREDENTIALS)  # and it is not public
        return super().explain(error)

    def call(
        self, operation: str, key: str, ask: Callable[[Opened], Answer], is_tried_by_opendal: bool = False
    ) -> Answer:
        """As of OpenDalStore; without credentials, unsigned, as public buckets allow."""

        def ask_again(opened: Opened) -> Answer:
            try:
                return ask(opened)
            except ERRORS as error:
                if not (opened.can_be_unsigned and NO_CREDENTIALS in str(error)):
                    raise
                with self.lock:
                    self.opened = Opened(service_of(self.url), is_unsigned=True)
                return ask(self.opened)

        return super().call(operation, key, ask_again, is_tried_by_opendal)

    def stored(self, key: str, found: Any) -> Stored:
        modified = found.last_modified.timestamp() if found.last_modified else 0.0
        return Stored(key, found.content_length, modified, found.etag or "")

    def stat(self, key: str) -> Stored | None:
        found = self.call("look at", key, lambda opened: self._look(opened, key))
        if found is None and not self._has_answered and not self._is_http:
            self._look_for_bucket()
        self._has_answered = True
        return found

    def _look(self, opened: Opened, key: str) -> Stored | None:
        try:
            found = opened.operator.stat(self.path(key))
        except exceptions.NotFound:
            return None
        except exceptions.PermissionDenied:
            opened.operator.read(self.path(key), offset=0, size=1)  # which is told why, other than HEAD
            raise
        except exceptions.Unexpected as error:
            if self._is_http and _NO_LENGTH.search(str(error)):
                return Stored(key, _http_size(f"{self.url}/{quote(key)}" if key else str(self.url)), 0.0, "")
            raise
        return None if found.is_dir else self.stored(key, found)

    def _look_for_bucket(self) -> None:
        """Raise StorageError where there is no bucket: asked for a file alone, S3 does not tell the difference."""

        async def first(opened: Opened) -> None:
            async for _ in await opened.lister.list("/", limit=1):
                break

        def look(opened: Opened) -> None:
            with suppress(exceptions.NotFound, exceptions.PermissionDenied):  # who may not list may still read
                event_loop.run(first(opened))

        self.call("look at", "", look)

    def write(self, key: str, data: bytes) -> None:
        if len(data) > PIECE:
            pieces = (data[start : start + PIECE] for start in range(0, len(data), PIECE))
            self._send(key, pieces, PIECE)
        else:
            self.call("write", key, lambda opened: opened.operator.write(self.path(key), data))

    def upload(self, file: Path, key: str) -> None:
        with naming("read", file):
            num_bytes = file.stat().st_size
            if num_bytes <= PIECE:
                self.write(key, file.read_bytes())
            else:
                size = piece_size(num_bytes)
                self._send(key, pieces_of(file, size), size)

    def _send(self, key: str, pieces: Iterator[bytes], size: int) -> None:
        """Write a file in pieces, each of which OpenDAL tries again."""
        self.call("write", key, lambda opened: send(opened, self.path(key), pieces, size), is_tried_by_opendal=True)

    def create(self, key: str, data: bytes) -> bool:
        is_again = False  # whether an attempt before this one may have written it

        def put(opened: Opened) -> bool:
            nonlocal is_again
            was_again, is_again = is_again, True
            try:
                opened.operator.write(self.path(key), data, if_not_exists=True)
            except _EXISTS as error:
                if "(temporary)" in str(error):  # S3's 409: another is writing it
                    raise exceptions.RateLimited("status: 409") from None
                return was_again and opened.operator.read(self.path(key)) == data
            return True

        created = self.call("create", key, put)
        if created and not self._keeps_to_conditions:
            self._check_conditions(key, data)
        return created

    def replace(self, key: str, data: bytes, seen: Stored) -> bool:
        if not (seen.etag and self.ready().capability.write_with_if_match):
            return super().replace(key, data, seen)

        def put(opened: Opened) -> bool:
            try:
                opened.operator.write(self.path(key), data, if_match=seen.etag)
            except (exceptions.ConditionNotMatch, exceptions.NotFound):  # also where an answer was lost: who reads sees
                return False
            return True

        return self.call("write", key, put)

    def _check_conditions(self, key: str, data: bytes) -> None:
        """Raise StorageError where the store writes, told not to, over a file that is there: this one, as it is."""

        def put_again(opened: Opened) -> bool:
            try:
                opened.operator.write(self.path(key), data, if_not_exists=True)
            except _EXISTS:
                return True
            return False

        self._keeps_to_conditions = self.call("create", key, put_again)
        if not self._keeps_to_conditions:
            what = "this store writes over a file that is there although it is told not to (If-None-Match)"
            raise StorageError(f"cannot create {self.where(key)}: {what}", "update it, or use another one for runs")

    def _entries(self, folder: str, base: str, recursive: bool) -> Iterator[Any]:
        if self._is_http:
            raise StorageError(f"cannot list {self.where(folder)}: HTTP has no lists of files", "name the file itself")
        return super()._entries(folder, base, recursive)

    def delete(self, key: str) -> None:
        self.call("delete", key, lambda opened: opened.operator.delete(self.path(key)))


def _http_size(url: str) -> int:
    """The bytes of a file at a server that does not tell them when asked for HEAD: a range of it tells."""
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    try:
        with urllib.request.urlopen(request, timeout=ATTEMPT) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            return int(total) if total.isdecimal() else int(answer.headers.get("Content-Length") or 0)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # it is empty
            return 0
        raise exceptions.Unexpected(f"status: {error.code}") from None
