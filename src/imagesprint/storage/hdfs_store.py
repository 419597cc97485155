"""HDFS, a file system: files that are being written can be seen, and so they have another name until they are whole."""

import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final
from xml.etree import ElementTree

from imagesprint.errors import StorageError, UsageError, needing
from imagesprint.storage.attempts import ATTEMPT
from imagesprint.storage.configuring import Service
from imagesprint.storage.failures import Failure
from imagesprint.storage.opendal_store import SEND_ERRORS, OpenDalStore, Opened, pieces_of, send
from imagesprint.storage.store import PIECE, Stored
from imagesprint.storage.url import Url

with needing("remote"):
    import hdfs_native  # which OpenDAL has inside; but that renames by deleting first, and always over what is there
    from opendal import exceptions

_UNFINISHED: Final = ".imagesprint-tmp"  # how the name of a file ends that is being written
_PORT: Final = 8020  # of a NameNode, where neither URL nor configuration has one
_HAS_PORT: Final = re.compile(r":\d+$")
_CONNECT: Final = 5.0  # seconds


class HdfsStore(OpenDalStore):
    """See Store. What is left of a file whose writer was killed is not listed; it lies beside where the file would."""

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._client: Any = None
        self._failed = ""  # the NameNode that was asked when a call failed last

    def open(self) -> Opened:
        """Connect first: told alone that time is up, nobody knows why. A NameNode that answers comes first."""
        addresses = sorted(_namenodes(self.url), key=lambda address: address == self._failed)
        failures: list[OSError] = []
        for address in list(addresses):
            try:
                host, _, port = address.rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT).close()
                break
            except OSError as error:
                failures.append(error)
                addresses.append(addresses.pop(0))
        else:
            raise failures[0]
        self._client = hdfs_native.Client(*_for_hdfs_native(self.url, addresses))
        name = f"hdfs://{','.join(addresses)}"
        return Opened(Service("hdfs-native", {"name_node": name}, addresses[0]))

    def explain(self, error: Exception) -> Failure:
        failure = super().explain(error)
        if failure.may_pass and self.opened is not None:
            self._failed, self.opened = self.opened.address, None  # another one may have taken over
        return failure

    def stored(self, key: str, found: Any) -> Stored:
        modified = found.last_modified.timestamp() if found.last_modified else 0.0
        return Stored(key, found.content_length, modified, f"{modified * 1000:.0f}-{found.content_length}")

    def read(self, key: str, start: int = 0, num_bytes: int | None = None, etag: str = "") -> bytes:
        data = super().read(key, start, num_bytes)
        if etag:
            found = self.stat(key)
            if found is None or found.etag != etag:
                raise self.changed(key)
        return data

    def write(self, key: str, data: bytes) -> None:
        self._send("write", key, lambda: (data[start : start + PIECE] for start in range(0, len(data), PIECE)), True)

    def upload(self, file: Path, key: str) -> None:
        self._send("write", key, lambda: pieces_of(file, PIECE), True)

    def create(self, key: str, data: bytes) -> bool:
        return self.stat(key) is None and self._send("create", key, lambda: iter((data,)), False)

    def _send(self, operation: str, key: str, pieces: Callable[[], Iterator[bytes]], replaces: bool) -> bool:
        """Write a file under another name, and have the NameNode give it its own; False where that is taken."""
        folder, _, name = self.path(key).rpartition("/")
        unfinished = f"{folder}/.{name}.{secrets.token_hex(8)}{_UNFINISHED}".lstrip("/")
        is_done = False

        def give_name(opened: Opened) -> bool:
            try:
                _within(ATTEMPT, lambda: self._client.rename(f"/{unfinished}", f"/{self.path(key)}", replaces))
            except FileExistsError:
                return False
            except FileNotFoundError:  # an attempt before this one did it, and its answer was lost
                return bool(opened.operator.exists(self.path(key)))
            return True

        try:
            self.call(operation, key, lambda opened: send(opened, unfinished, pieces(), PIECE))
            is_done = self.call(operation, key, give_name)
        finally:
            if not is_done:
                with suppress(StorageError, *SEND_ERRORS):
                    self.ready().operator.delete(unfinished)
        return is_done

    def list(self, folder: str = "") -> Iterator[Stored]:
        return (stored for stored in super().list(folder) if not stored.key.endswith(_UNFINISHED))

    def delete(self, key: str) -> None:
        if self.stat(key) is not None:  # told to remove a folder, it would
            self.call("delete", key, lambda opened: opened.operator.delete(self.path(key)))


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """Return what `call` does, which waits without end where nobody answers; its thread then does so alone."""
    done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            done.put((call(), None))
        except BaseException as error:
            done.put((None, error))

    threading.Thread(target=work, name="hdfs rename", daemon=True).start()
    try:
        answer, error = done.get(timeout=seconds)
    except Empty:
        raise exceptions.Unexpected("timeout reached") from None
    if error is None:
        return answer
    # The others are of no class of their own.
    raise error if isinstance(error, OSError) else exceptions.Unexpected(str(error))


def _namenodes(url: Url) -> list[str]:
    """Host and port of each NameNode of `url`, as Hadoop's configuration has them. Raises UsageError."""
    if _HAS_PORT.search(url.host):
        return [url.host]
    settings = _settings()
    name = url.host or settings.get("fs.defaultFS", "").partition("://")[2].strip("/")
    if not name:
        hint = "write hdfs://NAMENODE:PORT/FOLDER, or set HADOOP_CONF_DIR to the folder of core-site.xml"
        raise UsageError(f"{url} names no NameNode, and Hadoop's configuration names none", hint)
    several = [each.strip() for each in settings.get(f"dfs.ha.namenodes.{name}", "").split(",") if each.strip()]
    found = [settings.get(f"dfs.namenode.rpc-address.{name}.{each}", "") for each in several]
    addresses = [each for each in found if each] or [name]
    return [each if _HAS_PORT.search(each) else f"{each}:{_PORT}" for each in addresses]


def _settings() -> dict[str, str]:
    """Hadoop's configuration: core-site.xml and hdfs-site.xml of HADOOP_CONF_DIR, or of HADOOP_HOME."""
    home = os.environ.get("HADOOP_HOME")
    folder = os.environ.get("HADOOP_CONF_DIR") or (f"{home}/etc/hadoop" if home else None)
    settings: dict[str, str] = {}
    for name in ("core-site.xml", "hdfs-site.xml") if folder is not None else ():
        with suppress(OSError, ElementTree.ParseError):
            for each in ElementTree.parse(Path(str(folder), name)).getroot().iter("property"):
                settings[each.findtext("name", "").strip()] = each.findtext("value", "").strip()
    return settings


def _for_hdfs_native(url: Url, addresses: list[str]) -> tuple[str, dict[str, str]]:
    """What hdfs-native takes: a URL, and what else it needs to know."""
    if len(addresses) == 1:
        return f"hdfs://{addresses[0]}", {}
    name = url.host or "default"
    settings = {f"dfs.namenode.rpc-address.{name}.{number}": each for number, each in enumerate(addresses)}
    return f"hdfs://{name}", settings | {f"dfs.ha.namenodes.{name}": ",".join(map(str, range(len(addresses))))}
