"""A place: a folder or file of this machine, or one in a store, named by a URL."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from imagesprint.errors import UsageError

SCHEMES: Final = ("s3", "hdfs", "gs", "az", "http", "https")  # and file, which is a path of this machine
READ_ONLY: Final = ("http", "https")
_KNOWN: Final = f"known are file://, {'://, '.join(SCHEMES)}://"
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(.*)", re.DOTALL)
_HOSTS: Final = {"hdfs": "NAMENODE:PORT", "az": "CONTAINER", "http": "HOST", "https": "HOST"}  # else BUCKET
_ADDRESS: Final = re.compile(r"(\[[^]]*\]|[^:]*)(:\d+)?")  # a host, or an IPv6 address in brackets, and a port
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, order=True)
class Url:
    """A place in a store: `text` without a slash at its end, as `s3://bucket/data/flowers`.

    It joins, prints and has name and parent as a Path does, so that messages read alike. Nothing in it is escaped: what
    stands after the host is the key as the store has it, also where it has spaces or one of %, +, # and ?.
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
        """The bucket, container, or host and port; empty for the file system that Hadoop's configuration names."""
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
        return PurePosixPath(self.name).suffix


Place = Path | Url


def parse_place(text: str) -> Place:
    """Return what `text` names: a Url for those of SCHEMES, a Path for file:// and all else.

    Raises UsageError for a URL of another scheme, without a bucket or host, whose key no store would keep as it is, or
    with what may be a secret: a user's name and password, or a query, which is where signed URLs have theirs. They
    would be in logs, recipes and the list of processes; so the messages leave them out, too.
    """
    matched = _URL.match(text)
    if matched is None:
        return Path(text)
    scheme, host, rest = matched[1].lower(), matched[2], matched[3]
    if "@" in host:
        host = host.rpartition("@")[2]
        hint = "the account is AZURE_STORAGE_ACCOUNT_NAME's" if scheme == "az" else "set those of the environment"
        raise UsageError(f"{scheme}://…@{host}: a URL with a user or credentials would end up in logs", hint)
    if scheme == "file":
        return _local(text)
    if scheme not in SCHEMES:
        raise UsageError(f"{scheme}://{host}: there is no storage {scheme}://", _KNOWN)
    if scheme in READ_ONLY and re.search(r"[?#]", host + rest):
        what = f"{scheme}://{re.split(r'[?#]', host + rest)[0]}?…: a URL with a query, such as a signed one, "
        raise UsageError(f"{what}would end up in logs", "download that file, and give its path")
    if not host and scheme != "hdfs":
        raise UsageError(f"{text} names no bucket or host", f"write {scheme}://{_HOSTS.get(scheme, 'BUCKET')}/FOLDER")
    if scheme in ("hdfs", *READ_ONLY) and not _ADDRESS.fullmatch(host):
        raise UsageError(f"{scheme}://{host}: the port is no number", f"write {scheme}://HOST:PORT/FOLDER")
    parts = [part for part in rest.split("/") if part]  # stores read a//b as a/b, or take it for another key
    if {".", ".."} & {*parts} or _CONTROLS.search(host + rest):
        raise UsageError(f"{text!r}: a key has no parts . or .. and no control characters", "write it without them")
    return Url("/".join([f"{scheme}://{host}", *parts]))


def _local(text: str) -> Path:
    """The path of a file:// URL; its escapes are undone, as everywhere."""
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{text}: a file:// URL names no other host", "write file:///folder/file")
    return Path(unquote(text.partition("://")[2].removeprefix("localhost")))
