"""Where a ROOT is made: in a folder of this disk, or in one from which a store gets each shard as it is finished.

Below a URL lies what lies in a folder, in the same layout: either may be copied to the other, also unfinished. The
store is what counts. The folder on this disk, below `prepared` in the cache, is one process's own; it has the store's
small files, and of each shard that is stored a file of holes as long as it. A process that begins with an empty disk,
or goes on after a kill, pulls that from the store: which shards are finished, and what they hold.

A shard goes to the store whole, in each variant, then its rows of the indexes, then SHARD.json, which says that it is
finished. On this disk are the shards that are being written and those that wait for the store, _WAITING at most.
"""

import fcntl
import hashlib
import itertools
import json
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import uuid4

from imagesprint.console import Console
from imagesprint.errors import StorageError, UsageError
from imagesprint.files import naming, remove
from imagesprint.prepare.parts import CONVERTED, PLAN, REJECTED, Lock, Parts, ShardResult, open_lock
from imagesprint.prepare.remote_lock import RemoteLock
from imagesprint.records.dataset import PARTS, is_variant_name
from imagesprint.records.manifest import FILE_NAME, SPLITS, ShardInfo, from_plain
from imagesprint.records.tfrecord import file_crc
from imagesprint.storage.cache import cache_folder
from imagesprint.storage.mirror import check_names, fetch_files, is_there, locked, place_holes
from imagesprint.storage.naming import Naming
from imagesprint.storage.store import Store, Stored, open_store
from imagesprint.storage.url import READ_ONLY, Place, Url

_WAITING: Final = 4  # shards, of all variants each
_SENDERS: Final = 2  # shards that are sent at a time, each in several pieces
_REQUESTS: Final = 32  # small files that are removed at a time
_GO_ON: Final = "give the same command again: it goes on with the shards that are not there yet"


class RootPlace:
    """A ROOT on this disk, at `path`; `lock` keeps others out. What is finished stays where it was made."""

    def __init__(self, path: Path, lock: Lock | RemoteLock) -> None:
        self.path, self.lock = path, lock

    def pull(self) -> None:
        """Learn what others have made."""

    def begun(self) -> None:
        """Let others know the plan."""

    def publish(self, result: ShardResult) -> None:
        """Let others have a finished shard. Whatever is wrong with those before it may be raised here."""

    def drain(self) -> None:
        """Wait until they have all of them."""

    def finish(self, variants: Iterable[str]) -> None:
        """Let others have variants, which are finished."""

    def clear(self, parts: Parts) -> None:
        """Forget what was known of the parts: all is finished."""
        parts.clear()


def check_writable(root: Place) -> None:
    """Find out what cannot be written to before hours are spent on the source. Raises UsageError, StorageError."""
    if isinstance(root, Url):
        if root.scheme in READ_ONLY:
            raise UsageError(f"cannot write to {root}: web servers are for reading", "choose another ROOT")
        store, probe = open_store(root), f"{PARTS}/probe-{uuid4().hex}"
        store.write(probe, b"")
        store.delete(probe)


@contextmanager
def open_root_place(root: Place, names: Naming, console: Console) -> Iterator[RootPlace]:
    """Open a ROOT that is to be made, for the time of the block; `names` learns what is called by its URL.

    Raises what `open_lock` raises, StorageError.
    """
    if isinstance(root, Path):
        with open_lock(root) as lock:
            yield RootPlace(root, lock)
        return
    store = open_store(root)
    with _own_folder(root) as folder:
        names.add(folder, root)
        remote = _RemoteRoot(folder, store, console)
        try:
            yield remote
        finally:
            remote.close()


@contextmanager
def _own_folder(root: Url) -> Iterator[Path]:
    """Have a folder for the ROOT at a URL that no other process uses; it is kept where the block fails."""
    home = cache_folder().resolve() / "prepared" / hashlib.sha256(str(root).encode()).hexdigest()[:16]
    with naming("write", home):
        home.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        folder, lock = home / str(number), home / f"{number}.lock"
        with locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_mine:
            if is_mine:
                with naming("write", folder):
                    folder.mkdir(exist_ok=True)
                yield folder
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)
                with suppress(OSError):  # another process is at work at that ROOT
                    home.rmdir()
                return


class _RemoteRoot(RootPlace):
    """A ROOT in a store, made at `path`, a folder of the cache."""

    def __init__(self, path: Path, store: Store, console: Console) -> None:
        self.remote_lock = RemoteLock(store, console)
        super().__init__(path, self.remote_lock)
        self._store, self._console = store, console
        self._known: dict[str, Stored] = {}  # what was fetched of the small files
        self._pool = ThreadPoolExecutor(_SENDERS)
        self._slots = threading.Semaphore(_WAITING)
        self._sent: list[Future[None]] = []

    def close(self) -> None:
        """Let the shards that are being sent get there, and let go of the lock."""
        try:
            self._pool.shutdown(cancel_futures=True)
        finally:
            self.remote_lock.release_all()

    def pull(self) -> None:
        listed = self._list()
        plan = self.path / PARTS / PLAN
        stored = listed.get(f"{PARTS}/{PLAN}")
        if stored is None or not plan.exists() or plan.read_bytes() != self._store.read(stored.key):
            self._forget()  # what is here is of another time
        elif self._send_left(listed):
            listed = self._list()
        self._have(listed)

    def begun(self) -> None:
        key, listed = f"{PARTS}/{PLAN}", self._list()
        if key not in listed or self._store.read(key) != (self.path / key).read_bytes():
            self._remove(listed)  # of another plan, which is finished
            self._store.upload(self.path / key, key)

    def publish(self, result: ShardResult) -> None:
        self._collect([future for future in self._sent if future.done()])
        self._slots.acquire()
        self._sent.append(self._pool.submit(self._send_one, result.name, tuple(result.variants)))

    def drain(self) -> None:
        left = sum(not future.done() for future in self._sent)
        if left:
            self._console.live(f"sending the last {left} of the shards to {self._store.url}")
        self._collect(list(self._sent))

    def finish(self, variants: Iterable[str]) -> None:
        for variant in variants:
            for name in (*(f"{split}.index.npz" for split in SPLITS), REJECTED, CONVERTED, FILE_NAME):
                self.remote_lock.check()
                self._store.upload(self.path / variant / name, f"{variant}/{name}")

    def clear(self, parts: Parts) -> None:
        parts.clear()
        self._remove(self._list())

    def _list(self) -> dict[str, Stored]:
        """Return what is stored of variants and parts, without the leases, by key."""
        found = {}
        for folder in self._store.folders():
            if folder == PARTS or is_variant_name(folder):
                for stored in self._store.list(folder):
                    if folder != PARTS or "/" not in stored.key:
                        found[f"{folder}/{stored.key}"] = replace(stored, key=f"{folder}/{stored.key}")
        check_names(self._store.url, found.values())
        return found

    def _forget(self) -> None:
        self._known.clear()
        for entry in list(self.path.iterdir()):
            shutil.rmtree(entry, ignore_errors=True)

    def _have(self, listed: dict[str, Stored]) -> None:
        """Have here the small files that are stored, of the others their sizes, and nothing else."""
        with naming("write", self.path):
            for folder in {self.path / PARTS, *((self.path / key).parent for key in listed)}:
                folder.mkdir(parents=True, exist_ok=True)
        small = [stored for key, stored in listed.items() if _is_small(key) and self._known.get(key) != stored]
        for key, stored in listed.items():
            if not _is_small(key) and not is_there(self.path / key, stored):
                place_holes(self.path / key, stored)
        fetch_files(self._store, small, self.path, Console.silent())
        self._known = {key: stored for key, stored in listed.items() if _is_small(key)}
        for path in self.path.rglob("*"):
            if path.is_file() and str(path.relative_to(self.path)) not in listed:
                remove(path)

    def _send_left(self, listed: dict[str, Stored]) -> bool:
        """Send what a command that was interrupted had finished here and not sent; whether there was any."""
        left = [
            path
            for path in (self.path / PARTS).glob("*.json")
            if path.name != PLAN and f"{PARTS}/{path.name}" not in listed
        ]
        for path in left:
            variants = self._whole_variants(path)
            if variants:
                self._console.line(f"sending {path.stem}, which was finished before the interruption")
                self._send(path.stem, variants)
            else:
                remove(path)
        return bool(left)

    def _whole_variants(self, path: Path) -> list[str]:
        """Return the variants of the shard whose result lies at `path`; none unless its files here are those."""
        try:
            variants = json.loads(path.read_bytes())["variants"]
            infos = {name: from_plain(ShardInfo, info) for name, info in variants.items() if is_variant_name(name)}
            is_whole = all(file_crc(self.path / name / path.stem) == info.crc32c for name, info in infos.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return []
        return list(infos) if is_whole else []

    def _send_one(self, name: str, variants: Sequence[str]) -> None:
        try:
            self._send(name, variants)
        finally:
            self._slots.release()

    def _send(self, name: str, variants: Sequence[str]) -> None:
        """Send a shard's files; that it is finished comes last. Then its bytes here are given up."""
        said = f"{PARTS}/{name}.json"
        self._store.delete(said)  # of a shard that is written again: until its files agree
        for variant in variants:
            self._store.upload(self.path / variant / name, f"{variant}/{name}")
            rows = Parts(self.path, (), "").index_path(variant, name)
            self._store.upload(rows, f"{PARTS}/{rows.name}")
        self.remote_lock.check()
        self._store.upload(self.path / said, said)
        for variant in variants:
            path = self.path / variant / name
            place_holes(path, Stored(name, path.stat().st_size, 0, ""))

    def _collect(self, futures: list[Future[None]]) -> None:
        """Wait for shards that are sent. Raises StorageError, with the hint how to go on."""
        for future in futures:
            try:
                future.result()
            except StorageError as error:
                raise type(error)(error.what, f"{error.hint}; then {_GO_ON}" if error.hint else _GO_ON) from error
            self._sent.remove(future)

    def _remove(self, listed: Iterable[str]) -> None:
        """Remove what is listed of the parts, the plan last."""
        plan = f"{PARTS}/{PLAN}"
        with ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(self._store.delete, (key for key in listed if key.startswith(f"{PARTS}/") and key != plan)))
        self._store.delete(plan)


def _is_small(key: str) -> bool:
    """Tell whether a file is wanted whole: what is known of the parts, and of a variant but its shards and indexes."""
    return key.endswith((".json", ".jsonl")) or (key.startswith(f"{PARTS}/") and key.endswith(".npz"))
