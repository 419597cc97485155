"""The lock of a ROOT in a store: what `parts.Lock` is on a disk, made of leases below .parts.

`lease-begin` is held by whoever begins, or joins the parts. `lease-A-B` is held by whoever works at train shards A up
to B and the validation shards that belong to them; it is only taken while `lease-begin` is held, so that of two parts
that touch one is refused. To join, a process takes `lease-begin` and waits until no part is held.
"""

import re
from typing import Final

from imagesprint.console import Console
from imagesprint.errors import HeldError, UsageError
from imagesprint.records.dataset import PARTS
from imagesprint.storage.lease import Lease, await_free, forget_lease, take_lease
from imagesprint.storage.store import Store

_BEGINNING: Final = f"{PARTS}/lease-begin"
_PART: Final = re.compile(r"lease-(\d+)-(\d+)")


class RemoteLock:
    """The lock of the ROOT that is `store`. Every method raises StorageError where the store does not let it."""

    def __init__(self, store: Store, console: Console) -> None:
        self._store, self._console = store, console
        self._beginning: Lease | None = None
        self._part: Lease | None = None

    def take_beginning(self, console: Console) -> None:
        """Keep others from beginning; wait while one begins, or joins what is there."""
        self._beginning = take_lease(self._store, _BEGINNING, console, patient=True)

    def take_part(self, first: int, end: int) -> None:
        """Lock train shards `first` up to `end`. Raises UsageError if another process works at any of them."""
        if first >= end:
            return
        try:
            for key, begins, ends in self._parts():
                if begins < end and first < ends:
                    await_free(self._store, key, self._console)
                    forget_lease(self._store, key)
            self._part = take_lease(self._store, f"{PARTS}/lease-{first}-{end}", self._console)
        except HeldError as error:
            raise UsageError(f"{error.what}, at some of train shards {first}:{end}", error.hint) from error

    def take_all(self) -> None:
        """Lock all of ROOT; wait until nobody else is at work in it."""
        self.take_beginning(self._console)
        for key, _, _ in self._parts():
            await_free(self._store, key, self._console, patient=True)
            forget_lease(self._store, key)

    def check(self) -> None:
        """Raise LostLeaseError if another process has taken over what this one works at."""
        for lease in (self._beginning, self._part):
            if lease is not None:
                lease.check()

    def release_beginning(self) -> None:
        """Let others begin."""
        if self._beginning is not None:
            self._beginning.release()
            self._beginning = None

    def release_all(self) -> None:
        """Let go of everything."""
        self.release_beginning()
        if self._part is not None:
            self._part.release()
            self._part = None

    def _parts(self) -> list[tuple[str, int, int]]:
        """Return the leases of parts: their keys, and the train shards from which and up to which each goes."""
        found = [(name, _PART.fullmatch(name)) for name in self._store.folders(PARTS)]
        return [(f"{PARTS}/{name}", int(match[1]), int(match[2])) for name, match in found if match]
