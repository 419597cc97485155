"""Who works at a place in a store, where no file system keeps locks: one holder at a time, known by host and process.

A lease is a folder of small files, `KEY/00000001` and so on, each made by create-if-absent, so that of two who want it
one gets it; that with the highest number is the one that holds. Its holder writes it anew every RENEWED_EVERY seconds.
One that was not for STALE_AFTER seconds is stale, and whoever makes the next number takes it over. So is, at once, one
of a process of this machine that is gone: after kill -9 the same command goes on without waiting.

Ages are by the store's clock, which is asked, and not by those of two machines. A holder that the store does not answer
for a while keeps its lease, unless another took it over; then `check` says so. Between two renewals both may believe
that they hold: what must not be written twice is written whole, and is the same whoever writes it.
"""

import json
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from imagesprint.console import Console
from imagesprint.errors import HeldError, LostLeaseError, StorageError
from imagesprint.storage.store import Store

RENEWED_EVERY: Final = 20.0  # seconds
STALE_AFTER: Final = 120.0  # seconds: several renewals may fail, or be slow, before anybody takes it over
_LOOK: Final = 2.0  # seconds between two looks at another's lease
_END: Final = 10.0  # seconds that a release takes at the most

_held: Final[set[str]] = set()  # by this process


@dataclass(frozen=True)
class Holder:
    """A process: `machine` tells one start of one machine, and one container's processes, from others; `started` one
    use of a process id from the next, in ticks since the machine's start; `since` is in seconds since 1970.
    """

    host: str
    process: int
    machine: str
    started: int
    since: float

    @classmethod
    def own(cls) -> "Holder":
        """This process."""
        process = os.getpid()
        return cls(socket.gethostname(), process, _machine(), _started(process) or 0, time.time())

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine that can be seen from here."""
        return self.machine == _machine() != ""

    @property
    def is_gone(self) -> bool:
        """Whether it was such a process, and has ended; of others that cannot be known."""
        return self.is_here and _started(self.process) != self.started and not _is_hidden(self.process)

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"process {self.process} on {self.host}, since {since}"


@dataclass(frozen=True)
class Standing:
    """A lease as it stands in the store: its number, what it says, and when it was written by the store's clock."""

    number: int
    content: bytes
    modified: float

    @property
    def holder(self) -> Holder:
        """Whose it is; somebody unknown where it cannot be read."""
        try:
            said = json.loads(self.content)["holder"]
            host, machine = str(said["host"]), str(said["machine"])
            return Holder(host, int(said["process"]), machine, int(said["started"]), float(said["since"]))
        except (ValueError, KeyError, TypeError, OverflowError):
            return Holder("a host that it does not name", 0, "", 0, self.modified)

    @property
    def is_gone(self) -> bool:
        """Whether its holder has ended, or is this process, which let go when the store did not answer."""
        holder = self.holder
        is_own = holder.is_here and holder.process == os.getpid() and self.owner not in _held
        return is_own or holder.is_gone

    @property
    def owner(self) -> str:
        """What tells this taking of the lease from any other."""
        try:
            return str(json.loads(self.content)["id"])
        except (ValueError, KeyError, TypeError):
            return ""


class Lease:
    """A lease that this process holds, renewed by a thread. Use `take_lease` or `lease`."""

    def __init__(self, store: Store, key: str, number: int) -> None:
        self._store, self._folder, self._number = store, key, number
        self._holder, self._id, self._renewals = Holder.own(), uuid4().hex, 0
        self._taken_by: Holder | None = None
        self._renewed = _now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def check(self) -> None:
        """Raise LostLeaseError if another has taken the lease over; StorageError where that cannot be found out."""
        if self._taken_by is None and _now() - self._renewed > STALE_AFTER:
            self._renew()
        if self._taken_by is not None:
            raise LostLeaseError(
                f"{self._store.url} was taken over by {self._taken_by}: this process was not heard of for "
                f"{STALE_AFTER:.0f} s",
                "let that one go on; if it has ended, give the same command again",
            )

    def release(self) -> None:
        """Let go, within _END seconds. Where the store does not answer in time, the lease becomes stale by itself."""
        self._ended.set()
        _held.discard(self._id)
        letting_go = threading.Thread(target=self._let_go, name="lease", daemon=True)
        letting_go.start()
        letting_go.join(_END)

    def _begin(self) -> bool:
        """Make the file; whether that went."""
        _held.add(self._id)
        content = self._content()
        if self._store.create(self._key, content):
            return True
        return _read(self._store, self._key) == content  # the answer to a first try was lost

    def _start(self) -> None:
        self._thread.start()

    @property
    def _key(self) -> str:
        return f"{self._folder}/{self._number:08d}"

    def _content(self) -> bytes:
        return json.dumps({"holder": asdict(self._holder), "id": self._id, "renewals": self._renewals}).encode()

    def _is_mine(self) -> bool:
        newest = _newest(self._store, self._folder)
        return newest is not None and newest.owner == self._id

    def _let_go(self) -> None:
        self._thread.join()  # a renewal that came later would bring it back
        with suppress(StorageError):
            if self._taken_by is None and self._is_mine():
                self._store.delete(self._key)

    def _keep(self) -> None:
        while self._taken_by is None and not self._ended.wait(RENEWED_EVERY):
            with suppress(StorageError):  # the next time it may go, and `check` knows how long it has not
                self._renew()

    def _renew(self) -> None:
        newest = _newest(self._store, self._folder)
        if newest is not None and newest.owner != self._id:
            self._ended.wait(_LOOK)  # who takes over looks twice, and may give way
            newest = _newest(self._store, self._folder)
        if newest is not None and newest.owner != self._id:
            self._taken_by = newest.holder
            return
        self._renewals += 1
        if newest is not None:
            self._store.write(self._key, self._content())
        elif not self._begin():  # somebody has removed it by hand, and another was as quick
            return
        self._renewed = _now()


@contextmanager
def lease(store: Store, key: str, console: Console, patient: bool = False) -> Iterator[Lease]:
    """Hold the lease at the folder `key` of a store for the time of the block. See `take_lease`."""
    held = take_lease(store, key, console, patient)
    try:
        yield held
    finally:
        held.release()


def take_lease(store: Store, key: str, console: Console, patient: bool = False) -> Lease:
    """Take the lease at the folder `key` of a store; waits, and says so, where its holder may be gone.

    A `patient` caller waits for a living holder to let go; another gets HeldError, which names it, within RENEWED_EVERY
    seconds or so. Raises StorageError where the store does not let it.
    """
    while True:
        stale = await_free(store, key, console, patient)
        taken = Lease(store, key, stale.number + 1 if stale else 1)
        if taken._begin():
            # Another may have come before, or the holder come back, since it was looked at.
            before = _read(store, f"{key}/{stale.number:08d}") if stale else None
            if taken._is_mine() and (stale is None or before in (None, stale.content)):
                _remove(store, key, taken._number)
                taken._start()
                return taken
            store.delete(taken._key)
        _held.discard(taken._id)
        time.sleep(random.uniform(0, _LOOK))


def await_free(store: Store, key: str, console: Console, patient: bool = False) -> Standing | None:
    """Wait until nobody holds the lease at the folder `key`; the stale one that stands there, None for none.

    Raises what `take_lease` does.
    """
    seen = _newest(store, key)
    if seen is None or seen.is_gone:
        return seen
    end = _now() + STALE_AFTER - _age(store, key, seen)
    is_said = False
    while _now() < end:
        if seen.holder.is_here and not patient:
            raise _refusal(store, seen.holder)
        if not is_said:
            more = "" if seen.holder.is_here else f"; if it is gone, {max(1, end - _now()):.0f} s at most"
            console.line(f"waiting for {seen.holder}, which is at work at {store.url}{more}")
            is_said = True
        time.sleep(_LOOK)
        found = _newest(store, key)
        if found is None or found.is_gone:
            return found
        if found.content != seen.content:
            if not patient:
                raise _refusal(store, found.holder)
            seen, end = found, _now() + STALE_AFTER
    return seen


def forget_lease(store: Store, key: str) -> None:
    """Remove a lease that `await_free` has found stale, from below a place that is held by another lease."""
    _remove(store, key, None)


def _refusal(store: Store, holder: Holder) -> HeldError:
    return HeldError(
        f"another imagesprint is at work at {store.url}: {holder}",
        f"wait for it, or stop it; where it has been killed, give the same command again {STALE_AFTER:.0f} s later",
    )


def _newest(store: Store, key: str) -> Standing | None:
    """Return the lease that holds, None where there is none."""
    while True:
        found = [stored for stored in store.list(key) if stored.key.isdecimal()]
        if not found:
            return None
        last = max(found, key=lambda stored: int(stored.key))
        content = _read(store, f"{key}/{last.key}")
        if content is not None:
            return Standing(int(last.key), content, last.modified)


def _read(store: Store, key: str) -> bytes | None:
    """Return a file's bytes, None where there is none."""
    try:
        return store.read(key)
    except StorageError:
        if store.stat(key) is None:
            return None
        raise


def _remove(store: Store, key: str, before: int | None) -> None:
    """Remove the leases of lower numbers than `before`, which count no more, or all."""
    for stored in list(store.list(key)):
        if stored.key.isdecimal() and (before is None or int(stored.key) < before):
            store.delete(f"{key}/{stored.key}")


def _age(store: Store, key: str, standing: Standing) -> float:
    """Return how many seconds ago a lease was written, by the store's clock; 0 where it has none."""
    probe = f"{key}/clock-{uuid4().hex}"
    store.write(probe, b"")
    try:
        now = store.stat(probe)
    finally:
        store.delete(probe)
    return max(0.0, now.modified - standing.modified) if now and now.modified and standing.modified else 0.0


def _now() -> float:
    """Return seconds that also pass while a machine sleeps, or this process is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _machine() -> str:
    """Return what tells this start of this machine, and this container's processes, from others; "" if unknown."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(process: int) -> int | None:
    """Return when a process was started, in ticks since the machine's start; None if it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # killed, and not yet waited for


def find_lease(store: Store, key: str) -> Standing | None:
    """Return the lease that stands at the folder `key` of a store, stale or not; None for none."""
    return _newest(store, key)


def _is_hidden(process: int) -> bool:
    """Whether a process is another user's, of whom /proc may tell nothing."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return False
