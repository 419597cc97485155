"""Every store by way of OpenDAL, which speaks S3, HDFS, GCS, Azure and HTTP without further packages."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from imagesprint.errors import StorageError, needing
from imagesprint.files import write_atomically
from imagesprint.storage.store import Store, Stored
from imagesprint.storage.url import Url

with needing("remote"):
    import opendal
    from opendal import exceptions


class OpenDalStore(Store):
    """See Store. A first version: s3:// by AWS_ENDPOINT_URL and the keys of the environment."""

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._operator = _operator(url)
        self._prefix = url.key

    def _path(self, key: str) -> str:
        return "/".join(part for part in (self._prefix, key) if part)

    def _error(self, operation: str, key: str, error: Exception) -> StorageError:
        return StorageError(f"cannot {operation} {self.url / key if key else self.url}: {error}")

    def stat(self, key: str) -> Stored | None:
        try:
            found = self._operator.stat(self._path(key))
        except exceptions.NotFound:
            return None
        except exceptions.Error as error:
            raise self._error("look at", key, error) from error
        return _stored(key, found)

    def read(self, key: str, start: int = 0, num_bytes: int | None = None) -> bytes:
        try:
            data = bytes(self._operator.read(self._path(key), offset=start, size=num_bytes))
        except exceptions.Error as error:
            raise self._error("read", key, error) from error
        if num_bytes is not None and len(data) != num_bytes:
            raise self._error("read", key, ValueError(f"{len(data)} bytes came, not {num_bytes}"))
        return data

    def download(self, key: str, file: Path) -> None:
        write_atomically(file, lambda out: out.write(self.read(key)))

    def write(self, key: str, data: bytes) -> None:
        try:
            self._operator.write(self._path(key), data)
        except exceptions.Error as error:
            raise self._error("write", key, error) from error

    def upload(self, file: Path, key: str) -> None:
        self.write(key, file.read_bytes())

    def create(self, key: str, data: bytes) -> bool:
        try:
            self._operator.write(self._path(key), data, if_not_exists=True)
        except (exceptions.ConditionNotMatch, exceptions.AlreadyExists):
            return False
        except exceptions.Error as error:
            raise self._error("create", key, error) from error
        return True

    def list(self, folder: str = "") -> Iterator[Stored]:
        place = self._path(folder)
        base = f"{place}/" if place else ""
        try:
            for entry in self._operator.list(base, recursive=True):
                if not entry.path.endswith("/"):
                    yield _stored(entry.path.removeprefix(base), self._operator.stat(entry.path))
        except exceptions.NotFound:
            return
        except exceptions.Error as error:
            raise self._error("list", folder, error) from error

    def folders(self, folder: str = "") -> Sequence[str]:
        return sorted({stored.key.partition("/")[0] for stored in self.list(folder) if "/" in stored.key})

    def delete(self, key: str) -> None:
        try:
            self._operator.delete(self._path(key))
        except exceptions.Error as error:
            raise self._error("delete", key, error) from error


def _operator(url: Url) -> Any:
    import os

    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    region = os.environ.get("AWS_REGION", "us-east-1")
    return opendal.Operator("s3", bucket=url.host, endpoint=endpoint, region=region)


def _stored(key: str, found: Any) -> Stored:
    modified = found.last_modified.timestamp() if found.last_modified else 0.0
    return Stored(key, found.content_length, modified, found.etag or "")
