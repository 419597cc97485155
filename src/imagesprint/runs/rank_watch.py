"""Finds out which rank is missing where the others wait for it in vain.

While all is well nothing is sent. A rank that waits too long says so in the store over which the ranks found each
other; one that is stopped, or stuck in work of its own, cannot.
"""

import os
import time
from collections.abc import Callable
from typing import Final

from torch.distributed import Store  # type: ignore[attr-defined]

from imagesprint.errors import HungRankError
from imagesprint.runs.environment import STORE_VARIABLE
from imagesprint.runs.signals import StopSignals
from imagesprint.runs.store import ask_store

RANK_TIMEOUT: Final = 300.0  # seconds; above what a slow disk, or the compiler before the first step, takes
_SAID_AFTER = 0.25  # of the timeout: ranks that come to the same wait later have said so when the first gives up
_LONGEST_SLICE = 1.0  # seconds between two looks at the clock
_AGREE_SECONDS: Final = 10.0  # for ranks that were told to stop to come to a step after which all do


class RankWatch:
    """Counts the waits of one rank for the others, which are the same in number and order on every rank."""

    def __init__(self, rank: int = 0, world_size: int = 1, timeout: float = RANK_TIMEOUT) -> None:
        self._rank, self._world_size, self._timeout = rank, world_size, timeout
        self._waits = 0
        self._signals: StopSignals | None = None

    def heed(self, signals: StopSignals | None) -> None:
        """From here on give up a wait ten seconds after a signal came; with None, do not any more."""
        self._signals = signals

    def wait(self, done: Callable[[float], bool]) -> None:
        """Call `done(seconds)`, which waits for at most that long, until it returns True.

        Raises HungRankError: after the timeout, naming the missing ranks, or soon after a signal that is heeded.
        """
        self._waits += 1
        begun, said = time.monotonic(), False
        while not done(min(_LONGEST_SLICE, self._timeout / 10)):
            now = time.monotonic()
            waited = now - begun
            if self._signals is not None and self._signals.number:
                self._check_agreement(now - max(begun, self._signals.noted_at))
            if waited > _SAID_AFTER * self._timeout and not said:
                said = self._say()
            if waited > self._timeout:
                raise self._error()

    def _check_agreement(self, waited: float) -> None:
        """Raise where the others do not come to a common step: who told this rank to stop will soon kill it."""
        if waited > _AGREE_SECONDS:
            raise HungRankError(
                f"told to stop, but no other rank agreed on a step within {_AGREE_SECONDS:g} s: nothing was saved",
                "run the same command again to resume from the last checkpoint",
            )

    def _say(self) -> bool:
        try:
            ask_store(self._world_size, lambda store: store.set(f"waiting/{self._rank}", str(self._waits)))
        except RuntimeError:
            return False
        return True

    def _error(self) -> HungRankError:
        hint = "look at its machine (a stopped process, a stuck disk or GPU); run the same command again to resume"
        try:
            missing = ask_store(self._world_size, self._missing)
        except RuntimeError:
            keeper = os.environ.get(STORE_VARIABLE) or os.environ.get("MASTER_ADDR", "rank 0")
            return HungRankError(f"no answer from {keeper}, where the ranks meet, for {self._timeout:g} s", hint)
        names = " and ".join(f"rank {rank}" for rank in missing) or "another rank, over the network,"
        return HungRankError(f"no sign of life from {names} for {self._timeout:g} s", hint)

    def _missing(self, store: Store) -> list[int]:
        """The ranks that do not say that they wait where this one does."""
        keys = {rank: f"waiting/{rank}" for rank in range(self._world_size)}
        return [
            rank for rank, key in keys.items() if not store.check([key]) or int(store.get(key).decode()) < self._waits
        ]
