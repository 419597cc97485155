"""How the ranks of one command find each other, wait for each other, and learn which of them is missing.

Rank 0 decides how many take part, the first so many do. The others wait, without working, until it says in the store
how they ended, or until torchrun's agent ends them because nodes came or went.

While all is well nothing is sent. A rank that waits too long says so in the store over which the ranks found each
other; one that is stopped, or stuck in work of its own, cannot.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final, TypeVar

from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]

from imagesprint.errors import HungRankError, ImagesprintError, LostRankError, RunError, StoppedError
from imagesprint.files import naming
from imagesprint.runs.environment import (
    STORE_VARIABLE,
    TMPDIR_HINT,
    StopSignals,
    exit_code,
    find_launch,
    keeps_store,
    met_mark,
)

Answer = TypeVar("Answer")

_ANSWER_SECONDS = 5.0


def open_store(rank: int, world_size: int, timeout: float) -> Store:
    """The store that all `world_size` ranks open: returns once they have. Raises RuntimeError or ValueError.

    Rank 0 keeps it, but for `--processes` (a file) and where torchrun's agent does.
    """
    path = os.environ.get(STORE_VARIABLE)
    if path:
        return _file_store(path, world_size)
    keeps, limit = rank == 0 and keeps_store(), timedelta(seconds=timeout)
    return TCPStore(*_address(), world_size, is_master=keeps, timeout=limit, multi_tenant=True)


def ask_store(world_size: int, question: Callable[[Store], Answer]) -> Answer:
    """What `question` makes of that store, over a connection of its own: the first may be used by a thread that hangs.

    Raises RuntimeError where there is no answer within five seconds.
    """
    answers: list[Answer] = []

    def ask() -> None:
        with suppress(RuntimeError):
            answers.append(question(_reopen_store(world_size)))

    # PyTorch has no limit for a store whose process is stopped: where that is, the thread is left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    if not answers:
        raise RuntimeError(f"the ranks' store has not answered for {_ANSWER_SECONDS:g} s")
    return answers[0]


def note_met(rank: int) -> None:
    """Let the launcher of `--processes` know that this rank met the others. Raises FileError."""
    path = os.environ.get(STORE_VARIABLE)
    if path:
        mark = met_mark(path, rank)
        with naming("write", mark, TMPDIR_HINT):
            mark.touch()


def _reopen_store(world_size: int) -> Store:
    path = os.environ.get(STORE_VARIABLE)
    if path:
        return _file_store(path, world_size)
    timeout = timedelta(seconds=_ANSWER_SECONDS)
    return TCPStore(*_address(), is_master=False, timeout=timeout, wait_for_workers=False)


def _file_store(path: str, world_size: int) -> Store:
    store = FileStore(path, world_size)
    # One reference more, so that it is never taken apart: it would write to its file once more, and where that fails
    # PyTorch aborts the process, without the file's name. The launcher removes the file.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(store))
    return store


def _address() -> tuple[str, int]:
    launch = find_launch()
    if launch is not None:
        return launch.address, launch.port
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is not set") from error


_SIZE: Final = "taking part"  # keys in the store
_ENDED: Final = "ended"
_HEARD: Final = "heard/"
_POLL_SECONDS = 1.0  # between two looks into the store
_SILENCE_SECONDS = 10.0  # after which it counts as gone, as for ranks that cannot agree on a step
_HEARD_SECONDS = 10.0  # for those that stand by to look; rank 0 may keep the store


def agree_on_size(store: Store, rank: int, started: int, fitting: Callable[[int], int]) -> int:
    """How many of the `started` ranks that opened `store` take part: on every rank what rank 0 finds `fitting`."""
    if rank == 0:
        store.set(_SIZE, str(fitting(started)))
    return int(store.get(_SIZE))


@contextmanager
def end_told(store: Store, standing_by: range) -> Iterator[None]:
    """Tell the ranks `standing_by` the exit code with which what is done meanwhile ends; on rank 0."""
    code = 1
    try:
        yield
        code = 0
    except ImagesprintError as error:
        code = error.exit_code
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    finally:
        with suppress(RuntimeError):  # they are gone, or will find out that this rank is
            store.set(_ENDED, str(code))
            store.wait([f"{_HEARD}{rank}" for rank in standing_by], timedelta(seconds=_HEARD_SECONDS))


def await_end(rank: int, started: int) -> None:
    """On a rank that stands by: returns once the others have ended well.

    Raises StoppedError where they, or this rank, were stopped by a signal; RunError with their exit code where they
    failed; LostRankError where nothing is heard of them any more.
    """
    answered = time.monotonic()
    with StopSignals() as signals:
        while not signals.number:
            with suppress(RuntimeError):
                code = ask_store(started, lambda store: _look(store, rank))
                if code is not None:
                    return _end_likewise(code)
                answered = time.monotonic()
            if time.monotonic() - answered > _SILENCE_SECONDS:
                raise LostRankError(
                    f"rank {rank} stood by and lost contact with rank 0", "run the same command again to resume"
                )
            time.sleep(_POLL_SECONDS)
    return _end_likewise(exit_code(signals.number))


def _look(store: Store, rank: int) -> int | None:
    """The exit code of the others, whom it tells that this rank has heard it; None while they are at work."""
    if not store.check([_ENDED]):
        return None
    code = int(store.get(_ENDED))
    store.set(f"{_HEARD}{rank}", "")
    return code


def _end_likewise(code: int) -> None:
    if code == 0:
        return
    kind = StoppedError if code > 128 else RunError
    error = kind(f"the other ranks ended with exit code {code}", "the message of rank 0 says why")
    error.exit_code = code
    raise error


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
                told = now - max(begun, self._signals.noted_at)
                if told > _AGREE_SECONDS:  # who told this rank to stop will soon kill it
                    raise HungRankError(
                        f"told to stop, but no other rank agreed on a step within {_AGREE_SECONDS:g} s: nothing was "
                        "saved",
                        "run the same command again to resume from the last checkpoint",
                    )
            if waited > _SAID_AFTER * self._timeout and not said:
                said = self._say()
            if waited > self._timeout:
                raise self._error()

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
