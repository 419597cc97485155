"""Finds out which rank is missing where the others wait for it in vain.

While all is well nothing is sent. A rank that waits too long says so in the store over which the ranks found each
other; one that is stopped, or stuck in work of its own, cannot.
"""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]

from imagesprint.errors import HungRankError
from imagesprint.runs.environment import STORE_VARIABLE

RANK_TIMEOUT: Final = 300.0  # seconds; above what a slow disk, or the compiler before the first step, takes
_SAID_AFTER = 0.25  # of the timeout: ranks that come to the same wait later have said so when the first gives up
_LONGEST_SLICE = 1.0  # seconds between two looks at the clock
_STORE_SECONDS = 5.0  # for the store to answer


class RankWatch:
    """Counts the waits of one rank for the others, which are the same in number and order on every rank."""

    def __init__(self, rank: int = 0, world_size: int = 1, timeout: float = RANK_TIMEOUT) -> None:
        self._rank, self._world_size, self._timeout = rank, world_size, timeout
        self._waits = 0

    def wait(self, done: Callable[[float], bool]) -> None:
        """Call `done(seconds)`, which waits for at most that long, until it returns True.

        Raises HungRankError, which names the missing ranks, after the timeout.
        """
        self._waits += 1
        begun, said = time.monotonic(), False
        while not done(min(_LONGEST_SLICE, self._timeout / 10)):
            waited = time.monotonic() - begun
            if waited > _SAID_AFTER * self._timeout and not said:
                said = self._say()
            if waited > self._timeout:
                raise self._error()

    def _say(self) -> bool:
        try:
            _store(self._world_size).set(f"waiting/{self._rank}", str(self._waits))
        except RuntimeError:
            return False
        return True

    def _error(self) -> HungRankError:
        hint = "look at its machine (a stopped process, a stuck disk or GPU); run the same command again to resume"
        try:
            missing = self._missing(_store(self._world_size))
        except RuntimeError:
            keeper = os.environ.get("MASTER_ADDR", "rank 0")
            return HungRankError(f"no answer from {keeper}, where the ranks meet, for {self._timeout:g} s", hint)
        names = " and ".join(f"rank {rank}" for rank in missing) or "another rank, over the network,"
        return HungRankError(f"no sign of life from {names} for {self._timeout:g} s", hint)

    def _missing(self, store: Store) -> list[int]:
        """The ranks that do not say that they wait where this one does."""
        keys = {rank: f"waiting/{rank}" for rank in range(self._world_size)}
        return [
            rank for rank, key in keys.items() if not store.check([key]) or int(store.get(key).decode()) < self._waits
        ]


def _store(world_size: int) -> Store:
    """A connection of its own to the store of the process group, which may be in use by a thread that hangs."""
    path = os.environ.get(STORE_VARIABLE)
    if path:
        return FileStore(path, world_size)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=_STORE_SECONDS), wait_for_workers=False)
