"""A place: a folder or file of this machine, or one in a store, named by a URL."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from imagesprint.errors import UsageError

SCHEMES: Final = ("s3", "hdfs", "gs", "az", "http", "https")  # and file, which is a path of this machine
READ_ONLY: Final = ("http", "https")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, order=True)
class Url:
    """A place in a store: `text` without a slash at its end, as `s3://bucket/data/flowers`.

    It joins, prints and has name and parent as a Path does, so that messages read alike.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self.text}/{name}")

    @property
    def scheme(self) -> str:
        return self.text.partition("://")[0]

    @property
    def host(self) -> str:
        """The bucket, container, or host and port."""
        return self.text.partition("://")[2].partition("/")[0]

    @property
    def key(self) -> str:
        """What lies below `host`, without a slash at either end; empty for the store's root."""
        return self.text.partition("://")[2].partition("/")[2]

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        return Url(self.text.rpartition("/")[0]) if self.key else self

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix


Place = Path | Url


def parse_place(text: str) -> Place:
    """Return what `text` names: a Url for those of SCHEMES, a Path for file:// and all else.

    Raises UsageError for a URL of another scheme, without a bucket or host, or with a user's name and password in it
    (they would be in logs and the list of processes).
    """
    if not _URL.match(text):
        return Path(text)
    parts = urlsplit(text)
    scheme = parts.scheme.lower()
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise UsageError(f"{text}: a file:// URL names no other host", "write file:///folder/file")
        return Path(unquote(parts.path))
    if scheme not in SCHEMES:
        raise UsageError(f"{text}: there is no storage {scheme}://", f"known are file://, {'://, '.join(SCHEMES)}://")
    if "@" in parts.netloc and scheme != "az":
        raise UsageError(f"{scheme}://…@{parts.hostname}: credentials in a URL end up in logs", "set the environment's")
    if not parts.netloc:
        raise UsageError(f"{text} names no bucket or host", f"write {scheme}://BUCKET/FOLDER")
    return Url(f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}")
